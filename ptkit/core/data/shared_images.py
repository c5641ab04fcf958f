"""Whether two lists name the same image: ten million lines are compared by hashes, not by asking
the disk.
"""

import os
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ptkit.core.data.lists import ImageList

_SLASH = ord("/")

_Hashes = npt.NDArray[np.int64]


def first_shared(one: ImageList, other: ImageList) -> str | None:
    """Return the path of the first image of `other` that `one` also names, in any form, or None.

    A path may mean a file beside its list or in the working directory. The disk is asked only about
    paths that may mean the same file: to ask about every line would take hours on a slow disk.
    """
    ours, theirs = _possible(one), _possible(other)
    # What is in both; sorting takes a tenth of np.intersect1d's time.
    ordered, sought = np.sort(ours, axis=None), np.sort(theirs, axis=None)
    places = np.searchsorted(ordered, sought)
    common = sought[ordered[np.minimum(places, len(ordered) - 1)] == sought]
    if not len(common):
        return None
    rows = np.flatnonzero(np.isin(ours, common).any(axis=0))
    candidates = np.flatnonzero(np.isin(theirs, common).any(axis=0))
    known = _hashes(_meant(one, rows), len(rows))
    found = _hashes(_meant(other, candidates), len(candidates))
    for place in np.flatnonzero(np.isin(found, known)).tolist():
        path = other.image_path(int(candidates[place]))
        # Paths that differ may have one hash.
        if os.fsencode(os.path.abspath(path)) in _meant(one, rows[known == found[place]]):
            return path
    return None


def _possible(images: ImageList) -> _Hashes:
    """Return hashes of all files that the paths may mean, (1 or 2, N): beside the list, in the
    working directory; of images that were moved, where they are now.
    """
    if images.moved:
        return _hashes(_meant(images, np.arange(len(images))), len(images))[None]
    folders = dict.fromkeys([os.fsencode(os.path.abspath(images.folder)), os.getcwdb()])
    paths = (_joined(folder, images.raw_paths()) for folder in folders)
    return np.stack([_hashes(joined, len(images)) for joined in paths])


def _joined(folder: bytes, paths: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    prefix = os.path.join(folder, b"")
    for path in paths:
        joined = prefix + path if path[0] != _SLASH else bytes(path)
        # normpath changes only paths with one of these, or a folder's own name: not an image.
        yield os.path.normpath(joined) if b"./" in joined or b"//" in joined else joined


def _meant(images: ImageList, rows: npt.NDArray[np.int64]) -> Iterator[bytes]:
    return (os.fsencode(os.path.abspath(images.image_path(int(row)))) for row in rows)


def _hashes(paths: Iterator[bytes], count: int) -> _Hashes:
    return np.fromiter(map(hash, paths), np.int64, count)
