"""Images decoded once and kept, in memory or on disk, and the passes that find the ones that cannot
be read.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.read_ahead import Reading, checked, read_ahead, sizes_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Size
from ptkit.core.device import thread_pool
from ptkit.core.errors import DataError
from ptkit.core.machine import num_cores

T = TypeVar("T")
Indices = npt.NDArray[np.int64]
Bad = tuple[tuple[int, str], ...]

_CHUNK = 64
# A thread holds the images of a chunk twice: as they were decoded, and in one piece.
_CHUNK_BYTES = 4 << 20
_NUM_HEADERS = 256


@dataclass(frozen=True, eq=False)
class Places:
    """Where images of different sizes lie: image k is sizes[k] pixels from starts[k] of
    blocks[block_of[k]].

    blocks: uint8, flat. block_of: int32 (N,). starts: int64 (N,). sizes: int32 (N, 2), height and
    width.
    """

    blocks: tuple[Pixels, ...]
    block_of: npt.NDArray[np.int32]
    starts: Indices
    sizes: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Kept:
    """The readable images of a list, decoded once: uint8 RGB after the prefix of a pipeline, in the
    list's order.

    pixels: (N, H, W, 3) where all have one size; else empty, and the images lie where `places`
    says.
    bad: (index in the list, reason) of every image that could not be read; image k here is the k-th
    of the others.
    origin: the file that the pixels are mapped from; None in memory.
    """

    pixels: Pixels
    bad: Bad
    places: Places | None = None
    origin: Path | None = None

    def __len__(self) -> int:
        return len(self.pixels) if self.places is None else len(self.places.starts)

    @property
    def size(self) -> Size | None:
        """(height, width) of every image, or None where they differ."""
        return None if self.places is not None else (self.pixels.shape[1], self.pixels.shape[2])

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        if self.places is None:
            return self.pixels.nbytes
        return 3 * int(self.places.sizes.prod(axis=1, dtype=np.int64).sum())

    def image(self, index: int) -> Pixels:
        """Return one image (H, W, 3), not copied."""
        if self.places is None:
            return self.pixels[index]
        height, width = self.places.sizes[index].tolist()
        start, block = (
            int(self.places.starts[index]),
            self.places.blocks[self.places.block_of[index]],
        )
        return block[start : start + height * width * 3].reshape(height, width, 3)

    def gathered(self, indices: Indices | list[int]) -> Pixels:
        """Return a copy of some images (n, H, W, 3), which must have one size."""
        assert self.places is None
        return self.pixels[indices]

    def stacks(self, indices: Indices) -> Iterator[Pixels]:
        """Yield some images, in that order, as stacks (n, H, W, 3)."""
        if self.places is None:
            yield from (
                self.gathered(indices[start : start + _CHUNK])
                for start in range(0, len(indices), _CHUNK)
            )
        else:
            yield from (self.image(index)[None] for index in indices.tolist())

    def subset(self, indices: Indices | list[int]) -> "Kept":
        """Return some of the images in that order; those of one size are copied."""
        if self.places is None:
            return Kept(self.pixels[indices], (), origin=self.origin)
        places = self.places
        chosen = Places(
            places.blocks, places.block_of[indices], places.starts[indices], places.sizes[indices]
        )
        return Kept(self.pixels, (), chosen, self.origin)


def decode_all(
    images: ImageList,
    pipeline: Pipeline,
    *,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Kept:
    """Decode every image of a list into memory, after the pipeline's prefix.

    on_images: told how many more are done, for a progress bar.
    """
    if pipeline.plan.prefix_size is None:
        return _of_different_sizes(
            decoded_chunks(images, pipeline, workers=workers, on_images=on_images)
        )
    pixels = np.empty((len(images), *pipeline.plan.prefix_size, 3), np.uint8)

    def fill(indices: range, reading: Reading) -> list[tuple[int, str]]:
        return _decoded(
            images,
            pipeline,
            indices,
            reading,
            lambda index, image: pixels.__setitem__(index, image),
        )

    found: list[tuple[int, str]] = []
    for bad in _in_threads(fill, images, _CHUNK, workers=workers, on_images=on_images):
        found += bad
    return Kept(_closed_up(pixels, [index for index, _ in found]), tuple(found))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images in one piece: pixels uint8, flat; sizes int32 (n, 2); bad: (index in the list,
    reason).
    """

    pixels: Pixels
    sizes: npt.NDArray[np.int32]
    bad: list[tuple[int, str]]


def decoded_chunks(
    images: ImageList,
    pipeline: Pipeline,
    *,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """Yield all images of a list in its order, after the pipeline's prefix, decoded in threads a
    little ahead.
    """

    def work(indices: range, reading: Reading) -> Chunk:
        found: list[Pixels] = []
        bad = _decoded(
            images, pipeline, indices, reading, lambda _index, image: found.append(image)
        )
        sizes = np.array([image.shape[:2] for image in found], np.int32).reshape(-1, 2)
        pixels = (
            np.concatenate([image.reshape(-1) for image in found])
            if found
            else np.empty(0, np.uint8)
        )
        return Chunk(pixels, sizes, bad)

    length = max(
        1, min(_CHUNK, _CHUNK_BYTES // max(decoded_bytes(images, pipeline) // len(images), 1))
    )
    return _in_threads(work, images, length, workers=workers, on_images=on_images)


def starts_of(sizes: npt.NDArray[np.int32]) -> Indices:
    """Return where each image begins when images of some sizes (n, 2) lie one after the other."""
    lengths = 3 * sizes.prod(axis=1, dtype=np.int64)
    return lengths.cumsum() - lengths


def decoded_bytes(images: ImageList, pipeline: Pipeline) -> int:
    """Return how many bytes all images take after the pipeline's prefix.

    Where their sizes differ that is estimated from some headers.
    """
    if pipeline.plan.prefix_size is not None:
        height, width = pipeline.plan.prefix_size
        return len(images) * height * width * 3
    chosen = np.unique(
        np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int)
    ).tolist()
    found = [
        pipeline.size_after_prefix(size) for size in sizes_of(images, chosen) if size is not None
    ]
    return int(3 * np.prod(found, axis=1, dtype=np.int64).mean() * len(images)) if found else 0


def unreadable(
    images: ImageList, *, workers: int = 0, on_images: Callable[[int], None] | None = None
) -> Bad:
    """Decode every image and keep none: return what cannot be read as (index, reason)."""

    def check(indices: range, reading: Reading) -> list[tuple[int, str]]:
        return _decoded(images, None, indices, reading, lambda _index, _image: None)

    found = _in_threads(check, images, _CHUNK, workers=workers, on_images=on_images)
    return tuple(bad for some in found for bad in some)


def _decoded(
    images: ImageList,
    pipeline: Pipeline | None,
    indices: range,
    reading: Reading,
    take: Callable[[int, Pixels], object],
) -> list[tuple[int, str]]:
    """Hand some images to `take` with their indices, and return what cannot be read."""
    bad = []
    for index, content in zip(indices, reading.contents(), strict=True):
        try:
            pixels = decoder.decode(checked(content), images.image_path(index))
        except DataError as error:
            bad.append((index, str(error)))
            continue
        take(index, pixels if pipeline is None else pipeline.apply_prefix(pixels))
    return bad


def _in_threads(
    work: Callable[[range, Reading], T],
    images: ImageList,
    length: int,
    *,
    workers: int,
    on_images: Callable[[int], None] | None,
) -> Iterator[T]:
    """Yield what `work` gives for each `length` images, in order; no more than two results a thread
    are waiting.
    """
    workers = workers or num_cores()
    waiting: deque[tuple[int, Future[T]]] = deque()

    def first() -> T:
        count, future = waiting.popleft()
        result = future.result()
        if on_images is not None:
            on_images(count)
        return result

    starts = range(0, len(images), length)
    chunks = (range(start, min(start + length, len(images))) for start in starts)
    pool = thread_pool(workers)
    try:
        for chunk, reading in read_ahead(images, ((chunk, chunk) for chunk in chunks)):
            waiting.append((len(chunk), pool.submit(work, chunk, reading)))
            if len(waiting) > 2 * workers:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _closed_up(pixels: Pixels, bad: list[int]) -> Pixels:
    """Move the rows after unreadable ones up, in place, and return the rows that are left."""
    first = bad[0] if bad else len(pixels)
    # Row by row: numpy copies what overlaps, which could be nearly all.
    for target, row in enumerate(np.setdiff1d(np.arange(first, len(pixels)), bad), start=first):
        pixels[target] = pixels[row]
    return pixels[: len(pixels) - len(bad)]


def _of_different_sizes(chunks: Iterable[Chunk]) -> Kept:
    blocks, block_of, starts, sizes, bad = [], [], [], [], []
    for number, chunk in enumerate(chunks):
        blocks.append(chunk.pixels)
        block_of.append(np.full(len(chunk.sizes), number, np.int32))
        starts.append(starts_of(chunk.sizes))
        sizes.append(chunk.sizes)
        bad += chunk.bad
    places = Places(
        tuple(blocks), np.concatenate(block_of), np.concatenate(starts), np.concatenate(sizes)
    )
    return Kept(np.empty(0, np.uint8), tuple(bad), places)
