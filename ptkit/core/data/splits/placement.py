"""Which part each image goes to, once it is known which images must stay together."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
