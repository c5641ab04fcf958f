"""Reading files ahead of the threads that decode them, where the disk is slow."""

import math
import operator
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.core.data.transforms.spec import Size
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.files import NUM_READERS, from_disk

T = TypeVar("T")
Content = bytes | PtkitError

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

    def some(part: Sequence[int]) -> list[Size | None]:
        return [size(indices[k]) for k in part]

    found = from_disk(some, len(indices), at_once=_FILES_AT_ONCE)
    return list(chain.from_iterable(found))


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
