"""ptkit checkpoints: saving, reading with every key checked, and rebuilding the model inside."""

import os
import secrets
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ptkit import __version__
from ptkit.core.device import begin_copy
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.files import write_atomically
from ptkit.core.models.checkpoint_schema import (
    fault_of_call,
    fault_of_keys,
    fault_of_values,
)
from ptkit.core.models.fitting import with_stem
from ptkit.core.models.matching import load_whole
from ptkit.core.models.weight_files import COMMENT, check_zip, read_weight_file
from ptkit.core.models.weightless import without_memory
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import refuse_user_code

FORMAT = "ptkit.checkpoint"
FORMAT_VERSION = 1
# A checkpoint may lack so many of its model's parameters without a word about its size.
_FEW_PARAMETERS = 1_000_000


def save_checkpoint(
    path: Path, contents: Mapping[str, Any], *, previous: Path | None = None
) -> None:
    """Save a checkpoint so that `path` holds the old or the new one whole, and the new one was read
    back.

    contents: the keys of a checkpoint; `format`, `format_version` and `ptkit_version` are added.
    Tuples become lists; tensors become plain, contiguous storage on the CPU.
    previous: where the old file is kept.

    Raises:
        StorageError: the disk refused, or gave back other bytes; what was at `path` is as it was.
        TypeError: contents hold something else than plain containers, numbers and tensors.
    """
    stamp = {"format": FORMAT, "format_version": FORMAT_VERSION, "ptkit_version": __version__}
    stamped = _plain({**stamp, **contents})
    fault = _fault(stamped)
    assert fault is None, f"not a checkpoint: {fault}"

    def check(written: Path) -> None:
        _check_written(written)
        if previous is not None and path.exists():
            _keep(path, previous)

    write_atomically(path, partial(_write, stamped), check=check)


def copy_contents(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of checkpoints, which may share tensors, as plain containers with copies
    on the CPU; those of a GPU arrive later: `when_copied`.

    What shares memory is copied once and shares it again: files are as they would be without it.

    Raises:
        TypeError: see `save_checkpoint`.
    """
    copies: dict[Any, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # A view is saved alone, whatever else looks into its storage.
        if storage.nbytes() != tensor.nbytes:
            return begin_copy(tensor)
        key = storage._cdata, tensor.dtype
        if key not in copies:
            copies[key] = begin_copy(tensor)
        return copies[key].as_strided(tensor.size(), tensor.stride())

    found: dict[str, Any] = _plain(contents, take=copy)
    return found


def _write(contents: dict[str, Any], file: BinaryIO) -> None:
    summing = _SummingFile(file)
    try:
        torch.save(contents, summing)  # type: ignore[arg-type]
    except RuntimeError:
        # torch turns a full disk into an error of its own about an unexpected position.
        if summing.error is not None:
            raise summing.error from None
        raise
    comment = COMMENT % summing.crc
    # The end record's last two bytes are the length of the comment.
    file.seek(-2, 2)
    file.write(struct.pack("<H", len(comment)) + comment)


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
        check_zip(path)
    except CheckpointError as error:
        raise OSError(f"the disk gave back other bytes ({error})") from error


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, in the place of another file; raises OSError."""
    temporary = previous.with_name(f".{previous.name}.{secrets.token_hex(4)}")
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        os.replace(path, previous)
        return
    # Never a moment without the file of before: it may be the only good one.
    os.replace(temporary, previous)
    # Two names of one file are left as they are by a rename.
    temporary.unlink(missing_ok=True)


def _to_cpu(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    # A view would be saved with the whole storage it looks into.
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _plain(
    value: Any, where: str = "checkpoint", *, take: Callable[[Tensor], Tensor] = _to_cpu
) -> Any:
    """Return `value` as dict, list, str, int, float, bool, None and plain CPU tensors, or say what
    cannot be so.

    Raises:
        TypeError: something else is in it, such as a Path; the message says where.
    """
    match value:
        case torch.Tensor():
            return take(value)
        case Mapping():
            return _plain_dict(value, where, take=take)
        case list() | tuple():
            items = enumerate(value)
            return [_plain(item, f"{where}[{index}]", take=take) for index, item in items]
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


def _plain_dict(
    value: Mapping[Any, Any], where: str, *, take: Callable[[Tensor], Tensor]
) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (str, int):
            found = f"{key!r} ({type(key).__name__})"
            raise TypeError(f"{where} has the key {found}; only str and int can be saved")
    items = {key: _plain(item, f"{where}[{key!r}]", take=take) for key, item in value.items()}
    if not hasattr(value, "_metadata"):
        return items
    # The versions of a state dict's layers: torchvision's MNASNet does not load without them.
    state_dict = OrderedDict(items)
    state_dict._metadata = _plain(value._metadata, f"{where}._metadata")  # type: ignore[attr-defined]
    return state_dict


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a ptkit checkpoint, or the best one of a run folder.

    Raises:
        CheckpointError: no such file, damaged, written by a newer ptkit, or other weights than a
            checkpoint.
    """
    contents = read_weight_file(file_of(path))
    if not is_checkpoint(contents):
        raise CheckpointError(
            f"{path} holds weights only, not a ptkit checkpoint, which is needed here"
        )
    return validated(contents, path)


def rebuild(
    checkpoint: Mapping[str, Any], *, model: str | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the model of a checkpoint with its weights, in evaluation mode; also return what was
    done to load them, a sentence each.

    model: the call to build instead of the checkpoint's own, which may name built-in models only.

    Raises:
        CheckpointError: the checkpoint's call is unknown or names user code, or the weights do not
            fit.
        UsageError: `model` is not a model.
    """
    # The checkpoint's own call has all that its size settled; a user's call has not.
    stem_notes: tuple[str, ...] = ()
    if model is None:
        call, size, channels = own_call(checkpoint["model"]["call"]), None, None
    else:
        call, stem_notes = with_stem(parse(model), checkpoint["state_dict"])
        pipeline = checkpoint["pipeline"]
        size, channels = size_of(pipeline), pipeline.get("channels")
    num_classes = checkpoint["model"]["num_classes"]
    try:
        if model is None:
            _check_extent(call, checkpoint)
        module, text = build_model(
            call, num_classes=num_classes, size=size, channels=channels, seed=0
        )
    except UsageError as error:
        if model is not None:
            raise
        raise CheckpointError(f"this ptkit cannot build the checkpoint's model: {error}") from error
    notes = load_whole(
        module, checkpoint["state_dict"], source="the checkpoint's weights", call=text
    )
    return module.eval(), (*stem_notes, *notes)


def _check_extent(call: Call, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a call that builds far more than the weights that came with it.

    On the meta device, which has no memory: a few letters in a file could ask for a terabyte.
    """
    if fault := fault_of_call(call, checkpoint["state_dict"]):
        raise CheckpointError(f"the checkpoint's model {str(call)[:80]} {fault}")
    with without_memory():
        module, text = build_model(
            call, num_classes=checkpoint["model"]["num_classes"], size=None, seed=0
        )
    wanted = sum(parameter.numel() for parameter in module.parameters())
    found = sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    # Models of the same name lose or gain some parameters from version to version.
    if wanted > 2 * found + _FEW_PARAMETERS:
        raise CheckpointError(
            f"the checkpoint's model {text} has {wanted:,} parameters, and its weights have"
            f" {found:,}: they are not of one model"
        )


def own_call(text: str) -> Call:
    """Return the call that a checkpoint stores for its model.

    Raises:
        CheckpointError: it cannot be read, or names user code.
    """
    try:
        call = parse(text)
    except UsageError as error:
        # Without the picture of the place: the text is the file's, and may be of any length.
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"the checkpoint's model cannot be read: {reason}") from error
    refuse_user_code(call, where="the checkpoint's model", remedy="name it again with --model")
    return call


def size_of(pipeline: Mapping[str, Any]) -> int | None:
    """Return the pixels of a side that a checkpoint's pipeline gives, where it gives a square."""
    size = pipeline.get("size")
    return size if isinstance(size, int) else None


def file_of(path: Path) -> Path:
    """Return the best checkpoint of a run folder; another path as it is."""
    return path / "ckpt.pkl" if os.path.isdir(path) else path


def is_checkpoint(contents: Any) -> bool:
    """Tell whether a file's contents are a ptkit checkpoint, whole or not."""
    return isinstance(contents, dict) and contents.get("format") == FORMAT


def validated(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, every key of it checked.

    Raises:
        CheckpointError: written by a newer ptkit, incomplete, or what it holds cannot be used.
    """
    version = contents.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        writer = contents.get("ptkit_version")
        raise CheckpointError(
            f"a newer ptkit ({writer}) wrote {path}, in format {version}: update this one"
            f" ({__version__})"
        )
    if fault := _fault(contents):
        raise CheckpointError(f"{path} is an incomplete ptkit checkpoint: {fault}")
    if fault := fault_of_values(contents):
        raise CheckpointError(f"{path} cannot be used: {fault}")
    return contents


def _fault(contents: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the keys of a checkpoint, or None."""
    if contents.get("format_version") != FORMAT_VERSION:
        return f"format_version is {contents.get('format_version')!r}, expected {FORMAT_VERSION}"
    return fault_of_keys(contents)
