"""Dividing images into parts that share nothing: training, validation and test, or folds."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ptkit.core.data.splits.grouping import Grouping, group_images
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.errors import DataError, UsageError

PART_NAMES = ("train", "valid", "test")
# Far above what anyone trains; the part of an image is one byte.
_MAX_FOLDS = 100


@dataclass(frozen=True)
class Split:
    """Which part each image belongs to.

    part_of: per image of the scan, an index into part_names.
    counts: images per class and part, counts[label][part].
    together: the duplicates and groups that were kept on one side.
    """

    part_names: tuple[str, ...]
    part_of: Sequence[int] = field(repr=False)
    counts: list[list[int]] = field(repr=False)
    together: Grouping = field(default_factory=Grouping)

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
    allow_missing: bool = False,
) -> Split:
    """Divide the images by class in the given ratio; duplicates and groups stay on one side.

    Every class gets within one image, or within its largest group, of its share. The same scan and
    seed give the
    same parts.

    ratio: positive integers, see `parse_ratio` and `fold_parts`; part_names has the name of each,
    and may have more.
    group_by: a regular expression searched in each name; its first group, or else the whole match,
    is the key.
    allow_missing: whether a class may have fewer images than there are parts.

    Raises:
        UsageError: group_by is no regular expression or matches nothing.
        DataError: a class is too small, or a part would get no image.
    """
    sizes = Counter(scan.labels)
    sizes_by_name = {name: sizes[label] for label, name in enumerate(scan.class_names)}
    check_sizes(sizes_by_name, num_parts=len(ratio), allow_missing=allow_missing)
    together = group_images(
        scan.names, scan.paths, sizes=scan.sizes, labels=scan.labels, group_by=group_by
    )
    part_of = place_images(
        scan.labels, together.units, class_names=scan.class_names, ratio=ratio, seed=seed
    )
    counts = [[0] * len(ratio) for _ in scan.class_names]
    for label, part in zip(scan.labels, part_of, strict=True):
        counts[label][part] += 1
    split = Split(tuple(part_names[: len(ratio)]), part_of, counts, together)
    check_parts(split)
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
            "--ratio must be two or three positive numbers such as 8:1:1 (train:valid:test), found"
            f" {text!r}"
        )
    return values


def fold_parts(
    num_folds: int, ratio: Sequence[int] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and the ratio of equal folds, and of the test part that is held out first if
    there is one.

    ratio: train:valid:test, of which only the share of the last counts; None holds out nothing.

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
            " such as 8:1:1, of which the third is held out as test.txt"
        )
    *rest, test = ratio
    return (*names, "test"), (*[sum(rest)] * num_folds, test * num_folds)


def check_sizes(sizes: Mapping[str, int], *, num_parts: int, allow_missing: bool = False) -> None:
    """Refuse classes that have fewer images than there are parts.

    sizes: images by class name.

    Raises:
        DataError: there is one, and allow_missing is not set.
    """
    small = [name for name, size in sizes.items() if size < num_parts]
    if not small or allow_missing:
        return
    others = f" (so have {len(small) - 1:,} more classes)" if len(small) > 1 else ""
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
    standing: Sequence[Sequence[int]] | None = None,
) -> bytearray:
    """Return the part of each image: units first, then single images to fill what each class still
    lacks.

    labels: class indices, ascending, (N,). units: disjoint sets of image indices that stay
    together.
    standing: images that are in the parts already, standing[label][part]; the ratio is that of all
    together.
    """
    sizes = Counter(labels)
    if standing is None:
        missing = _targets(sizes, len(class_names), ratio=ratio)
    else:
        missing = _gaps(sizes, standing, ratio=ratio)
    order = _shuffled(labels, class_names, seed=seed)
    part_of = bytearray(len(labels))
    in_units: set[int] = set()
    for unit in _placed_units(labels, units, missing=missing, order=order):
        in_units.update(unit.images)
        for index in unit.images:
            part_of[index] = unit.part
    singles: list[list[int]] = [[] for _ in class_names]
    for index in order:
        if index not in in_units:
            singles[labels[index]].append(index)
    for images, gaps in zip(singles, missing, strict=True):
        start = 0
        for part, count in enumerate(_filled(gaps, len(images))):
            for index in images[start : start + count]:
                part_of[index] = part
            start += count
    return part_of


def largest_remainder(
    num_images: int, ratio: Sequence[int], *, wanting: Sequence[int] | None = None
) -> list[int]:
    """Return how many of `num_images` each part gets: its share rounded down, the rest to the
    largest remainders.

    wanting: of equal remainders the one of the part that wants most goes first; by default, the
    first part.
    """
    total = sum(ratio)
    counts = [num_images * share // total for share in ratio]
    remainders = [num_images * share % total for share in ratio]
    needs = wanting or [0] * len(ratio)
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
    wanting = [0] * len(ratio)
    for label in range(num_classes):
        counts = largest_remainder(sizes[label], ratio, wanting=wanting)
        for part, (share, count) in enumerate(zip(ratio, counts, strict=True)):
            wanting[part] += sizes[label] * share - count * sum(ratio)
        targets.append(counts)
    for part in range(len(ratio)):
        if not any(counts[part] for counts in targets):
            _give_one(targets, part, ratio=ratio, sizes=sizes)
    return targets


def _give_one(
    targets: list[list[int]], part: int, *, ratio: Sequence[int], sizes: Counter[int]
) -> None:
    """Let a part that rounding left without any image have one, where another part had been rounded
    up.

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
        _, _, label, donor = max(rounded_up)
        targets[-label][donor] -= 1
        targets[-label][part] += 1


def _gaps(
    sizes: Counter[int], standing: Sequence[Sequence[int]], *, ratio: Sequence[int]
) -> list[list[int]]:
    """Return how many of its new images each class gives to each part, always to the one furthest
    below its share.

    So every class is within one image of its share if it was so before. Equal needs go to the part
    that earlier
    classes left wanting.
    """
    total = sum(ratio)
    wanting = [0] * len(ratio)
    result = []
    for label, counts in enumerate(standing):
        size = sizes[label] + sum(counts)
        left = [size * share - count * total for share, count in zip(ratio, counts, strict=True)]
        given = [0] * len(ratio)
        for _ in range(sizes[label]):
            _, _, part = max((left[part], wanting[part], -part) for part in range(len(ratio)))
            left[-part] -= total
            given[-part] += 1
        wanting = [sum(pair) for pair in zip(wanting, left, strict=True)]
        result.append(given)
    return result


def _shuffled(labels: Sequence[int], class_names: Sequence[str], *, seed: int) -> list[int]:
    """Return all indices; the order within a class depends on seed, class name and class size
    alone.
    """
    draws: list[float] = []
    for label, num_images in sorted(Counter(labels).items()):
        # random() of a generator seeded with bytes is the same in every Python; shuffle() need not
        # be.
        draw = random.Random(
            b"%d/" % seed + class_names[label].encode("utf-8", "surrogateescape")
        ).random
        draws.extend([draw() for _ in range(num_images)])
    return sorted(range(len(labels)), key=draws.__getitem__)


def _placed_units(
    labels: Sequence[int],
    groups: Iterable[Sequence[int]],
    *,
    missing: list[list[int]],
    order: Sequence[int],
) -> list[_Unit]:
    """Place the units, those of several classes first, the largest first; `missing` is brought up
    to date.

    Within one class, giving each unit to the part that lacks most keeps every part within the
    largest unit of its share. Units of several classes can spoil that for each other, so they are
    tried elsewhere once all are placed.
    """
    rank = {index: place for place, index in enumerate(order)}
    units = [_Unit(images, Counter(labels[index] for index in images)) for images in groups]
    units.sort(key=lambda unit: (len(unit.classes) == 1, -len(unit.images), rank[unit.images[0]]))
    largest: Counter[int] = Counter()
    for unit in units:
        largest |= unit.classes
    # Of parts that gain the same, the one that lacks most over all classes: else the first would
    # get them all.
    lacking = [sum(column) for column in zip(*missing, strict=True)]
    for unit in units:
        unit.part = max(
            range(len(lacking)),
            key=lambda part: (_gain(unit, part, missing, largest), lacking[part]),
        )
        _book(unit, missing, lacking, sign=-1)
    for _ in range(_NUM_PASSES if units and len(units[0].classes) > 1 else 0):
        for unit in units:
            _book(unit, missing, lacking, sign=1)
            unit.part = max(
                range(len(lacking)),
                key=lambda part: (_gain(unit, part, missing, largest), part == unit.part),
            )
            _book(unit, missing, lacking, sign=-1)
    return units


def _gain(unit: _Unit, part: int, missing: Sequence[Sequence[int]], largest: Counter[int]) -> float:
    """Return how much the unit brings its classes nearer to their shares in this part.

    It is the fall of the sum of squared gaps, in units of each class's largest group, without what
    all parts share.
    """
    return sum(
        count * missing[label][part] / largest[label] ** 2 for label, count in unit.classes.items()
    )


def _book(unit: _Unit, missing: list[list[int]], lacking: list[int], *, sign: int) -> None:
    for label, count in unit.classes.items():
        missing[label][unit.part] += sign * count
        lacking[unit.part] += sign * count


def _filled(gaps: Sequence[int], num_images: int) -> list[int]:
    """Return how many single images each part gets, always the part with the largest gap first."""
    if min(gaps) >= 0:
        return list(gaps)
    counts, left = [0] * len(gaps), list(gaps)
    for _ in range(num_images):
        part = max(range(len(gaps)), key=left.__getitem__)
        counts[part] += 1
        left[part] -= 1
    return counts
