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


def sums_of(file: Path, *, into: memoryview | None = None) -> list[int]:
    """Return the CRC-32 of each 16 MiB of a file, read in threads; raises OSError.

    into: as long as the file; gets its bytes on the way.
    """

    def some(blocks: Sequence[int]) -> list[int]:
        return [_sum_of(file, block, into) for block in blocks]

    num_blocks = -(-file.stat().st_size // _BLOCK)
    return list(chain.from_iterable(from_disk(some, num_blocks, at_once=1)))


def _sum_of(file: Path, block: int, into: memoryview | None) -> int:
    found, at, end = 0, block * _BLOCK, (block + 1) * _BLOCK
    own = memoryview(bytearray(_PIECE))
    with open(file, "rb", buffering=0) as stream:
        stream.seek(at)
        # A piece is still in the core's cache when its checksum is made.
        while count := stream.readinto(
            piece := (own if into is None else into[at : at + _PIECE])[: end - at]
        ):
            found, at = zlib.crc32(piece[:count], found), at + count
    return found
