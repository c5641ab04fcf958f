"""Files of weights: what a file really is, whether it is whole, and reading it without running it.

Ours are `torch.save` zip files with one addition, the zip's comment: `ptkit crc32 XXXXXXXX`, the
CRC of the file before the comment was added. The CRCs of the records leave out headers and padding;
with it one flipped bit anywhere is found.
"""

import json
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ptkit.core.errors import CheckpointError
from ptkit.core.files import write_atomically
from ptkit.core.models.pickles import foreign_globals
from ptkit.core.wording import reason_of

_COMMENT = b"ptkit crc32 %08x"
_COMMENT_LENGTH = len(_COMMENT % 0)
_ZIP_END, _ZIP_END_LENGTH = b"PK\5\6", 22
_CHUNK = 1 << 20
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# torch wraps its reason in advice to load without weights_only.
_WHY = re.compile(r"WeightsUnpickler error:\s*([^\n]{1,100})")
_ADVICE = 'where it was made, save the weights alone: torch.save(model.state_dict(), "weights.pt")'
# How files that are no weights begin; the order counts.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
    ),
    (
        rb"(?i)\s*<(!doctype|html|head|\?xml|!--)",
        "a web page, not weights: the download gave an HTML page",
    ),
    (rb"\0+\Z", "zeros from its beginning: the download or copy was cut short; fetch it again"),
    (rb"\x89HDF", "an HDF5 (Keras) file; only PyTorch and .safetensors files are read"),
    (rb"\x93NUMPY", "a NumPy array; only PyTorch and .safetensors files are read"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc", "a compressed archive: unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|BM", "an image, not weights"),
    (rb"GGUF", "a GGUF file; only PyTorch and .safetensors files are read"),
)


def read_weight_file(path: Path) -> Any:
    """Return what a file of torch.save (zip or legacy) or a .safetensors file holds, with tensors
    on the CPU.

    Raises:
        CheckpointError: no such file, not weights, damaged, or it asks for code; nothing of it was
            run.
    """
    head, num_bytes = _head(path)
    if head.startswith(b"PK\3\4"):
        _check_zip(path)
        return _loaded(path, is_whole=True)
    # A length, and a JSON header of that length.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= num_bytes - 8:
        return _read_safetensors(path)
    if _LEGACY_MAGIC not in head[:32]:
        raise CheckpointError(f"{path} is {_stranger(path, head)}")
    return _loaded(path, is_whole=False)


def write_weight_file(path: Path, contents: Mapping[str, Any]) -> None:
    """Save plain containers and tensors so that a reader never sees half a file, and read them back
    before the rename.

    Tuples become lists; tensors become plain, contiguous storage on the CPU.

    Raises:
        StorageError: the disk refused, or gave back other bytes; what was at `path` is as it was.
        TypeError: contents hold something that weights-only loading would refuse.
    """
    write_atomically(path, _writer(plain(contents)), check=_check_written)


def plain(value: Any, where: str = "checkpoint") -> Any:
    """Return `value` as dict, list, str, int, float, bool, None and plain CPU tensors, or say what
    cannot be so.

    Raises:
        TypeError: something else is in it, such as a Path; the message says where.
    """
    match value:
        case torch.Tensor():
            tensor = value.detach().cpu()
            # A view would be saved with the whole storage it looks into.
            return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        case Mapping():
            return _plain_dict(value, where)
        case list() | tuple():
            return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int() | float():
            # numpy.float64 is a float, and weights-only loading refuses it.
            return int(value) if isinstance(value, int) else float(value)
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds plain containers, numbers and"
        " tensors only"
    )


def _plain_dict(value: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (str, int):
            found = f"{key!r} ({type(key).__name__})"
            raise TypeError(f"{where} has the key {found}; only str and int can be saved")
    items = {key: plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if not hasattr(value, "_metadata"):
        return items
    # The versions of a state dict's layers: torchvision's MNASNet does not load without them.
    state_dict = OrderedDict(items)
    state_dict._metadata = plain(value._metadata, f"{where}._metadata")  # type: ignore[attr-defined]
    return state_dict


def _writer(contents: Any) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        summing = _SummingFile(file)
        try:
            torch.save(contents, summing)  # type: ignore[arg-type]
        except RuntimeError:
            # torch turns a full disk into an error of its own about an unexpected position.
            if summing.error is not None:
                raise summing.error from None
            raise
        comment = _COMMENT % summing.crc
        # The end record's last two bytes are the length of the comment.
        file.seek(-2, 2)
        file.write(struct.pack("<H", len(comment)) + comment)

    return write


class _SummingFile:
    """Passes bytes on to a file, and knows their CRC and the first error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _check_written(path: Path) -> None:
    try:
        _check_zip(path)
    except CheckpointError as error:
        raise OSError(f"the disk gave back other bytes ({error})") from error


def _head(path: Path) -> tuple[bytes, int]:
    """Return the first bytes and the size of a regular file."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise CheckpointError(
                f"{path} is a folder without a checkpoint: expected ckpt.pkl in it, or a file"
            )
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link to {path.readlink()}, which is not there any more"
            ) from None
        raise CheckpointError(
            f"no file {path}: expected a checkpoint, a run folder or a file of weights"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    return head, status.st_size


def _stranger(path: Path, head: bytes) -> str:
    """Say what a file is that holds no weights."""
    if not head:
        return "empty (0 bytes): the download or copy failed; fetch it again"
    for pattern, description in _STRANGERS:
        if re.match(pattern, head):
            return description
    if re.match(rb"\x80[\2-\5]", head):
        return (
            f"a Python pickle that torch.save did not write{_asks(path)}; nothing was run:"
            f" {_ADVICE}"
        )
    return (
        f"not a file of weights (it begins with {head[:8]!r}); PyTorch and .safetensors files are"
        " read"
    )


def _check_zip(path: Path) -> None:
    """Check every byte of a zip file of ours, every record of another's.

    Raises:
        CheckpointError: damaged, or not written by torch.save.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, 2)
        file.seek(-min(num_bytes, _ZIP_END_LENGTH + _COMMENT_LENGTH), 2)
        tail = file.read()
    if tail[-_ZIP_END_LENGTH:].startswith(_ZIP_END) and tail.endswith(b"\0\0"):
        _check_records(path)
        return
    end, comment = tail[:_ZIP_END_LENGTH], tail[_ZIP_END_LENGTH:]
    says_length = end.startswith(_ZIP_END) and end.endswith(struct.pack("<H", _COMMENT_LENGTH))
    if not says_length or not re.fullmatch(rb"ptkit crc32 [0-9a-f]{8}", comment):
        raise CheckpointError(
            f"{path} is damaged: it does not end as it should; it was cut off, copy it again"
        )
    if comment != _COMMENT % _crc_without_comment(path):
        raise CheckpointError(
            f"{path} is damaged: its bytes are not those that were written (CRC); copy it again"
        )


def _crc_without_comment(path: Path) -> int:
    """Return the CRC of a file of ours as it was before the comment and its length were put in."""
    crc, left = 0, path.stat().st_size - _COMMENT_LENGTH - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return zlib.crc32(b"\0\0", crc)


def _check_records(path: Path) -> None:
    """Check the CRC of every record, which torch.load does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.rpartition("/")[2] for entry in entries]
            is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            broken = None if is_packed else archive.testzip()
    except Exception as error:
        # On damaged files zipfile lets struct.error, NotImplementedError and others through.
        raise CheckpointError(f"{path} is damaged: {reason_of(error)}") from error
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program; nothing was run: {_ADVICE}"
        )
    if "data.pkl" not in names or is_packed:
        raise CheckpointError(
            f"{path} is a zip archive that torch.save did not write: unpack it first"
        )
    if broken is not None:
        raise CheckpointError(
            f"{path} is damaged: the record {broken} does not match its CRC; copy it again"
        )


def _loaded(path: Path, *, is_whole: bool) -> Any:
    """Load with weights_only=True; is_whole: a CRC has shown that the file is not damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        # A damaged or hostile pickle may raise anything; torch's text advises against safety.
        if asks := _asks(path):
            is_model = "torch.nn.modules." in asks
            kind = "a whole pickled model" if is_model else "a pickle with more than weights"
            raise CheckpointError(f"{path} is {kind}{asks}; nothing was run: {_ADVICE}") from error
        reason, cause = _WHY.search(str(error)), "it is damaged"
        if is_whole:
            cause = "it is not what torch.save writes by default; save it again"
        what = reason[1] if reason else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights ({what}): {cause}") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    # All of it at once, not mapped: a mapped file that another program cuts off ends this one.
    data = path.read_bytes()
    try:
        found = load(data)
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing: ")
        raise CheckpointError(f"{path} is a damaged .safetensors file: {reason}") from error
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds numbers of the type {error.args[0]}, which torch cannot read from"
            " .safetensors"
        ) from error
    # The package gives them in no order; the header has the model's.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: found[name] for name in header if name in found}


def _asks(path: Path) -> str:
    """Return ` (it asks for X, Y)` with the foreign functions and classes that a file names, or
    nothing.
    """
    names = foreign_globals(path)
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" (it asks for {', '.join(names[:5])}{more})"
