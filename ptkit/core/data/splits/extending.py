"""Place new images beside those that lists already name, which stay where they are."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ptkit.core.data.splits.existing_lists import ExistingLists, match_lines
from ptkit.core.data.splits.given_parts import PART_NAMES
from ptkit.core.data.splits.grouping import Grouping, finder_of_keys, group_images
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import (
    Split,
    add_counts,
    check_parts,
    check_sizes,
    place_images,
)
from ptkit.core.errors import DataError, UsageError
from ptkit.core.wording import counted, first_of


@dataclass(frozen=True)
class Extension:
    """What is added to lists.

    scan: the new images only; known classes keep their indices, new ones follow.
    split: the parts of the new images; its counts are of old and new together.
    num_kept: lines of the lists. num_missing: those whose file is gone. num_elsewhere: those whose
    file is there but not in the source.
    straddling: images that are in several parts, or whose group or duplicates are: a name of each
    set, and the parts.
    edited: lists that are not as a split wrote them.
    """

    scan: Scan
    split: Split
    num_kept: int
    num_missing: int
    num_elsewhere: int
    new_classes: tuple[str, ...]
    straddling: tuple[tuple[str, tuple[str, ...]], ...]
    edited: tuple[str, ...]


def extend_split(
    scan: Scan,
    existing: ExistingLists,
    ratio: Sequence[int],
    *,
    seed: int = 0,
    group_by: str | None = None,
    near_duplicates: bool = False,
    allow_missing: bool = False,
) -> Extension:
    """Place the images of the scan that no list names.

    Old and new images together come as near to the ratio as they can, class by class.
    Duplicates and group mates of a listed image go where it is or, if it is in several parts, to
    the first of train, valid and test. A list of a part that the ratio does not have gets no other
    new images.

    ratio, seed, group_by, near_duplicates, allow_missing: see `split_images`.

    Raises:
        UsageError: group_by is not a regular expression, matches nothing, or finds several groups
            in the path of a listed image that is not in the source.
        DataError: a class that gets new images is too small, a part would have no image, or the
            source gives an image another class than its list does, or groups without those of all
            listed images.
    """
    new_classes = tuple(name for name in scan.class_names if name not in existing.class_names)
    found = match_lines(existing, scan)
    known = {index for indices in found for index in indices}
    new = _new_images(scan, known, class_names=existing.class_names + new_classes)
    listed, masks, num_missing, num_elsewhere = _listed_images(
        existing, scan, found=found, group_by=group_by
    )
    _check_groups(scan, num_elsewhere)
    both = replace(
        new,
        names=listed.names + new.names,
        paths=listed.paths + new.paths,
        labels=listed.labels + new.labels,
        sizes=listed.sizes + new.sizes,
        groups=[*listed.groups, *new.groups],
    )
    grouping = group_images(both, group_by=group_by, near_duplicates=near_duplicates)
    split = _place(new, existing, masks=masks, grouping=grouping, ratio=ratio, seed=seed)
    sizes = {new.class_names[label]: sum(split.counts[label]) for label in sorted({*new.labels})}
    check_sizes(sizes, num_parts=len(ratio), allow_missing=allow_missing)
    if len(new):
        check_parts(split)
    return Extension(
        scan=new,
        split=split,
        num_kept=len(existing),
        num_missing=num_missing,
        num_elsewhere=num_elsewhere,
        new_classes=new_classes,
        straddling=_straddling(listed.names, masks, grouping.units),
        edited=existing.edited,
    )


def _new_images(scan: Scan, known: set[int], *, class_names: tuple[str, ...]) -> Scan:
    """Return the images not known, by their labels among `class_names`."""
    labels = [class_names.index(name) for name in scan.class_names]
    rows = sorted((labels[label], k) for k, label in enumerate(scan.labels) if k not in known)
    return replace(
        scan,
        class_names=class_names,
        names=[scan.names[index] for _, index in rows],
        paths=[scan.paths[index] for _, index in rows],
        labels=[label for label, _ in rows],
        sizes=[scan.sizes[index] for _, index in rows],
        groups=[scan.groups[index] for _, index in rows] if scan.groups else (),
    )


def _listed_images(
    existing: ExistingLists,
    scan: Scan,
    *,
    found: Sequence[Sequence[int]],
    group_by: str | None,
) -> tuple[Scan, list[int], int, int]:
    """Return the images that lists name, each once and in their order, a mask for each (bit k is
    set where part k has it), and how many files are gone, and how many not in the source.

    found: the images of the scan that each line names.
    """
    images: dict[str, tuple[str, int, int]] = {}
    groups: dict[str, str | None] = {}
    masks: Counter[str] = Counter()
    num_missing = num_elsewhere = 0
    has_tree = "tree" in existing.record
    lines = zip(existing.paths, existing.labels, existing.parts, found, strict=True)
    for path, label, part, indices in lines:
        # A copy or link may be gone although its image is there.
        size = scan.sizes[indices[0]] if indices and not has_tree else _size(path)
        num_missing += size is None
        num_elsewhere += size is not None and not indices
        if indices:
            index = indices[0]
            image, name, size = scan.paths[index], scan.names[index], scan.sizes[index]
        else:
            # What --group-by searches: CLASS/... as in class folders, where the path has that.
            start = (
                path.rfind(f"/{existing.class_names[label]}/") + 1 if scan.has_class_folders else 0
            )
            image, name = path, path[start:]
            # A missing file cannot leak into training.
            if group_by is not None and not start and size is not None:
                name = _name_with_group(path, group_by, scan=scan)
        # A missing file counts as an empty one, which equals nothing.
        images.setdefault(image, (name, label, size or 0))
        masks[image] |= 1 << part
        if scan.groups:
            groups.setdefault(image, scan.groups[indices[0]] if indices else None)
    names, labels, sizes = map(list, zip(*images.values(), strict=True))
    listed = Scan(
        existing.folder,
        existing.class_names,
        names=names,
        paths=list(images),
        labels=labels,
        sizes=sizes,
        groups=list(groups.values()),
    )
    return listed, list(masks.values()), num_missing, num_elsewhere


def _check_groups(scan: Scan, num_elsewhere: int) -> None:
    if scan.groups and num_elsewhere:
        # They may be of the groups of new images.
        raise DataError(
            f"{scan.source} does not tell the groups of {counted(num_elsewhere, 'listed image')};"
            " name a table of old and new images"
        )


def _name_with_group(path: str, group_by: str, *, scan: Scan) -> str:
    """Return the end of a path, at a folder, in which the pattern finds what it found in the name.

    Lists do not say where the names of an earlier source began.

    Raises:
        UsageError: ends that give several groups.
    """
    key_of = finder_of_keys(group_by)
    path = os.path.normpath(path)
    cuts = [0, *(place + 1 for place, mark in enumerate(path) if mark == "/")]
    ends = {key: path[cut:] for cut in reversed(cuts) if (key := key_of(path[cut:])) is not None}
    if len(ends) > 1:
        raise UsageError(
            f"--group-by {group_by!r} may find {first_of(sorted(ends), 3)} in {path}, which is not"
            f" in {scan.source}; name a source of old and new images"
        )
    return next(iter(ends.values()), path)


def _size(path: str) -> int | None:
    """Return the size in bytes, or None if there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _place(
    new: Scan,
    existing: ExistingLists,
    *,
    masks: Sequence[int],
    grouping: Grouping,
    ratio: Sequence[int],
    seed: int,
) -> Split:
    """Place the new images. In the units of the grouping they follow the listed ones."""
    part_of: dict[int, int] = {}
    free_units = []
    for unit in grouping.units:
        members = [index - len(masks) for index in unit if index >= len(masks)]
        # Whatever the ratio: duplicates in two parts would be a leak.
        if parts := _parts_of(masks, unit):
            part_of.update(dict.fromkeys(members, parts[0]))
        else:
            free_units.append(members)
    num_parts = max(len(ratio), 3 if "test" in existing.list_names else 2)
    counts = [[0] * num_parts for _ in new.class_names]
    add_counts(counts, existing.labels, parts=existing.parts)
    add_counts(counts, [new.labels[index] for index in part_of], parts=part_of.values())
    free = [index for index in range(len(new)) if index not in part_of]
    labels = [new.labels[index] for index in free]
    rank = {index: row for row, index in enumerate(free)}
    placed = place_images(
        labels,
        [[rank[index] for index in unit] for unit in free_units],
        class_names=new.class_names,
        ratio=ratio,
        seed=seed,
        counts=[row[: len(ratio)] for row in counts],
    )
    part_of.update(zip(free, placed, strict=True))
    add_counts(counts, labels, parts=placed)
    in_order = bytes(part_of[index] for index in range(len(new)))
    return Split(PART_NAMES[:num_parts], in_order, counts, grouping)


def _straddling(
    names: Sequence[str], masks: Sequence[int], units: Sequence[Sequence[int]]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    in_units = {index for unit in units for index in unit}
    single = [[index] for index in range(len(masks)) if index not in in_units]
    return tuple(
        (names[unit[0]], tuple(PART_NAMES[part] for part in parts))
        for unit in (*units, *single)
        if len(parts := _parts_of(masks, unit)) > 1
    )


def _parts_of(masks: Sequence[int], unit: Iterable[int]) -> list[int]:
    """Return the parts that the listed images of a unit are in, ascending."""
    mask = 0
    for index in unit:
        if index < len(masks):
            mask |= masks[index]
    return [part for part in range(len(PART_NAMES)) if mask >> part & 1]
