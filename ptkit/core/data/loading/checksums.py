"""Checksums of a file's blocks: made while it is written, compared before it is used."""

import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ptkit.core.files import from_disk

_BLOCK, _PIECE = 16 << 20, 1 << 20


class BlockSums:
    """The CRC-32 of each 16 MiB of what is written, piece by piece."""

    def __init__(self) -> None:
        self.sums: list[int] = []
        self._length = 0

    def update(self, data: Any) -> None:
        """Go on with the bytes of an array."""
        view = memoryview(data).cast("B")
        while len(view):
            start = self._length % _BLOCK
            if not start:
                self.sums.append(0)
            piece = view[: _BLOCK - start]
            self.sums[-1] = zlib.crc32(piece, self.sums[-1])
            self._length += len(piece)
            view = view[len(piece) :]


def sums_of(file: Path) -> list[int]:
    """Return the CRC-32 of each 16 MiB of a file, read in threads; raises OSError.

    Read and not mapped: a mapped file that somebody cuts off meanwhile ends the process.
    """

    def some(blocks: Sequence[int]) -> list[int]:
        return [_sum_of(file, block) for block in blocks]

    num_blocks = -(-file.stat().st_size // _BLOCK)
    return list(chain.from_iterable(from_disk(some, num_blocks, at_once=1)))


def _sum_of(file: Path, block: int) -> int:
    found = 0
    with open(file, "rb", buffering=0) as stream:
        stream.seek(block * _BLOCK)
        left = _BLOCK
        while left and (piece := stream.read(min(_PIECE, left))):
            found, left = zlib.crc32(piece, found), left - len(piece)
    return found
