"""Sets that overlap, joined into disjoint ones."""

from collections import defaultdict
from collections.abc import Iterable, Sequence


def joined(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the connected components of overlapping groups, each ascending."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while (above := parent.setdefault(index, index)) != index:
            parent[index] = parent[above]
            index = above
        return index

    for first, *others in groups:
        for other in others:
            # The smaller index becomes the root, so that the result depends on the sets alone.
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    units: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(parent):
        units[root(index)].append(index)
    return list(units.values())
