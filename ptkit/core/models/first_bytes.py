"""What a file is that should hold weights, by how it begins."""

import re
import stat
from pathlib import Path
from shlex import quote

from ptkit.core.errors import CheckpointError
from ptkit.core.run_files import METRICS_FILE, has_diverged, resume_command

# A protobuf: the version of the format, then one of the fields that may follow.
IS_ONNX = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a]")
# How files that are no weights begin; the order counts.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
    ),
    (
        rb"(?i)\s*<(!doctype|html|head|\?xml|!--)",
        "a web page, not weights: the download gave an HTML page; delete it and fetch the file",
    ),
    (rb"\0+\Z", "zeros from its beginning: the download or copy was cut short; fetch it again"),
    (rb"\x89HDF", "an HDF5 (Keras) file; only PyTorch and .safetensors files are read"),
    (rb"\x93NUMPY", "a NumPy array; only PyTorch and .safetensors files are read"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc", "a compressed archive: unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|BM", "an image, not weights"),
    (rb"GGUF", "a GGUF file; only PyTorch and .safetensors files are read"),
    (
        IS_ONNX.pattern,
        "an ONNX file, which `ptkit predict` and `ptkit confmat` run; this needs the checkpoint"
        " that it was exported from",
    ),
)


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of a regular file.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
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
        if path.name == "ckpt.pkl" and _has_no_epoch(path.parent):
            way = f"`{resume_command(path.parent)}` continues it"
            if has_diverged(path.parent):
                way = f"it diverged: `ptkit diagnose {quote(str(path.parent))}` says what helps"
            raise CheckpointError(
                f"{path.parent} has no {path.name}: no epoch of this run was finished; {way}"
            ) from None
        # Of a folder of runs, as runs itself.
        runs = list(path.parent.glob("*/ckpt.pkl")) if path.name == "ckpt.pkl" else []
        newest = max(runs, key=lambda run: run.lstat().st_mtime, default=None)
        hint = "" if newest is None else f"; there is {newest.parent}"
        raise CheckpointError(
            f"no file {path}: expected a checkpoint, a run folder or a file of weights{hint}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    return head


def _has_no_epoch(folder: Path) -> bool:
    """Say whether a folder is that of a run that ended in its first epoch."""
    return (folder / "config.toml").is_file() and not (folder / METRICS_FILE).exists()


def known_stranger(head: bytes) -> str | None:
    """Say what a file of another kind is that begins so, if that is known."""
    if not head:
        return "empty (0 bytes): the download or copy failed; fetch it again"
    return next((what for pattern, what in _STRANGERS if re.match(pattern, head)), None)
