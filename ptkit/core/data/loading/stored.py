"""Pixels that stay in their file until they are asked for."""

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Indices
from ptkit.core.errors import StorageError


class StoredPixels:
    """The uint8 array that a file holds: rows of it, by number, numbers or slice, are read anew
    each time, as a copy.

    Read and not mapped: a mapped file that somebody cuts off meanwhile ends the process without a
    word. The file stays open: one that is removed meanwhile is still whole.

    Raises:
        OSError: the file cannot be opened. StorageError, of rows: it was cut off, or the disk
        failed.
    """

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape, self.ndim = file, shape, len(shape)
        self.nbytes = int(np.prod(shape, dtype=np.int64))
        self._row_bytes = self.nbytes // max(shape[0], 1)
        self._descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: "int | slice | Indices") -> Pixels:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read(start, np.empty((max(stop - start, 0), *self.shape[1:]), np.uint8))
        if isinstance(rows, int | np.integer):
            return self._read(int(rows), np.empty(self.shape[1:], np.uint8))
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(np.asarray(rows).tolist()):
            self._read(row, found[place])
        return found

    def __reduce__(self) -> tuple[type["StoredPixels"], tuple[Path, tuple[int, ...]]]:
        # An open file cannot be sent to another process.
        return StoredPixels, (self.file, self.shape)

    def _read(self, row: int, out: Pixels) -> Pixels:
        """Fill `out` with what the file has from a row on."""
        if not out.nbytes:
            return out
        at, left = row * self._row_bytes, out.reshape(-1).data
        try:
            while len(left) and (count := self._read_at(at, left)):
                at, left = at + count, left[count:]
        except OSError as error:
            raise StorageError(f"cannot read {self.file}: {error.strerror or error}") from error
        if len(left):
            raise StorageError(
                f"{self.file} was cut off while it was used; `ptkit cache --remove` the entry and"
                " start again"
            )
        return out

    def _read_at(self, at: int, out: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [out], at)
        # Windows: threads share the place where a file is read.
        with self._lock:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            data = os.read(self._descriptor, len(out))
        out[: len(data)] = data
        return len(data)
