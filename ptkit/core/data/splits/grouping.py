"""Which images must stay together: exact duplicates, and the groups that a pattern finds in their
names.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ptkit.core.data.splits.duplicates import find_duplicates
from ptkit.core.errors import UsageError


@dataclass(frozen=True)
class Grouping:
    """Images that must stay together, and what was found on the way.

    units: disjoint sets of indices, each ascending; images that stand alone are left out.
    num_duplicates: images with the bytes of an earlier one.
    conflicts: pairs of names with the same bytes in two classes, one pair a set of duplicates.
    num_groups, num_ungrouped: groups that the pattern found, images that it did not match.
    """

    units: list[list[int]] = field(default_factory=list, repr=False)
    num_duplicates: int = 0
    conflicts: tuple[tuple[str, str], ...] = ()
    num_groups: int = 0
    num_ungrouped: int = 0


def group_images(
    names: Sequence[str],
    paths: Sequence[str],
    *,
    sizes: Sequence[int],
    labels: Sequence[int],
    group_by: str | None,
) -> Grouping:
    """Find duplicates (their files are read) and groups.

    names, paths, sizes, labels: of each image. group_by: a regular expression searched in each
    name; its first
    group, or else the whole match, is the key.

    Raises:
        UsageError: group_by is no regular expression or matches nothing. DataError: a file cannot
            be read.
    """
    groups, num_ungrouped = _named_groups(names, group_by) if group_by is not None else ([], 0)
    duplicates = find_duplicates(paths, sizes)
    num_duplicates = sum(len(same) - 1 for same in duplicates)
    conflicts = _conflicts(names, labels, duplicates)
    return Grouping(
        _joined([*duplicates, *groups]), num_duplicates, conflicts, len(groups), num_ungrouped
    )


def _named_groups(names: Sequence[str], pattern: str) -> tuple[list[list[int]], int]:
    """Return the indices of each group, and how many names do not match."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UsageError(
            f"--group-by is no regular expression: {error}, found {pattern!r}"
        ) from None
    groups: defaultdict[str, list[int]] = defaultdict(list)
    num_ungrouped = 0
    for index, name in enumerate(names):
        match = search(name)
        key = None if match is None else match[1] if match.re.groups else match[0]
        if key is None:
            num_ungrouped += 1
        else:
            groups[key].append(index)
    if not groups:
        raise UsageError(f"--group-by {pattern!r} matches no image; paths look like {names[0]!r}")
    return list(groups.values()), num_ungrouped


def _joined(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the connected components of overlapping groups, each ascending; single images are left
    out.
    """
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while (above := parent.setdefault(index, index)) != index:
            parent[index] = parent[above]
            index = above
        return index

    for first, *others in groups:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    units: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(parent):
        units[root(index)].append(index)
    return list(units.values())


def _conflicts(
    names: Sequence[str], labels: Sequence[int], duplicates: Iterable[Sequence[int]]
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for first, *others in duplicates:
        other = next((index for index in others if labels[index] != labels[first]), None)
        if other is not None:
            pairs.append((names[first], names[other]))
    return tuple(pairs)
