"""Reading files ahead of the threads that decode them, where the disk lets these wait."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DataError, PtkitError

T = TypeVar("T")
Size = tuple[int, int]
Content = bytes | PtkitError

# They wait and need no core: of a disk that answers after 10 ms they get 3,200 files a second.
NUM_READERS = 32
_BYTES_AHEAD = 128 << 20
# Seconds a file; memory and SSDs are quicker. Where they are, readers would halve the rate of small
# files: handing
# over costs more than reading.
_SLOW = 4e-4
_NUM_PROBED = 2
_FILES_AT_ONCE = 8


class Reading:
    """Some files of a list: read when their contents are wanted, or ahead of that."""

    def __init__(self, images: ImageList, indices: Sequence[int], pace: "_Pace") -> None:
        self._images, self._indices, self._pace = images, indices, pace
        self._futures: list[Future[list[Content]]] = []

    def contents(self) -> list[Content]:
        """Return the content of each file, or the error that came of reading it."""
        if not self._futures:
            return self._pace.read(self._images, self._indices)
        return [content for future in self._futures for content in future.result()]

    def start(self, readers: ThreadPoolExecutor) -> None:
        """Read in other threads."""
        parts = (
            self._indices[k : k + _FILES_AT_ONCE]
            for k in range(0, len(self._indices), _FILES_AT_ONCE)
        )
        self._futures = [readers.submit(self._pace.read, self._images, part) for part in parts]


def sizes_of(images: ImageList, indices: Sequence[int]) -> list[Size | None]:
    """Return (height, width) of some images from their headers, None for what cannot be read; many
    at a time.
    """

    def size(index: int) -> Size | None:
        try:
            return decoder.size_of(images.image_path(index))
        except DataError:
            return None

    with ThreadPoolExecutor(NUM_READERS, "ptkit-read") as readers:
        return list(readers.map(size, indices))


def checked(content: Content) -> bytes:
    """Return the content of a file.

    Raises:
        PtkitError: what came of reading it instead.
    """
    if isinstance(content, PtkitError):
        raise content
    return content


def read_ahead(
    images: ImageList, groups: Iterable[tuple[T, Sequence[int]]]
) -> Iterator[tuple[T, Reading]]:
    """Yield each group, named by anything and of some indices into the list, with the reading of
    its files.

    While files come at once, whoever wants their contents reads them. When they let one wait, many
    readers fetch what follows, 128 MiB of it and at least one group, as long as this iterator
    lives.
    """
    pace, remaining = _Pace(), iter(groups)
    waiting: deque[tuple[T, Reading, int]] = deque()
    num_waiting = 0
    readers = ThreadPoolExecutor(NUM_READERS, "ptkit-read")
    try:
        while True:
            while not waiting or (pace.is_slow and pace.has_room(num_waiting)):
                group = next(remaining, None)
                if group is None:
                    break
                name, indices = group
                pace.probe(images, indices)
                reading = Reading(images, indices, pace)
                if pace.is_slow:
                    reading.start(readers)
                waiting.append((name, reading, len(indices)))
                num_waiting += len(indices)
            if not waiting:
                return
            name, reading, count = waiting.popleft()
            num_waiting -= count
            yield name, reading
    except GeneratorExit:
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        # What was asked for is still read.
        readers.shutdown(wait=False)


class _Pace:
    """How large files are and how long they let their readers wait, in the mean.

    is_slow: stays so, because busy readers wait for each other too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_files, self._num_read, self._num_bytes, self._waited_s = 0, 0, 0, 0.0
        self.is_slow = False

    def has_room(self, num_waiting: int) -> bool:
        """Say whether to ask for more files than these; a slow start, as the first say little of
        the others.
        """
        by_bytes = _BYTES_AHEAD * self._num_read / self._num_bytes if self._num_bytes else math.inf
        return num_waiting < min(by_bytes, NUM_READERS * _FILES_AT_ONCE + 2 * self._num_read)

    def probe(self, images: ImageList, indices: Sequence[int]) -> None:
        """Read one or two files, unless some have been read."""
        if self._num_files == 0:
            self.read(images, indices[:_NUM_PROBED])

    def read(self, images: ImageList, indices: Sequence[int]) -> list[Content]:
        start, busy_before = time.perf_counter(), time.thread_time()
        contents = [_content(images, index) for index in indices]
        # Not the whole time: of a busy machine's files in memory it says little.
        waited = time.perf_counter() - start - (time.thread_time() - busy_before)
        with self._lock:
            self._num_files += len(contents)
            found = [len(content) for content in contents if isinstance(content, bytes)]
            self._num_read += len(found)
            self._num_bytes += sum(found)
            self._waited_s += waited
            self.is_slow = self.is_slow or self._waited_s > _SLOW * self._num_files
        return contents


def _content(images: ImageList, index: int) -> Content:
    try:
        return decoder.read_bytes(images.image_path(index))
    except PtkitError as error:
        return error
