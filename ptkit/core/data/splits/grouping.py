"""Find images that must stay together: exact duplicates, and groups that share part of a name."""

import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ptkit.core.data.components import joined
from ptkit.core.data.formats import begins_as_image
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.errors import UsageError
from ptkit.core.files import with_retries
from ptkit.core.machine import num_cores


@dataclass(frozen=True)
class Grouping:
    """Images that must stay together, and what was found on the way.

    units: disjoint sets of two or more indices, each ascending.
    certain: the same without near-duplicates: given parts must not share any.
    num_near: images that have a near-duplicate.
    not_images: names of files that are no images, see `Contents`.
    num_duplicates: images with the bytes of an earlier one.
    conflicts: names of two images with the same bytes and different classes, a pair for each set of
    duplicates.
    num_groups, num_ungrouped: groups that the pattern found, images that it did not match.
    """

    units: list[list[int]] = field(default_factory=list, repr=False)
    num_duplicates: int = 0
    conflicts: tuple[tuple[str, str], ...] = ()
    num_groups: int = 0
    num_ungrouped: int = 0
    certain: list[list[int]] = field(default_factory=list, repr=False)
    num_near: int = 0
    not_images: tuple[str, ...] = ()


def group_images(scan: Scan, *, group_by: str | None, near_duplicates: bool = False) -> Grouping:
    """Find duplicates (their files are read) and groups.

    group_by: a regular expression searched in each name; its first group, or else the whole match,
    is the key. None takes the groups of the scan. near_duplicates: decode the images, and find
    those that look alike too; unreadable ones look like nothing.

    Raises:
        UsageError: group_by is not a regular expression or matches nothing.
        DataError: a file cannot be read.
    """
    keys = scan.groups if group_by is None else _keys_of_names(scan.names, group_by)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if key is not None:
            groups[key].append(index)
    # After the names: a wrong pattern is reported before files are read.
    contents = look_into(scan.paths, scan.sizes)
    duplicates = contents.duplicates
    certain = joined([*duplicates, *groups.values()])
    near = _near_pairs(scan) if near_duplicates else []
    return Grouping(
        units=joined([*certain, *near]) if near else certain,
        certain=certain,
        num_near=len({index for pair in near for index in pair}),
        num_duplicates=sum(len(same) - 1 for same in duplicates),
        conflicts=_conflicts(scan, duplicates),
        num_groups=len(groups),
        num_ungrouped=keys.count(None),
        not_images=tuple(scan.names[index] for index in contents.not_images),
    )


def _near_pairs(scan: Scan) -> list[list[int]]:
    # A split without near-duplicates starts without numpy and OpenCV.
    import numpy as np

    from ptkit.core.data.checking import duplicates
    from ptkit.core.data.checking.properties import measure
    from ptkit.core.data.lists import list_of
    from ptkit.core.data.transparency import alpha_for

    alpha = alpha_for(list_of(scan.paths, ()))
    found = duplicates.near_duplicates(measure(scan.paths, alpha=alpha), np.array(scan.labels))
    pairs: list[list[int]] = np.stack([found.first, found.second], axis=1).tolist()
    return pairs


def finder_of_keys(pattern: str) -> Callable[[str], str | None]:
    """Return what finds in a name the key of its group; None where the pattern does not match.

    Raises:
        UsageError: it is not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--group-by is not a regular expression: {error}, found {pattern!r}"
        ) from None
    group = 1 if compiled.groups else 0
    return lambda name: match[group] if (match := compiled.search(name)) else None


def _keys_of_names(names: Sequence[str], pattern: str) -> list[str | None]:
    """Return what names of one group share; None for those that do not match."""
    keys = list(map(finder_of_keys(pattern), names))
    if keys.count(None) == len(keys):
        raise UsageError(f"--group-by {pattern!r} matches no image; paths look like {names[0]!r}")
    return keys


def _conflicts(scan: Scan, duplicates: Iterable[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    names, labels = scan.names, scan.labels
    unlike = ((same[0], [k for k in same if labels[k] != labels[same[0]]]) for same in duplicates)
    return tuple((names[first], names[others[0]]) for first, others in unlike if others)


# Nearly all files of equal size differ within the first block, so few are read to the end.
_BLOCK_BYTES = 16384
# Threads hide the latency of a cold or remote disk (60,000 files in 1.7 s instead of 4.2) but cost
# time where the files are in memory (0.4 s instead of 0.25), so the first files decide. Of very
# many, copies of the process read those.
_NUM_THREADS = 4
_MANY_FILES = 20_000
_NUM_TIMED = 200
_SLOW_FILE_S = 30e-6
_WORTH_THREADS_S = 0.2
# The bit of the hash of a block that says that it does not begin as an image does.
_IS_NO_IMAGE = 1


@dataclass(frozen=True)
class Contents:
    """What files hold, by their indices.

    duplicates: sets of two or more with equal bytes, each ascending. not_images: empty ones, and of
    those that were read the ones that do not begin as an image does, ascending.
    """

    duplicates: list[list[int]]
    not_images: list[int]


def find_duplicates(paths: Sequence[str], sizes: Sequence[int]) -> list[list[int]]:
    """Return the duplicates alone, see `look_into`."""
    return look_into(paths, sizes).duplicates


def look_into(paths: Sequence[str], sizes: Sequence[int]) -> Contents:
    """Compare files, and see whether they begin as images do.

    Only files of equal size are read: the first block of each, and all of those that still look
    alike. Empty files equal nothing.

    Raises:
        DataError: a file cannot be read. StorageError: the disk failed three times.
    """
    candidates = _grouped((k for k, size in enumerate(sizes) if size > 0), key=sizes.__getitem__)
    indices = [index for group in candidates for index in group]
    hashes = _all_block_hashes([(paths[index], sizes[index]) for index in indices])
    blocks = dict(zip(indices, hashes, strict=True))
    alike = [same for group in candidates for same in _grouped(group, key=blocks.__getitem__)]
    digests = {k: with_retries(paths[k], _digest, paths[k]) for group in alike for k in group}
    same = sorted(same for group in alike for same in _grouped(group, key=digests.__getitem__))
    not_images = [index for index, found in blocks.items() if found & _IS_NO_IMAGE]
    if 0 in sizes:
        not_images += [index for index, size in enumerate(sizes) if size == 0]
    return Contents(same, sorted(not_images))


def _grouped(indices: Iterable[int], *, key: Callable[[int], Hashable]) -> list[list[int]]:
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _all_block_hashes(files: Sequence[tuple[str, int]]) -> list[int]:
    """Return the hash of the first block of each (path, size), by threads or copies of the process
    where that is quicker.
    """
    start = time.perf_counter()
    hashes = _block_hashes(files[:_NUM_TIMED])
    seconds = (time.perf_counter() - start) / max(len(hashes), 1)
    rest = files[_NUM_TIMED:]
    pieces = [rest[first : first + 500] for first in range(0, len(rest), 500)]
    found: Iterable[list[int]] = map(_block_hashes, pieces)
    if seconds >= _SLOW_FILE_S and seconds * len(rest) >= _WORTH_THREADS_S:
        found = _in_threads(pieces)
    elif seconds < _SLOW_FILE_S and len(rest) >= _MANY_FILES:
        found = _in_processes(pieces)
    return hashes + list(chain.from_iterable(found))


def _in_threads(pieces: Sequence[Sequence[tuple[str, int]]]) -> Iterator[list[int]]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        yield from pool.map(_block_hashes, pieces)


def _in_processes(pieces: Sequence[Sequence[tuple[str, int]]]) -> Iterator[list[int]]:
    from ptkit.core.data.forked import can_fork, in_copies

    copies = min(num_cores(), _NUM_THREADS) if can_fork() else 1
    if copies == 1:
        return map(_block_hashes, pieces)
    # A copy has this process's secret of `hash`.
    return in_copies(
        lambda copy: map(_block_hashes, pieces[copy::copies]), copies=copies, count=len(pieces)
    )


def _block_hashes(files: Iterable[tuple[str, int]]) -> list[int]:
    hashes = []
    for path, size in files:
        # Retries only after a failure: the call around each file would be a thirtieth of the time.
        try:
            hashes.append(_block_hash(path, size))
        except OSError:
            hashes.append(with_retries(path, _block_hash, path, size))
    return hashes


def _block_hash(path: str, size: int) -> int:
    """Return a quick hash of the first block, with _IS_NO_IMAGE; files of equal hashes are then
    compared in full.
    """
    # os.open and os.read take half the time of open().
    descriptor = os.open(path, os.O_RDONLY)
    try:
        block = os.read(descriptor, min(size, _BLOCK_BYTES))
    finally:
        os.close(descriptor)
    return hash(block) & ~_IS_NO_IMAGE if begins_as_image(block) else hash(block) | _IS_NO_IMAGE


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
