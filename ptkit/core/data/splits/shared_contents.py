"""Images of one list whose bytes are those of an image in another, whatever their paths."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ptkit.core.data.lists import ImageList
from ptkit.core.data.splits.grouping import find_duplicates

# The disk waits, not a core: on a network more threads ask at once.
_NUM_THREADS, _FILES_AT_ONCE = 16, 1024


def find_copies(one: ImageList, other: ImageList) -> list[tuple[str, str]]:
    """Return the path of each image of `other` that has the bytes of an image of `one`, with that
    image's path.

    As `split` finds duplicates: only files of equal size are read. Files that are not there or
    cannot be read equal nothing; who decodes them says so.

    Raises:
        StorageError: the disk failed three times.
    """
    ours, theirs = _sizes(one), _sizes(other)
    rows = np.flatnonzero(np.isin(ours, theirs[theirs > 0]))
    candidates = np.flatnonzero(np.isin(theirs, ours[rows]))
    paths = [*_paths(one, rows), *_paths(other, candidates)]
    is_readable = [os.access(path, os.R_OK) for path in paths]
    # find_duplicates leaves out what has no size.
    sizes = (np.concatenate([ours[rows], theirs[candidates]]) * is_readable).tolist()
    num_ours = len(rows)
    return [
        (paths[index], paths[same[0]])
        for same in find_duplicates(paths, sizes)
        if same[0] < num_ours
        for index in same
        if index >= num_ours
    ]


def _paths(images: ImageList, rows: npt.NDArray[np.int64]) -> list[str]:
    return [images.image_path(row) for row in rows.tolist()]


def _sizes(images: ImageList) -> npt.NDArray[np.int64]:
    """Return the bytes of each regular file, 0 for what is none."""

    def some(start: int) -> list[int]:
        return [_size(images.image_path(k)) for k in range(len(images))[start:][:_FILES_AT_ONCE]]

    starts = range(0, len(images), _FILES_AT_ONCE)
    with ThreadPoolExecutor(_NUM_THREADS, "ptkit-stat") as pool:
        return np.array([size for sizes in pool.map(some, starts) for size in sizes], np.int64)


def _size(path: str) -> int:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
