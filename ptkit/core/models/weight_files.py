"""Reading files of weights: what a file really is, whether it is whole, and what code it asks for,
without running it.

Ours are `torch.save` zip files with one addition, the zip's comment: `ptkit crc32 XXXXXXXX`, the
CRC of the file before the comment was added. The CRCs of the records leave out headers and padding;
with it one flipped bit anywhere is found.
"""

import io
import json
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ptkit.core.errors import CheckpointError
from ptkit.core.models.first_bytes import first_bytes, known_stranger
from ptkit.core.models.pickle_costs import fault_of_pickle
from ptkit.core.models.plain_contents import fault_of, overlap_in
from ptkit.core.wording import reason_of

COMMENT = b"ptkit crc32 %08x"
_COMMENT_LENGTH = len(COMMENT % 0)
_ZIP_END, _ZIP_END_LENGTH = b"PK\5\6", 22
# The end of a zip64 file, as torch writes it: signature, length, records, size and place of their
# list; then the locator, with the place of this end.
_ZIP64, _LOCATOR_LENGTH = struct.Struct("<4sQ20x3Q8xQ4x"), 20
_PICKLE = "data.pkl"
_CHUNK = 1 << 20
# As the safetensors package has it.
_LONGEST_HEADER = 100_000_000
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# torch wraps its reason in advice to load without weights_only.
_WHY = re.compile(r"WeightsUnpickler error:\s*([^\n]{1,100})")
_ADVICE = 'where it was made, save the weights alone: torch.save(model.state_dict(), "weights.pt")'
# What weights-only loading rebuilds tensors and plain containers from.
_HARMLESS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.(\w+\.)?\w*Storage|"
    r"torch\.Size|torch\.device|"
    r"torch\.(float|double|half|bfloat|int|uint|long|short|bool|complex)\w*|"
    r"collections\.(OrderedDict|Counter)|"
    r"torch\.nn\.parameter\.\w+|torch\.serialization\._get_layout|_codecs\.encode|(builtins|__builtin__)\.set"
)
# torch's files from before version 1.6 hold five pickles in a row, then the bytes of the tensors.
_NUM_LEGACY_PICKLES = 5


def read_weight_file(path: Path) -> Any:
    """Return what a file of torch.save (zip or legacy) or a .safetensors file holds, with tensors
    on the CPU.

    Raises:
        CheckpointError: no such file, not weights, damaged, or it asks for code; nothing of it was
            run.
    """
    head = first_bytes(path)
    if head.startswith(b"PK\3\4"):
        check_zip(path)
        check_pickles(path)
        return _plain(path, _loaded(path, is_whole=True))
    # A length, and a JSON header of that length; text would be a length beyond all files.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER:
        return _read_safetensors(path)
    if LEGACY_MAGIC not in head[:32]:
        raise CheckpointError(f"{path} is {_stranger(path, head)}")
    check_pickles(path)
    return _plain(path, _loaded(path, is_whole=False))


def _plain(path: Path, contents: Any) -> Any:
    if fault := fault_of(contents, num_bytes=path.stat().st_size):
        raise CheckpointError(f"{path} cannot be used: {fault.removeprefix('.')}")
    return contents


def _stranger(path: Path, head: bytes) -> str:
    """Say what a file is that holds no weights, by its first bytes."""
    if known := known_stranger(head):
        return known
    if re.match(rb"\x80[\2-\5]", head):
        return (
            f"a Python pickle that torch.save did not write{_asks(path)}; nothing was run:"
            f" {_ADVICE}"
        )
    return (
        f"not a file of weights (it begins with {head[:8]!r}); PyTorch and .safetensors files are"
        " read"
    )


def check_zip(path: Path) -> None:
    """Check every byte of a zip file of ours, every record of another's.

    Raises:
        CheckpointError: damaged, or not written by torch.save, which never compresses: a few bytes
            may become a terabyte.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, 2)
        file.seek(-min(num_bytes, _ZIP_END_LENGTH + _COMMENT_LENGTH), 2)
        tail = file.read()
    if tail[-_ZIP_END_LENGTH:].startswith(_ZIP_END) and tail.endswith(b"\0\0"):
        _check_records(path, has_crc=False)
        return
    end, comment = tail[:_ZIP_END_LENGTH], tail[_ZIP_END_LENGTH:]
    says_length = end.startswith(_ZIP_END) and end.endswith(struct.pack("<H", _COMMENT_LENGTH))
    if not says_length or not re.fullmatch(rb"ptkit crc32 [0-9a-f]{8}", comment):
        raise CheckpointError(
            f"{path} is damaged: it does not end as it should; it was cut off, copy it again"
        )
    if comment != COMMENT % _crc_without_comment(path):
        raise CheckpointError(
            f"{path} is damaged: its bytes are not those that were written (CRC); copy it again"
        )
    # Anyone can compute that CRC.
    _check_records(path, has_crc=True)


def _crc_without_comment(path: Path) -> int:
    """Return the CRC of a file of ours as it was before the comment and its length were put in."""
    crc, left = 0, path.stat().st_size - _COMMENT_LENGTH - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return zlib.crc32(b"\0\0", crc)


def _check_records(path: Path, *, has_crc: bool) -> None:
    """Check what records are there, and without a CRC of the file the CRC of each, which torch.load
    does not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            fault = _fault_of_records(entries, num_bytes=path.stat().st_size)
            if fault is None and not _is_as_torch_sees_it(path, archive, has_crc=has_crc):
                fault = "damaged: its list of records is not where its end says"
            broken = archive.testzip() if fault is None and not has_crc else None
    except Exception as error:
        # On damaged files zipfile lets struct.error, NotImplementedError and others through.
        raise CheckpointError(f"{path} is damaged: {reason_of(error)}") from error
    if fault is not None:
        raise CheckpointError(f"{path} is {fault}")
    if broken is not None:
        raise CheckpointError(
            f"{path} is damaged: the record {broken} does not match its CRC; copy it again"
        )


def _fault_of_records(entries: Sequence[zipfile.ZipInfo], *, num_bytes: int) -> str | None:
    """Say what a zip file is if not one of torch.save, by the list of its records."""
    # torch looks for records below the folder of the first one, whatever their case.
    names = [entry.filename.casefold() for entry in entries]
    bases = [name.rpartition("/")[2] for name in names]
    if "ptkit.json" in bases:
        return "a model that `ptkit export` wrote for other programs: use the checkpoint it is of"
    if "constants.pkl" in bases:
        return f"a TorchScript archive, a program; nothing was run: {_ADVICE}"
    if not names or f"{names[0].partition('/')[0]}/{_PICKLE}" not in names:
        return "a zip archive that torch.save did not write: unpack it first"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "a zip archive with compressed records, which torch.save never writes"
    # Records that lie over one another, or say that they are longer than they are.
    if sum(entry.file_size for entry in entries) > num_bytes:
        return "damaged: its records claim more bytes than it has"
    # Of two, readers differ in which they take; zipfile changes some names.
    is_odd = any(entry.filename != entry.orig_filename for entry in entries)
    if is_odd or len(set(names)) < len(names) or bases.count(_PICKLE) > 1:
        return "damaged: it has records of the same name"
    return None


def _is_as_torch_sees_it(path: Path, archive: zipfile.ZipFile, *, has_crc: bool) -> bool:
    """Say whether the list of records that zipfile has found is the one that torch reads.

    zipfile takes what lies before the end for the list, torch what is where the end says.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2) - _ZIP_END_LENGTH - (_COMMENT_LENGTH if has_crc else 0)
        file.seek(max(end - _ZIP64.size, 0))
        before, tail = file.read(min(end, _ZIP64.size)), file.read(_ZIP_END_LENGTH)
    count, size, offset = struct.unpack_from("<H2L", tail, 10)
    if before[-_LOCATOR_LENGTH:].startswith(b"PK\6\7"):
        end -= _ZIP64.size
        if end < 0:
            return False
        kind, length, count, size, offset, place = _ZIP64.unpack(before)
        if (kind, length, place) != (b"PK\6\6", 44, end):
            return False
    is_there: bool = offset + size == end and archive.start_dir == offset
    return is_there and len(archive.infolist()) == count


def check_pickles(path: Path) -> None:
    """Refuse a file of torch.save whose pickles would take for ever to read.

    Raises:
        CheckpointError: it is such a file.
    """
    for file in _pickles(path):
        if fault := fault_of_pickle(file):
            raise CheckpointError(f"{path} cannot be read as weights: {fault}; nothing was run")


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
            raise CheckpointError(
                f"{path} is {kind}{asks}; nothing was run: `ptkit convert {path}` takes the tensors"
                f" out; or {_ADVICE}"
            ) from error
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
    if name := overlap_in(data):
        raise CheckpointError(
            f"{path} is a damaged .safetensors file: the numbers of {name[:80]} are those of others"
            " too; fetch it again"
        )
    try:
        found = load(data)
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing: ")
        raise CheckpointError(
            f"{path} is a damaged .safetensors file: {reason}; fetch it again"
        ) from error
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds numbers of the type {error.args[0]}, which torch cannot read from"
            " .safetensors"
        ) from error
    # The package gives them in no order; the header has that of the file, often by name.
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


def foreign_globals(path: Path) -> list[str]:
    """Return the functions and classes beyond tensors and containers that a file names.

    path: a pickle or a file of torch.save. Nothing is imported or run. Names after a damaged place
    are not found.
    """
    found: list[str] = []
    with suppress(CheckpointError):
        for file in _pickles(path):
            _collect(file, found)
    return [name for name in dict.fromkeys(found) if not _HARMLESS.fullmatch(name)]


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for each pickle of torch.save, at its beginning; the next begins where the last
    was left.

    Raises:
        CheckpointError: a damaged zip file.
    """
    with path.open("rb") as file:
        # As torch decides: what lies at the end of the file does not count.
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        if is_zip:
            yield from map(io.BytesIO, _zipped_pickles(path, file))
        else:
            for _ in range(_NUM_LEGACY_PICKLES):
                yield file


def _zipped_pickles(path: Path, file: BinaryIO) -> list[bytes]:
    """Return the pickles of torch.save in a zip file."""
    try:
        with zipfile.ZipFile(file) as archive:
            # Of two of one name, readers differ in which they take.
            return [
                archive.read(entry)
                for entry in archive.infolist()
                if entry.compress_type == zipfile.ZIP_STORED
                and entry.filename.rpartition("/")[2].casefold() == _PICKLE
            ]
    except Exception as error:
        # On damaged files zipfile lets struct.error, NotImplementedError and others through.
        raise CheckpointError(f"{path} is damaged: {reason_of(error)}") from error


def _collect(file: BinaryIO, found: list[str]) -> None:
    """Append the `module.name` of every global of the next pickle in `file`."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                # Only strings are kept: only the two before STACK_GLOBAL matter.
                place = len(memo) if argument is None else int(argument)
                memo[place] = strings[-1] if strings else ""
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                strings.append(memo.get(int(argument or 0), ""))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:
        # A damaged pickle may break the reader anywhere; the names before that are reported.
        return
