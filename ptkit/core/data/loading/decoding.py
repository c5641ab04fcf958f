"""Decoding whole lists once, in threads that get their files read ahead, and the images as they are
kept.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from ptkit.core.data import images as decoder
from ptkit.core.data.complaints import listening
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import spread
from ptkit.core.data.lists import ImageList
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Size
from ptkit.core.device import thread_pool
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.machine import num_cores

T = TypeVar("T")
Indices = npt.NDArray[np.int64]
Bad = tuple[tuple[int, str], ...]
Content = bytes | PtkitError

_CHUNK = 64
# A thread holds the images of a chunk twice: as they were decoded, and in one piece.
_CHUNK_BYTES = 4 << 20
_NUM_HEADERS = 256
_STACKED_AT_ONCE = 64

# They wait and need no core: from a disk that answers after 10 ms they read 3,200 files a second.
NUM_READERS = 32
_BYTES_AHEAD = 128 << 20
# Seconds a file; memory and SSDs are quicker. Where they are, readers would halve the rate of small
# files: handing over costs more than reading.
_SLOW = 4e-4
_NUM_PROBED = 2
_FILES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Layout:
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

    pixels: (N, H, W, 3) where all have one size; else empty, and `layout` says where each image is.
    bad: (index in the list, reason) of every image that could not be read; image k here is the k-th
    of the others.
    origin: the file that the pixels are mapped from; None in memory.
    """

    pixels: Pixels
    bad: Bad
    layout: Layout | None = None
    origin: Path | None = None

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
        return 3 * int(self.layout.sizes.prod(axis=1, dtype=np.int64).sum())

    def image(self, index: int) -> Pixels:
        """Return one image (H, W, 3), not copied."""
        if self.layout is None:
            return cast(Pixels, self.pixels[index])
        height, width = self.layout.sizes[index].tolist()
        block, start = self.layout.blocks[self.layout.block_of[index]], self.layout.starts[index]
        flat: Pixels = block[start : start + height * width * 3]
        return flat.reshape(height, width, 3)

    def stacks(self, indices: Indices) -> Iterator[Pixels]:
        """Yield some images, in that order, as stacks (n, H, W, 3)."""
        if self.layout is not None:
            yield from (self.image(index)[None] for index in indices.tolist())
            return
        for start in range(0, len(indices), _STACKED_AT_ONCE):
            yield self.pixels[indices[start : start + _STACKED_AT_ONCE]]

    def subset(self, indices: Indices | list[int]) -> "Kept":
        """Return some of the images in that order; those of one size are copied."""
        if self.layout is None:
            return Kept(self.pixels[indices], (), origin=self.origin)
        layout = self.layout
        chosen = Layout(
            layout.blocks, layout.block_of[indices], layout.starts[indices], layout.sizes[indices]
        )
        return Kept(self.pixels, (), chosen, self.origin)


def starts_of(sizes: npt.NDArray[np.int32]) -> Indices:
    """Return where each image begins when images of some sizes (n, 2) lie one after the other."""
    lengths: Indices = 3 * sizes.prod(axis=1, dtype=np.int64)
    return lengths.cumsum() - lengths


class PendingFiles:
    """Some files of a list, read when their contents are asked for, or ahead."""

    def __init__(self, images: ImageList, indices: Sequence[int], speed: "_DiskSpeed") -> None:
        self._images, self._indices, self._speed = images, indices, speed
        self._futures: list[Future[list[Content]]] = []

    def contents(self) -> list[Content]:
        """Return the content of each file, or the error of reading it."""
        if not self._futures:
            return self._speed.read(self._images, self._indices)
        return [content for future in self._futures for content in future.result()]

    def start(self, readers: ThreadPoolExecutor) -> None:
        """Read in other threads."""
        parts = (
            self._indices[k : k + _FILES_AT_ONCE]
            for k in range(0, len(self._indices), _FILES_AT_ONCE)
        )
        self._futures = [readers.submit(self._speed.read, self._images, part) for part in parts]


def sizes_of(images: ImageList, indices: Sequence[int]) -> list[Size | None]:
    """Return (height, width) of some images from their headers, None for unreadable ones."""

    def size(index: int) -> Size | None:
        try:
            return decoder.size_of(images.image_path(index))
        except DataError:
            return None

    # Waiting for the disk, not for a core: so more threads than cores.
    with ThreadPoolExecutor(NUM_READERS, "ptkit-read") as readers:
        return list(readers.map(size, indices))


def checked(content: Content) -> bytes:
    """Return the content of a file.

    Raises:
        PtkitError: the error of reading it.
    """
    if isinstance(content, PtkitError):
        raise content
    return content


def read_ahead(
    images: ImageList, groups: Iterable[tuple[T, Sequence[int]]]
) -> Iterator[tuple[T, PendingFiles]]:
    """Yield the name of each group (any object) with the files at its indices.

    On a fast disk, files are read by the thread that asks for their contents. On a slow one, many
    readers fetch the following files, 128 MiB of them and at least one group, until this iterator
    is closed.
    """
    speed = _DiskSpeed()
    waiting: deque[tuple[T, PendingFiles, int]] = deque()
    num_waiting = 0
    readers = ThreadPoolExecutor(NUM_READERS, "ptkit-read")
    try:
        for name, indices in groups:
            speed.probe(images, indices)
            files = PendingFiles(images, indices, speed)
            if speed.is_slow:
                files.start(readers)
            waiting.append((name, files, len(indices)))
            num_waiting += len(indices)
            # Handed over as soon as there is no reason to start another one first.
            while waiting and not (speed.is_slow and speed.has_room(num_waiting)):
                name, files, count = waiting.popleft()
                num_waiting -= count
                yield name, files
        while waiting:
            # Taken out: what was read is not held longer than it is needed.
            name, files, _ = waiting.popleft()
            yield name, files
    except GeneratorExit:
        # The epoch was given up: nobody asks for the rest.
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        # What was asked for is still read.
        readers.shutdown(wait=False)


class _DiskSpeed:
    """The mean size of files, and how long reading one waits for the disk.

    is_slow: never becomes False again, because busy readers wait for each other too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_files, self._num_read, self._num_bytes, self._waited_s = 0, 0, 0, 0.0
        self.is_slow = False

    def has_room(self, num_waiting: int) -> bool:
        """Say whether to ask for more files than these."""
        # A slow start: the first files say little about the size of the others.
        by_bytes = _BYTES_AHEAD * self._num_read / self._num_bytes if self._num_bytes else math.inf
        return num_waiting < min(by_bytes, NUM_READERS * _FILES_AT_ONCE + 2 * self._num_read)

    def probe(self, images: ImageList, indices: Sequence[int]) -> None:
        """Read one or two files, unless some have been read."""
        if self._num_files == 0:
            self.read(images, indices[:_NUM_PROBED])

    def read(self, images: ImageList, indices: Sequence[int]) -> list[Content]:
        start, busy_before = time.perf_counter(), time.thread_time()
        contents = [_content(images, index) for index in indices]
        # Not the whole time: on a busy machine that is long for files in memory, too.
        waited = time.perf_counter() - start - (time.thread_time() - busy_before)
        found = [len(content) for content in contents if isinstance(content, bytes)]
        with self._lock:
            self._num_files += len(contents)
            self._num_read += len(found)
            self._num_bytes += sum(found)
            self._waited_s += waited
            self.is_slow = self.is_slow or self._waited_s > _SLOW * self._num_files
        return contents


def _content(images: ImageList, index: int) -> Content:
    # Raised where the image is asked for: the first in the order of the list decides.
    try:
        return decoder.read_bytes(images.image_path(index))
    except PtkitError as error:
        return error


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

    def work(indices: range, files: PendingFiles) -> Chunk:
        found: list[Pixels] = []
        with listening:
            bad = _decoded(
                images, pipeline, indices, files, lambda _index, image: found.append(image)
            )
        sizes = np.array([image.shape[:2] for image in found], np.int32).reshape(-1, 2)
        # All of them may be unreadable, and numpy refuses to join nothing.
        flat = [np.empty(0, np.uint8), *(image.reshape(-1) for image in found)]
        return Chunk(np.concatenate(flat), sizes, bad)

    image_bytes = max(decoded_bytes(images, pipeline) // len(images), 1)
    length = max(1, min(_CHUNK, _CHUNK_BYTES // image_bytes))
    return _in_threads(work, images, length, workers=workers, on_images=on_images)


def decoded_bytes(images: ImageList, pipeline: Pipeline) -> int:
    """Return how many bytes all images take after the pipeline's prefix.

    Where their sizes differ that is estimated from some headers.
    """
    if pipeline.plan.prefix_size is not None:
        height, width = pipeline.plan.prefix_size
        return len(images) * height * width * 3
    chosen = spread(range(len(images)), _NUM_HEADERS)
    found = [
        pipeline.size_after_prefix(size) for size in sizes_of(images, chosen) if size is not None
    ]
    return int(3 * np.prod(found, axis=1, dtype=np.int64).mean() * len(images)) if found else 0


def decode_each(
    images: ImageList,
    pipeline: Pipeline | None,
    take: Callable[[int, Pixels], object],
    *,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Bad:
    """Decode every image in threads, hand each to `take` with its index, and return what cannot be
    read as (index, reason).

    pipeline: its prefix is applied; None for images as they are. on_images: called with how many
    more are done, for a progress bar.
    """

    def work(indices: range, files: PendingFiles) -> list[tuple[int, str]]:
        with listening:
            return _decoded(images, pipeline, indices, files, take)

    found = _in_threads(work, images, _CHUNK, workers=workers, on_images=on_images)
    return tuple(chain.from_iterable(found))


def _decoded(
    images: ImageList,
    pipeline: Pipeline | None,
    indices: range,
    files: PendingFiles,
    take: Callable[[int, Pixels], object],
) -> list[tuple[int, str]]:
    """Hand some images to `take` with their indices, and return what cannot be read."""
    bad = []
    for index, content in zip(indices, files.contents(), strict=True):
        try:
            pixels = decoder.decode(checked(content), images.image_path(index))
        except DataError as error:
            bad.append((index, str(error)))
            continue
        take(index, pixels if pipeline is None else pipeline.apply_prefix(pixels))
    return bad


def _in_threads(
    work: Callable[[range, PendingFiles], T],
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
        for chunk, files in read_ahead(images, ((chunk, chunk) for chunk in chunks)):
            waiting.append((len(chunk), pool.submit(work, chunk, files)))
            # Without a limit the results of a slow consumer would fill the memory.
            if len(waiting) > 2 * workers:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)
