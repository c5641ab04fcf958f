"""Arrays kept from epoch to epoch in one small file of a run, whole after every epoch."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ptkit.core.files import write_atomically

T = TypeVar("T")

# About so many frames are kept at most: the files stay small.
MAX_FRAMES = 100
_MOST_BYTES = 64 << 20


def with_frame(frames: Mapping[int, T], epoch: int, frame: T) -> dict[int, T]:
    """Return the frames by epoch with one more; the first and the newest stay, and of too many
    every second one goes.
    """
    stride = 1
    while epoch // stride > MAX_FRAMES:
        stride *= 2
    every = {**frames, epoch: frame}
    return {k: kept for k, kept in every.items() if k == epoch or k % stride == 0}


def write_arrays(file: Path, **arrays: Any) -> None:
    """Write arrays as .npz, whole or not at all.

    Raises:
        StorageError: the disk refused.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(file, content.getvalue())


def read_arrays(file: Path, *, most_bytes: int = _MOST_BYTES) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a file; None where it is missing, damaged or far too large."""
    try:
        # From memory: numpy leaves the handle of a damaged file open.
        content = io.BytesIO(file.read_bytes())
        with zipfile.ZipFile(content) as archive:
            # A packed file of a few kilobytes may hold gigabytes of zeros.
            if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
                return None
        with np.load(content, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    # Damaged archives raise nearly anything.
    except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError,
            zipfile.BadZipFile, zlib.error):  # fmt: skip
        return None
