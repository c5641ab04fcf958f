"""Dividing images into parts that share nothing: training, validation and test, or folds."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ptkit.core.data.splits.grouping import Grouping, group_images
from ptkit.core.data.splits.placement import place_images
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
