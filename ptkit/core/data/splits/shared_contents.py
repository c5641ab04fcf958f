"""Images of one list whose bytes are those of an image in another, whatever their paths."""

import os
import stat
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from ptkit.core.data.lists import ImageList
from ptkit.core.data.splits.grouping import find_duplicates
from ptkit.core.files import from_disk

# On a local disk, asking about one file is quicker than handing it to a thread.
_FILES_AT_ONCE = 1024


def find_copies(one: ImageList, other: ImageList) -> list[tuple[str, str]]:
    """Return the path of each image of `other` that has the bytes of an image of `one`, with that
    image's path.

    As `split` finds duplicates: only files of equal size are read. Files that are not there or
    cannot be read equal nothing; decoding reports them.

    Raises:
        StorageError: the disk failed three times.
    """
    ours, theirs = _sizes(one), _sizes(other)
    rows = np.flatnonzero(np.isin(ours, theirs[theirs > 0]))
    candidates = np.flatnonzero(np.isin(theirs, ours[rows]))
    paths = [*_paths(one, rows), *_paths(other, candidates)]
    is_readable = _of_each(lambda k: os.access(paths[k], os.R_OK), len(paths))
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
    """Return the bytes of each regular file, 0 for anything else."""
    return _of_each(lambda k: _size(images.image_path(k)), len(images))


def _of_each(ask: Callable[[int], int], count: int) -> npt.NDArray[np.int64]:
    """Return what the disk answers about each of so many files."""

    def some(part: Sequence[int]) -> list[int]:
        return list(map(ask, part))

    answers = from_disk(some, count, at_once=_FILES_AT_ONCE)
    return np.fromiter(chain.from_iterable(answers), np.int64, count)


def _size(path: str) -> int:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
