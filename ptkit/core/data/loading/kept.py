"""Decoded images as they are kept, in memory or in a file."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from ptkit.core.data.fingerprints import Hashes
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Indices
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.transforms.spec import Size

Bad = tuple[tuple[int, str], ...]
_STACKED_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Layout:
    """Where images of different sizes lie: image k is sizes[k] pixels from starts[k] of
    blocks[block_of[k]].

    blocks: uint8, flat. block_of: int32 (N,). starts: int64 (N,). sizes: int32 (N, 2), height and
    width.
    """

    blocks: tuple[Pixels | StoredPixels, ...]
    block_of: npt.NDArray[np.int32]
    starts: Indices
    sizes: npt.NDArray[np.int32]
    channels: int


@dataclass(frozen=True, eq=False)
class Kept:
    """The readable images of a list, decoded once: uint8 after the prefix of a pipeline, in the
    list's order.

    pixels: (N, H, W, C) where all have one size; else empty, and `layout` says where each image is.
    bad: (index in the list, reason) of every image that could not be read; image k here is the k-th
    of the others.
    hashes: of the files of the images, (N,); None where they are unknown. odd: how many of the
    images are of each unusual kind, in words.
    """

    pixels: Pixels | StoredPixels
    bad: Bad
    layout: Layout | None = None
    hashes: Hashes | None = None
    odd: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels) if self.layout is None else len(self.layout.starts)

    @property
    def size(self) -> Size | None:
        """(height, width) of every image, or None where they differ."""
        return None if self.layout is not None else (self.pixels.shape[1], self.pixels.shape[2])

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        if self.layout is None:
            return self.pixels.nbytes
        return self.layout.channels * int(self.layout.sizes.prod(axis=1, dtype=np.int64).sum())

    def image(self, index: int) -> Pixels:
        """Return one image (H, W, C), not copied where it is in memory."""
        if self.layout is None:
            return cast(Pixels, self.pixels[index])
        shape = (*self.layout.sizes[index].tolist(), self.layout.channels)
        block, start = self.layout.blocks[self.layout.block_of[index]], self.layout.starts[index]
        flat: Pixels = block[start : start + math.prod(shape)]
        return flat.reshape(shape)

    def stacks(self, indices: Indices) -> Iterator[Pixels]:
        """Yield some images, in that order, as stacks (n, H, W, C)."""
        if self.layout is not None:
            yield from (self.image(index)[None] for index in indices.tolist())
            return
        # Indexing copies, so a few at a time: all at once would double the memory.
        for start in range(0, len(indices), _STACKED_AT_ONCE):
            yield self.pixels[indices[start : start + _STACKED_AT_ONCE]]

    def subset(self, indices: Indices | list[int]) -> "Kept":
        """Return some of the images in that order; those of one size are copied."""
        if self.layout is None:
            return Kept(self.pixels[np.asarray(indices)], ())
        layout = self.layout
        # The blocks stay whole: a subset of a few images holds the pixels of all.
        parts = {name: getattr(layout, name)[indices] for name in ("block_of", "starts", "sizes")}
        chosen = replace(layout, **parts)
        return Kept(self.pixels, (), chosen)


def starts_of(sizes: npt.NDArray[np.int32], channels: int) -> Indices:
    """Return where each image begins when images of some sizes (n, 2) lie one after the other."""
    # int64: the pixels of a list soon pass the 2 GiB at which int32 ends.
    lengths: Indices = channels * sizes.prod(axis=1, dtype=np.int64)
    return lengths.cumsum() - lengths
