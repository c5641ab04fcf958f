"""Dividing images into parts that share nothing: training, validation and test, or folds."""

import functools
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ptkit.core.data.splits.given_parts import PART_NAMES, check_apart
from ptkit.core.data.splits.grouping import Grouping, group_images
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.errors import DataError, UsageError
from ptkit.core.wording import counted

# Far above what anyone trains; the part of an image is one byte.
_MAX_FOLDS = 100


@dataclass(frozen=True)
class Split:
    """Which part each image belongs to.

    part_of: per image of the scan, an index into part_names.
    counts: images per class and part, counts[label][part].
    grouping: the duplicates and groups that were kept in one part.
    """

    part_names: tuple[str, ...]
    part_of: Sequence[int] = field(repr=False)
    counts: list[list[int]] = field(repr=False)
    grouping: Grouping = field(default_factory=Grouping)

    @property
    def totals(self) -> list[int]:
        """Images per part."""
        return [sum(column) for column in zip(*self.counts, strict=True)]


def split_images(
    scan: Scan,
    ratio: Sequence[int],
    *,
    part_names: Sequence[str] = PART_NAMES,
    seed: int = 0,
    group_by: str | None = None,
    near_duplicates: bool = False,
    allow_missing: bool = False,
) -> Split:
    """Divide the images by class in the given ratio; keep duplicates and groups in one part.

    Every class gets within one image, or within its largest group, of its share. The same scan and
    seed give the same parts.

    Images whose part the scan gives stay in it; then only those of train are divided.

    ratio: positive integers, see `parse_ratio` and `fold_parts`.
    part_names: a name for each part; there may be more names.
    group_by: a regular expression searched in each name; its first group, or else the whole match,
    is the key.
    near_duplicates: whether images that look alike stay together too; of given parts, in train.
    allow_missing: whether a class may have fewer images than there are parts.

    Raises:
        UsageError: group_by is not a regular expression or matches nothing.
        DataError: a class is too small, a part would get no image, or given parts share images.
    """
    names = tuple(part_names[: len(ratio)])
    rows: Sequence[int] = range(len(scan))
    if scan.parts:
        rows = [row for row in rows if scan.parts[row] == "train"]
    labels = [scan.labels[row] for row in rows]
    sizes = Counter(labels)
    sizes_by_name = {name: sizes[label] for label, name in enumerate(scan.class_names)}
    check_sizes(sizes_by_name, num_parts=len(ratio), allow_missing=allow_missing)
    grouping = group_images(scan, group_by=group_by, near_duplicates=near_duplicates)
    check_apart(scan, grouping)
    units = _among(rows, grouping.units) if scan.parts else grouping.units
    part_of = place_images(labels, units, class_names=scan.class_names, ratio=ratio, seed=seed)
    if scan.parts:
        names, part_of = _with_given(scan.parts, names, placed=part_of)
    counts = [[0] * len(names) for _ in scan.class_names]
    add_counts(counts, scan.labels, parts=part_of)
    split = Split(names, part_of, counts, grouping)
    check_parts(split)
    return split


def all_part_names(made: Sequence[str], given: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the parts that are made and those that are given, in the usual order."""
    _, *others = PART_NAMES
    first = [name for name in made if name not in others]
    return (*first, *(name for name in others if name in {*made, *given}))


def _among(rows: Sequence[int], units: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return what each of the units has among these images, by their places there."""
    places = {row: place for place, row in enumerate(rows)}
    inside = ([places[row] for row in unit if row in places] for unit in units)
    return [unit for unit in inside if len(unit) > 1]


def _with_given(
    given: Sequence[str], made: tuple[str, ...], *, placed: bytearray
) -> tuple[tuple[str, ...], bytearray]:
    """Return the names of all parts, and the part of each image, given or placed."""
    names = all_part_names(made, given)
    number = {name: part for part, name in enumerate(names)}
    new = iter(placed)
    return names, bytearray(
        number[made[next(new)]] if part == "train" else number[part] for part in given
    )


def parse_ratio(text: str) -> tuple[int, ...]:
    """Return `8:1:1` or `0.7:0.3` as integers of the same ratio (train:valid or train:valid:test).

    Raises:
        UsageError: not two or three positive numbers.
    """
    form = re.compile(r"\s*([0-9]*)\.?([0-9]*)\s*")
    matches = [form.fullmatch(number) for number in str(text).split(":")]
    parts = [match.groups() for match in matches if match]
    digits = max((len(fraction) for _, fraction in parts), default=0)
    # Integers, so that shares of exactly one half are seen as such.
    values = tuple(int((whole + fraction.ljust(digits, "0")) or "0") for whole, fraction in parts)
    if len(values) != len(matches) or len(values) not in (2, 3) or min(values) == 0:
        raise UsageError(
            "--ratio must be two or three positive numbers such as 8:1:1 (train:valid:test), found"
            f" {text!r}"
        )
    return values


def fold_parts(
    num_folds: int, ratio: Sequence[int] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and the ratio of equal folds, then of a held-out test part if asked.

    ratio: train:valid:test, where only the share of the test part matters; None holds out nothing.

    Raises:
        UsageError: too few or too many folds, or a ratio without a third part.
    """
    if not 2 <= num_folds <= _MAX_FOLDS:
        raise UsageError(f"--kfold must be 2 to {_MAX_FOLDS}, found {num_folds}")
    names = tuple(f"fold{number}" for number in range(1, num_folds + 1))
    if ratio is None:
        return names, (1,) * num_folds
    if len(ratio) != 3:
        raise UsageError(
            "--kfold divides train and valid by itself: leave --ratio out, or give it three parts,"
            " such as 8:1:1, whose third is held out as test.txt"
        )
    *rest, test = ratio
    return (*names, "test"), (*[sum(rest)] * num_folds, test * num_folds)


def add_counts(counts: list[list[int]], labels: Iterable[int], *, parts: Iterable[int]) -> None:
    """Add images to counts[label][part], in place."""
    for (label, part), count in Counter(zip(labels, parts, strict=True)).items():
        counts[label][part] += count


def check_sizes(sizes: Mapping[str, int], *, num_parts: int, allow_missing: bool = False) -> None:
    """Refuse classes that have fewer images than there are parts.

    sizes: images by class name.

    Raises:
        DataError: there is one, and allow_missing is not set.
    """
    small = [name for name, size in sizes.items() if size < num_parts]
    if not small or allow_missing:
        return
    more = counted(len(small) - 1, "more class", "more classes")
    others = f" (so have {more})" if len(small) > 1 else ""
    raise DataError(
        f"class {small[0]} has fewer images, {sizes[small[0]]}, than the {num_parts} parts{others};"
        " add images, or pass --allow-missing"
    )


def check_parts(split: Split) -> None:
    """Refuse a part without images.

    Raises:
        DataError: there is one.
    """
    for name, total in zip(split.part_names, split.totals, strict=True):
        if total == 0:
            raise DataError(
                f"{name} would get no image: too few images, or too large groups and duplicates,"
                " for this ratio"
            )


# Passes over all units that look for a better part; the first finds nearly all there is.
_NUM_PASSES = 3


@dataclass
class _Unit:
    """Images that stay together, how many of them are in each class, and the part they are in."""

    images: Sequence[int]
    classes: Counter[int]
    part: int = 0


def place_images(
    labels: Sequence[int],
    units: Iterable[Sequence[int]],
    *,
    class_names: Sequence[str],
    ratio: Sequence[int],
    seed: int,
    counts: Sequence[Sequence[int]] | None = None,
) -> bytearray:
    """Return the part of each image: units first, then single images to fill each class's gaps.

    labels: class indices, ascending, (N,). units: disjoint sets of image indices that stay
    together.
    counts: images that the parts have already, counts[label][part]; the ratio is that of all
    together.
    """
    sizes = Counter(labels)
    if counts is None:
        gaps = _targets(sizes, len(class_names), ratio=ratio)
    else:
        gaps = _gaps(sizes, counts, ratio=ratio)
    order = _shuffled(labels, class_names, seed=seed)
    part_of = bytearray(len(labels))
    in_units: set[int] = set()
    for unit in _place_units(labels, units, gaps=gaps, order=order):
        in_units.update(unit.images)
        for index in unit.images:
            part_of[index] = unit.part
    singles: list[list[int]] = [[] for _ in class_names]
    for index in order:
        if index not in in_units:
            singles[labels[index]].append(index)
    for images, class_gaps in zip(singles, gaps, strict=True):
        if min(class_gaps) < 0:
            class_gaps = _dealt(len(images), class_gaps, step=1, needs=[0] * len(ratio))
        parts = (part for part, count in enumerate(class_gaps) for _ in range(count))
        for index, part in zip(images, parts, strict=True):
            part_of[index] = part
    return part_of


def largest_remainder(
    num_images: int, ratio: Sequence[int], *, needs: Sequence[int] | None = None
) -> list[int]:
    """Return how many of `num_images` each part gets, by the method of largest remainders.

    needs: of equal remainders, that of the part in greatest need is rounded up; by default, that of
    the first part.
    """
    total = sum(ratio)
    counts = [num_images * share // total for share in ratio]
    remainders = [num_images * share % total for share in ratio]
    needs = needs or [0] * len(ratio)
    order = sorted(range(len(ratio)), key=lambda part: (-remainders[part], -needs[part]))
    for part in order[: num_images - sum(counts)]:
        counts[part] += 1
    return counts


def _targets(sizes: Counter[int], num_classes: int, *, ratio: Sequence[int]) -> list[list[int]]:
    """Return how many images of each class each part should have.

    Equal remainders go to the part that earlier classes gave too little, or many small classes
    would starve one part.
    """
    targets: list[list[int]] = []
    needs = [0] * len(ratio)
    for label in range(num_classes):
        counts = largest_remainder(sizes[label], ratio, needs=needs)
        for part, (share, count) in enumerate(zip(ratio, counts, strict=True)):
            needs[part] += sizes[label] * share - count * sum(ratio)
        targets.append(counts)
    for part in range(len(ratio)):
        if not any(counts[part] for counts in targets):
            _give_one(targets, part, ratio=ratio, sizes=sizes)
    return targets


def _give_one(
    targets: list[list[int]], part: int, *, ratio: Sequence[int], sizes: Counter[int]
) -> None:
    """Move one image to a part that rounding left empty, from a part that was rounded up.

    So every class stays within one image of its share.
    """
    total = sum(ratio)
    totals = [sum(column) for column in zip(*targets, strict=True)]
    rounded_up = [
        (totals[donor], sizes[label] * ratio[part] % total, -label, donor)
        for label, counts in enumerate(targets)
        for donor, count in enumerate(counts)
        if count * total > sizes[label] * ratio[donor]
    ]
    if rounded_up:
        _, _, minus_label, donor = max(rounded_up)
        targets[-minus_label][donor] -= 1
        targets[-minus_label][part] += 1


def _gaps(
    sizes: Counter[int], existing: Sequence[Sequence[int]], *, ratio: Sequence[int]
) -> list[list[int]]:
    """Return how many of its new images each class gives to each part.

    Each goes to the part furthest below its share, so a class stays within one image of its share
    if it was. Equal needs go to the part that earlier classes gave too little.
    """
    total = sum(ratio)
    needs = [0] * len(ratio)
    result = []
    for label, counts in enumerate(existing):
        size = sizes[label] + sum(counts)
        left = [size * share - count * total for share, count in zip(ratio, counts, strict=True)]
        result.append(_dealt(sizes[label], left, step=total, needs=needs))
        needs = [sum(pair) for pair in zip(needs, left, strict=True)]
    return result


def _dealt(num_images: int, left: list[int], *, step: int, needs: Sequence[int]) -> list[int]:
    """Return how many of `num_images` each part gets, each going where most is left: that falls by
    `step`, in place. Where as much is left, the part in greatest need gets it.
    """
    counts = [0] * len(left)
    for _ in range(num_images):
        part = max(range(len(left)), key=lambda part: (left[part], needs[part]))
        left[part] -= step
        counts[part] += 1
    return counts


def _shuffled(labels: Sequence[int], class_names: Sequence[str], *, seed: int) -> list[int]:
    """Return all indices, shuffled by seed, and in each class by its name and size alone."""
    draws: list[float] = []
    for label, num_images in sorted(Counter(labels).items()):
        key = b"%d/" % seed + class_names[label].encode("utf-8", "surrogateescape")
        # Seeded with bytes, random() is the same in every Python; shuffle() may not be.
        draw = random.Random(key).random
        draws.extend([draw() for _ in range(num_images)])
    return sorted(range(len(labels)), key=draws.__getitem__)


def _place_units(
    labels: Sequence[int],
    units: Iterable[Sequence[int]],
    *,
    gaps: list[list[int]],
    order: Sequence[int],
) -> list[_Unit]:
    """Place units, those of several classes first, then the largest; `gaps` is updated in place.

    Within one class, giving each unit to the part with the largest gap keeps every part within the
    largest unit of its share. Units of several classes can spoil that for each other, so they are
    tried elsewhere once all are placed.
    """
    rank = {index: place for place, index in enumerate(order)}
    placed = [_Unit(images, Counter(labels[index] for index in images)) for images in units]
    placed.sort(key=lambda unit: (len(unit.classes) == 1, -len(unit.images), rank[unit.images[0]]))
    largest: Counter[int] = Counter()
    for unit in placed:
        largest |= unit.classes
    # Of parts that gain the same, the one with the largest gap over all classes: else the first
    # would get all units.
    total_gaps = [sum(column) for column in zip(*gaps, strict=True)]
    parts = range(len(total_gaps))
    gain = functools.partial(_gain, gaps=gaps, largest=largest)
    for unit in placed:
        unit.part = max(parts, key=lambda part: (gain(unit, part), total_gaps[part]))
        _count(unit, gaps, total_gaps, sign=-1)
    for _ in range(_NUM_PASSES if placed and len(placed[0].classes) > 1 else 0):
        for unit in placed:
            _count(unit, gaps, total_gaps, sign=1)
            unit.part = max(parts, key=lambda part: (gain(unit, part), part == unit.part))
            _count(unit, gaps, total_gaps, sign=-1)
    return placed


def _gain(unit: _Unit, part: int, *, gaps: Sequence[Sequence[int]], largest: Counter[int]) -> float:
    """Return how much the unit brings its classes nearer to their shares in this part.

    It is the fall of the sum of squared gaps, in units of each class's largest group, without what
    all parts share.
    """
    return sum(n * gaps[label][part] / largest[label] ** 2 for label, n in unit.classes.items())


def _count(unit: _Unit, gaps: list[list[int]], total_gaps: list[int], *, sign: int) -> None:
    for label, count in unit.classes.items():
        gaps[label][unit.part] += sign * count
        total_gaps[unit.part] += sign * count
