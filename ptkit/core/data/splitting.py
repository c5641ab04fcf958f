"""Dividing images into training, validation and test parts that share nothing."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ptkit.core.data.duplicates import find_duplicates
from ptkit.core.data.placement import place_images
from ptkit.core.data.scanning import Scan
from ptkit.core.errors import DataError, UsageError

PART_NAMES = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Which part each image belongs to.

    part_of: per image of the scan, an index into part_names.
    counts: images per class and part, counts[label][part].
    num_duplicates: images with the bytes of an earlier one.
    conflicts: pairs of names with the same bytes in two classes, one pair a set of duplicates.
    num_groups, num_ungrouped: groups that --group-by found, images that it did not match.
    """

    part_names: tuple[str, ...]
    part_of: Sequence[int] = field(repr=False)
    counts: list[list[int]] = field(repr=False)
    num_duplicates: int = 0
    conflicts: tuple[tuple[str, str], ...] = ()
    num_groups: int = 0
    num_ungrouped: int = 0

    @property
    def totals(self) -> list[int]:
        """Images per part."""
        return [sum(column) for column in zip(*self.counts, strict=True)]


def split_images(
    scan: Scan, ratio: Sequence[int], *, seed: int = 0, group_by: str | None = None, allow_missing: bool = False
) -> Split:
    """Divide the images by class in the given ratio; duplicates and groups stay on one side.

    Every class gets within one image, or within its largest group, of its share. The same scan and seed give the
    same parts.

    ratio: two or three positive integers, see `parse_ratio`.
    group_by: a regular expression searched in each name; its first group, or else the whole match, is the key.
    allow_missing: whether a class may have fewer images than there are parts.

    Raises:
        UsageError: group_by is no regular expression or matches nothing.
        DataError: a class is too small, or a part would get no image.
    """
    _check_sizes(scan, num_parts=len(ratio), allow_missing=allow_missing)
    groups, num_ungrouped = _named_groups(scan.names, group_by) if group_by is not None else ([], 0)
    duplicates = find_duplicates(scan.paths, scan.sizes)
    units = _joined([*duplicates, *groups])
    part_of = place_images(scan.labels, units, class_names=scan.class_names, ratio=ratio, seed=seed)
    counts = [[0] * len(ratio) for _ in scan.class_names]
    for label, part in zip(scan.labels, part_of, strict=True):
        counts[label][part] += 1
    num_duplicates = sum(len(same) - 1 for same in duplicates)
    conflicts = _conflicts(scan, duplicates)
    split = Split(PART_NAMES[: len(ratio)], part_of, counts, num_duplicates, conflicts, len(groups), num_ungrouped)
    _check_parts(split)
    return split


def parse_ratio(text: str) -> tuple[int, ...]:
    """Return `8:1:1` or `0.7:0.3` as integers of the same ratio (train:valid or train:valid:test).

    Raises:
        UsageError: not two or three positive numbers.
    """
    numbers = text.split(":")
    form = re.compile(r"\s*([0-9]*)(?:\.([0-9]*))?\s*")
    matches = [form.fullmatch(number) for number in numbers]
    parts = [(match[1], match[2] or "") for match in matches if match]
    digits = max((len(fraction) for _, fraction in parts), default=0)
    # Integers, so that shares of exactly one half are seen as such.
    values = tuple(int((whole + fraction.ljust(digits, "0")) or "0") for whole, fraction in parts)
    if len(values) != len(numbers) or len(values) not in (2, 3) or min(values) == 0:
        raise UsageError(
            f"--ratio must be two or three positive numbers such as 8:1:1 (train:valid:test), found {text!r}"
        )
    return values


def _check_sizes(scan: Scan, *, num_parts: int, allow_missing: bool) -> None:
    sizes = Counter(scan.labels)
    small = [name for label, name in enumerate(scan.class_names) if sizes[label] < num_parts]
    if not small or allow_missing:
        return
    first = sizes[scan.class_names.index(small[0])]
    others = f" (so have {len(small) - 1:,} more classes)" if len(small) > 1 else ""
    raise DataError(
        f"class {small[0]} has fewer images, {first}, than the {num_parts} parts{others}; "
        "add images, or pass --allow-missing"
    )


def _check_parts(split: Split) -> None:
    for name, total in zip(split.part_names, split.totals, strict=True):
        if total == 0:
            raise DataError(
                f"{name} would get no image: too few images, or too large groups and duplicates, for this ratio"
            )


def _named_groups(names: Sequence[str], pattern: str) -> tuple[list[list[int]], int]:
    """Return the indices of each group, and how many names do not match."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"--group-by is no regular expression: {error}, found {pattern!r}") from None
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
    """Return the connected components of overlapping groups, each ascending; single images are left out."""
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


def _conflicts(scan: Scan, duplicates: Iterable[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for first, *others in duplicates:
        other = next((index for index in others if scan.labels[index] != scan.labels[first]), None)
        if other is not None:
            pairs.append((scan.names[first], scan.names[other]))
    return tuple(pairs)
