"""Decoding whole lists once."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
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
from ptkit.core.data.loading.reading import (
    Content,
    PendingFiles,
    checked,
    read_ahead,
    sizes_of,
)
from ptkit.core.data.oddities import oddities
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import thread_pool
from ptkit.core.errors import DataError
from ptkit.core.machine import num_cores

T = TypeVar("T")

# Images of one task: handing over a single 32×32 JPEG costs about as much as decoding it.
_CHUNK = 128
# A thread holds the images of a chunk twice: as they were decoded, and in one piece.
_CHUNK_BYTES = 4 << 20
# Read to estimate the memory that a list with images of different sizes will take.
_NUM_HEADERS = 256


def decoded_image(
    images: ImageList, index: int, content: Content, *, alpha: str = "drop"
) -> Pixels:
    """Decode the content of a list's file. alpha: see `images.read`.

    Raises:
        PtkitError: it could not be read, or is not an image.
    """
    data = checked(content)
    try:
        return decoder.decode(data, alpha=alpha)
    except DataError:
        # Once more, for the path in the message: to look it up for every image takes a thirtieth
        # of the time of decoding a small one.
        return decoder.decode(data, images.image_path(index), alpha=alpha)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images in one piece: pixels uint8, flat; sizes int32 (n, 2); seen: what else the pass
    over them found.
    """

    pixels: Pixels
    sizes: npt.NDArray[np.int32]
    seen: "Seen"


@dataclass(frozen=True, eq=False)
class Seen:
    """What a pass over images found beside their pixels.

    bad: (index in the list, reason) of what cannot be read. hashes: of the files of the others.
    odd: how many of them are of each unusual kind.
    """

    bad: Bad
    hashes: Hashes
    odd: Counter[str]

    @staticmethod
    def together(parts: "Sequence[Seen]") -> "Seen":
        """Return what the passes over the parts of a list found."""
        bad = tuple(chain.from_iterable(part.bad for part in parts))
        hashes = np.concatenate([part.hashes for part in parts])
        return Seen(bad, hashes, sum((part.odd for part in parts), Counter()))


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
            seen = _decoded(images, pipeline, indices, files, lambda _, image: found.append(image))
        sizes = np.array([image.shape[:2] for image in found], np.int32).reshape(-1, 2)
        # All of them may be unreadable, and numpy refuses to join nothing.
        flat = [np.empty(0, np.uint8), *(image.reshape(-1) for image in found)]
        return Chunk(np.concatenate(flat), sizes, seen)

    # 0 where no header could be read: decoding will say what is wrong.
    image_bytes = max(decoded_bytes(images, pipeline) // len(images), 1)
    length = max(1, min(_CHUNK, _CHUNK_BYTES // image_bytes))
    return in_threads(work, images, length, workers=workers, on_images=on_images)


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
    seen = decode_each(images, pipeline, take=take, workers=workers, on_images=on_images)
    rows = _closed_up(pixels, [index for index, _ in seen.bad])
    return Kept(rows, seen.bad, hashes=seen.hashes, odd=seen.odd)


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
    seen = Seen.together([chunk.seen for chunk in chunks])
    return Kept(np.empty(0, np.uint8), seen.bad, layout, hashes=seen.hashes, odd=seen.odd)


def decode_each(
    images: ImageList,
    pipeline: Pipeline | None = None,
    *,
    take: Callable[[int, Pixels], object] | None = None,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Seen:
    """Decode every image in threads; return what that finds beside the pixels.

    pipeline: its prefix is applied; None for images as they are. take: gets each image with its
    index. on_images: called with how many more are done, for a progress bar.
    """

    def work(indices: range, files: PendingFiles) -> Seen:
        with capturing_stderr:
            return _decoded(images, pipeline, indices, files, take)

    return Seen.together(
        list(in_threads(work, images, _CHUNK, workers=workers, on_images=on_images))
    )


def _decoded(
    images: ImageList,
    pipeline: Pipeline | None,
    indices: range,
    files: PendingFiles,
    take: Callable[[int, Pixels], object] | None,
) -> Seen:
    """Hand some images to `take` with their indices; return what that finds beside the pixels."""
    bad, odd = [], Counter[str]()
    contents = files.contents()
    alpha = "drop" if pipeline is None else pipeline.alpha
    # Before decoding: the bytes are still in a core's cache.
    hashes = fingerprints(contents)
    for index, content in zip(indices, contents, strict=True):
        try:
            pixels = decoded_image(images, index, content, alpha=alpha)
        # Only what is wrong with this image: a failing disk or a bad transform ends the pass.
        except DataError as error:
            bad.append((index, str(error)))
            continue
        if found := oddities(checked(content), images.listed_path(index), pixels.shape[:2]):
            odd.update(found)
        if take is not None:
            take(index, pixels if pipeline is None else pipeline.apply_prefix(pixels))
    good = np.delete(hashes, [index - indices.start for index, _ in bad])
    return Seen(tuple(bad), good, odd)


def in_threads(
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
