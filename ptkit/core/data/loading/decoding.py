"""Reading files ahead of the threads that decode them, and decoding whole lists once."""

import math
import operator
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptkit.core.data import images as decoder
from ptkit.core.data.complaints import capturing_stderr
from ptkit.core.data.fingerprints import Hashes, fingerprints
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import spread
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.kept import Bad, Kept, Layout, starts_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Size
from ptkit.core.device import thread_pool
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.files import NUM_READERS
from ptkit.core.machine import num_cores

T = TypeVar("T")
Content = bytes | PtkitError

# Images of one task: handing over a single 32×32 JPEG costs about as much as decoding it.
_CHUNK = 128
# A thread holds the images of a chunk twice: as they were decoded, and in one piece.
_CHUNK_BYTES = 4 << 20
# Read to estimate the memory that a list with images of different sizes will take.
_NUM_HEADERS = 256

_BYTES_AHEAD = 128 << 20
# Seconds a file; memory and SSDs are quicker. Where they are, readers would halve the rate of small
# files: handing over costs more than reading.
_SLOW = 4e-4
_NUM_PROBED = 3
# It is judged by the median of the last files: one is slow now and then on any machine that has
# other work, and where threads wait for a core and for the interpreter's lock.
_NUM_JUDGED = 31
# Files of one request: with fewer, handing over costs more; with more, readers stay idle.
_FILES_AT_ONCE = 8


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
    # Its threads start with the first request: on a fast disk there are none.
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
    """The mean size of files, and how long reading one takes.

    is_slow: whether files are worth reading ahead, by the last of them.
    """

    def __init__(self) -> None:
        # Readers add up here: without a lock, += may lose what another thread has just added.
        self._lock = threading.Lock()
        self._num_read = self._num_bytes = 0
        # Of the last files.
        self._seconds: deque[float] = deque(maxlen=_NUM_JUDGED)
        self.is_slow = False

    def has_room(self, num_waiting: int) -> bool:
        """Say whether to ask for more files than these."""
        # A slow start: the first files say little about the size of the others.
        by_bytes = _BYTES_AHEAD * self._num_read / self._num_bytes if self._num_bytes else math.inf
        return num_waiting < min(by_bytes, NUM_READERS * _FILES_AT_ONCE + 2 * self._num_read)

    def probe(self, images: ImageList, indices: Sequence[int]) -> None:
        """Read some files, unless enough have been read to judge by."""
        if missing := max(_NUM_PROBED - len(self._seconds), 0):
            self.read(images, indices[:missing])

    def read(self, images: ImageList, indices: Sequence[int]) -> list[Content]:
        start, ends, contents = time.perf_counter(), [], []
        for index in indices:
            contents.append(content_of(images, index))
            ends.append(time.perf_counter())
        found = [len(content) for content in contents if isinstance(content, bytes)]
        with self._lock:
            self._num_read += len(found)
            self._num_bytes += sum(found)
            self._seconds.extend(map(operator.sub, ends, [start, *ends]))
            if len(self._seconds) >= _NUM_PROBED:
                # With one limit for both, readers would come and go.
                limit = _SLOW / 4 if self.is_slow else _SLOW
                self.is_slow = statistics.median(self._seconds) > limit
        return contents


def content_of(images: ImageList, index: int) -> Content:
    """Return the content of a file, or the error of reading it."""
    # Raised where the image is asked for: the first in the order of the list decides.
    try:
        return decoder.read_bytes(images.image_path(index))
    except PtkitError as error:
        return error


def decoded_image(images: ImageList, index: int, content: Content) -> Pixels:
    """Decode the content of a list's file.

    Raises:
        PtkitError: it could not be read, or is not an image.
    """
    data = checked(content)
    try:
        return decoder.decode(data)
    except DataError:
        # Once more, for the path in the message: to look it up for every image takes a thirtieth
        # of the time of decoding a small one.
        return decoder.decode(data, images.image_path(index))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images in one piece: pixels uint8, flat; sizes int32 (n, 2); hashes of their files (n,);
    bad: (index in the list, reason).
    """

    pixels: Pixels
    sizes: npt.NDArray[np.int32]
    hashes: Hashes
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
        with capturing_stderr:
            bad, hashes = _decoded(
                images, pipeline, indices, files, lambda _, image: found.append(image)
            )
        sizes = np.array([image.shape[:2] for image in found], np.int32).reshape(-1, 2)
        # All of them may be unreadable, and numpy refuses to join nothing.
        flat = [np.empty(0, np.uint8), *(image.reshape(-1) for image in found)]
        return Chunk(np.concatenate(flat), sizes, hashes, bad)

    # 0 where no header could be read: decoding will say what is wrong.
    image_bytes = max(decoded_bytes(images, pipeline) // len(images), 1)
    length = max(1, min(_CHUNK, _CHUNK_BYTES // image_bytes))
    return _in_threads(work, images, length, workers=workers, on_images=on_images)


def decoded_bytes(images: ImageList, pipeline: Pipeline) -> int:
    """Return how many bytes all images take after the pipeline's prefix.

    Where their sizes differ that is estimated from some headers.
    """
    if pipeline.plan.prefix_size is not None:
        height, width = pipeline.plan.prefix_size
        return len(images) * height * width * pipeline.plan.prefix_channels
    # From all over the list: neighbours are often of one class, and alike in size.
    chosen = spread(range(len(images)), _NUM_HEADERS)
    found = [
        pipeline.size_after_prefix(size) for size in sizes_of(images, chosen) if size is not None
    ]
    pixels = np.prod(found, axis=1, dtype=np.int64).mean() * len(images) if found else 0
    return int(pipeline.plan.prefix_channels * pixels)


def decode_all(
    images: ImageList,
    pipeline: Pipeline,
    *,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Kept:
    """Decode every image of a list into memory, after the pipeline's prefix.

    on_images: called with how many more are done, for a progress bar.
    """
    size, channels = pipeline.plan.prefix_size, pipeline.plan.prefix_channels
    if size is None:
        chunks = decoded_chunks(images, pipeline, workers=workers, on_images=on_images)
        return _of_different_sizes(list(chunks), channels)
    # One array for all: threads write into it, and nothing is copied or pickled.
    pixels = np.empty((len(images), *size, channels), np.uint8)
    # Without a lock: each row is written once, by one thread.
    take = pixels.__setitem__
    bad, hashes = decode_each(images, pipeline, take=take, workers=workers, on_images=on_images)
    return Kept(_closed_up(pixels, [index for index, _ in bad]), bad, hashes=hashes)


def _closed_up(pixels: Pixels, bad: list[int]) -> Pixels:
    """Move the rows after unreadable ones up, in place, and return the rows that are left."""
    first = bad[0] if bad else len(pixels)
    # Row by row: numpy copies what overlaps, which could be nearly all.
    for target, row in enumerate(np.setdiff1d(np.arange(first, len(pixels)), bad), start=first):
        pixels[target] = pixels[row]
    # A view: it keeps the memory of the bad rows too, but a copy would need all of it twice.
    return pixels[: len(pixels) - len(bad)]


def _of_different_sizes(chunks: Sequence[Chunk], channels: int) -> Kept:
    counts = [len(chunk.sizes) for chunk in chunks]
    # The chunks stay apart: joining them would take their memory twice for a moment.
    layout = Layout(
        tuple(chunk.pixels for chunk in chunks),
        np.repeat(np.arange(len(chunks), dtype=np.int32), counts),
        np.concatenate([starts_of(chunk.sizes, channels) for chunk in chunks]),
        np.concatenate([chunk.sizes for chunk in chunks]),
        channels,
    )
    bad = tuple(chain.from_iterable(chunk.bad for chunk in chunks))
    hashes = np.concatenate([chunk.hashes for chunk in chunks])
    return Kept(np.empty(0, np.uint8), bad, layout, hashes=hashes)


def decode_each(
    images: ImageList,
    pipeline: Pipeline | None = None,
    *,
    take: Callable[[int, Pixels], object] | None = None,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> tuple[Bad, Hashes]:
    """Decode every image in threads; return what cannot be read as (index, reason), and the hashes
    of the other files.

    pipeline: its prefix is applied; None for images as they are. take: gets each image with its
    index. on_images: called with how many more are done, for a progress bar.
    """

    def work(indices: range, files: PendingFiles) -> tuple[list[tuple[int, str]], Hashes]:
        with capturing_stderr:
            return _decoded(images, pipeline, indices, files, take)

    found = list(_in_threads(work, images, _CHUNK, workers=workers, on_images=on_images))
    bad = tuple(chain.from_iterable(bad for bad, _ in found))
    return bad, np.concatenate([hashes for _, hashes in found])


def _decoded(
    images: ImageList,
    pipeline: Pipeline | None,
    indices: range,
    files: PendingFiles,
    take: Callable[[int, Pixels], object] | None,
) -> tuple[list[tuple[int, str]], Hashes]:
    """Hand some images to `take` with their indices; return what cannot be read, and the hashes of
    the others.
    """
    bad = []
    contents = files.contents()
    # Before decoding: the bytes are still in a core's cache.
    hashes = fingerprints(contents)
    for index, content in zip(indices, contents, strict=True):
        try:
            pixels = decoded_image(images, index, content)
        # Only what is wrong with this image: a failing disk or a bad transform ends the pass.
        except DataError as error:
            bad.append((index, str(error)))
            continue
        if take is not None:
            take(index, pixels if pipeline is None else pipeline.apply_prefix(pixels))
    return bad, np.delete(hashes, [index - indices.start for index, _ in bad])


def _in_threads(
    work: Callable[[range, PendingFiles], T],
    images: ImageList,
    length: int,
    *,
    workers: int,
    on_images: Callable[[int], None] | None,
) -> Iterator[T]:
    """Yield what `work` gives for each `length` images or fewer, in order; no more than two results
    a thread are waiting.
    """
    workers = workers or num_cores()
    # Of a short list every thread gets several parts: they end at about the same time.
    length = max(1, min(length, len(images) // (4 * workers)))
    waiting: deque[tuple[int, Future[T]]] = deque()

    def first() -> T:
        count, future = waiting.popleft()
        # In the caller's thread and the list's order, so progress and errors come in order too.
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
        # Waits for the tasks that run: they still write into the caller's memory.
        pool.shutdown(cancel_futures=True)
