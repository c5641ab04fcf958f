"""Placing new images beside those that stand in lists already, which stay where they are."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import classes_bytes
from ptkit.core.data.splits.existing_lists import Standing, match_lines
from ptkit.core.data.splits.grouping import Grouping, group_images
from ptkit.core.data.splits.list_files import (
    CLASSES,
    RECORD,
    Written,
    check_file,
    is_ours,
    list_contents,
    list_names,
    new_record,
    record_bytes,
    record_counts,
    recorded_tree,
)
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import (
    PART_NAMES,
    Split,
    check_parts,
    check_sizes,
    place_images,
)
from ptkit.core.data.splits.trees import Tree, grow_tree, listed_paths
from ptkit.core.errors import UsageError
from ptkit.core.files import sha256, write_atomically


@dataclass(frozen=True)
class Extension:
    """What is added to lists.

    scan: the new images only; known classes keep their indices, new ones follow.
    split: the parts of the new images; its counts are of old and new together.
    num_missing: lines whose file is gone. num_elsewhere: those whose file is there but not in the
    source.
    torn: images that stand in several parts, or whose group or duplicates do: a name of each set,
    and the parts.
    edited: lists that hold lines no split wrote.
    """

    scan: Scan
    split: Split
    num_kept: int
    num_missing: int
    num_elsewhere: int
    new_classes: tuple[str, ...]
    torn: tuple[tuple[str, tuple[str, ...]], ...]
    edited: tuple[str, ...]


@dataclass(frozen=True)
class _Pool:
    """Images side by side: first those that stand in lists, once each, then the new ones.

    masks: bit k is set if the image stands in part k; 0 for new images.
    """

    names: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)

    def add(self, name: str, path: str, size: int, label: int, mask: int) -> None:
        self.names.append(name)
        self.paths.append(path)
        self.sizes.append(size)
        self.labels.append(label)
        self.masks.append(mask)


def extend_split(
    scan: Scan,
    standing: Standing,
    ratio: Sequence[int],
    *,
    seed: int = 0,
    group_by: str | None = None,
    allow_missing: bool = False,
) -> Extension:
    """Place the images of the scan that no list names, so that old and new together come near the
    ratio.

    Duplicates and group mates of images that stand in a list go where these are; where they are in
    several parts,
    to the first of train, valid and test. A list of a part that the ratio does not have gets such
    images only.

    ratio, seed, group_by, allow_missing: see `split_images`.

    Raises:
        UsageError: group_by is no regular expression or matches nothing.
        DataError: a class that gets new images is too small, a part would have no image, or the
            source gives an
            image another class than its list does.
    """
    new_classes = tuple(name for name in scan.class_names if name not in standing.class_names)
    class_names = standing.class_names + new_classes
    found = match_lines(standing, scan)
    new = _new_images(scan, {index for indices in found for index in indices}, class_names)
    pool, num_missing, num_elsewhere = _standing_images(standing, scan, found)
    num_standing = len(pool.names)
    for image in zip(new.names, new.paths, new.sizes, new.labels, strict=True):
        pool.add(*image, mask=0)
    together = group_images(
        pool.names, pool.paths, sizes=pool.sizes, labels=pool.labels, group_by=group_by
    )
    num_parts = max(len(ratio), 3 if "test" in standing.list_names else 2)
    counts = _counts(standing, num_classes=len(class_names), num_parts=num_parts)
    _check_growing(new, counts, num_parts=len(ratio), allow_missing=allow_missing)
    part_of = _placed(new, pool, together, counts, ratio=ratio, seed=seed, first=num_standing)
    split = Split(PART_NAMES[:num_parts], part_of, counts, together)
    if len(new):
        check_parts(split)
    torn = _torn(pool, together.units)
    return Extension(
        new, split, len(standing), num_missing, num_elsewhere, new_classes, torn, standing.edited
    )


def _new_images(scan: Scan, known: set[int], class_names: tuple[str, ...]) -> Scan:
    """Return the images not known, by their labels among `class_names`."""
    labels = [class_names.index(name) for name in scan.class_names]
    order = sorted(
        (labels[label], index) for index, label in enumerate(scan.labels) if index not in known
    )
    indices = [index for _, index in order]
    names, paths = ([values[index] for index in indices] for values in (scan.names, scan.paths))
    sizes = [scan.sizes[index] for index in indices]
    return Scan(
        scan.source, class_names, names, paths, [label for label, _ in order], sizes, scan.ignored
    )


def _standing_images(
    standing: Standing, scan: Scan, found: Sequence[Sequence[int]]
) -> tuple[_Pool, int, int]:
    """Return the images that stand in lists, each once, and the numbers of lines that lead nowhere
    and elsewhere.
    """
    pool = _Pool()
    rows: dict[str, int] = {}
    num_missing = num_elsewhere = 0
    is_folder, has_tree = scan.source.is_dir(), "tree" in standing.record
    for path, label, part, indices in zip(
        standing.paths, standing.labels, standing.parts, found, strict=True
    ):
        # A copy or link may be gone although the image that it stands for is there.
        size = scan.sizes[indices[0]] if indices and not has_tree else _size(path)
        num_missing += size is None
        num_elsewhere += size is not None and not indices
        image = scan.paths[indices[0]] if indices else path
        if image in rows:
            pool.masks[rows[image]] |= 1 << part
            continue
        rows[image] = len(rows)
        if indices:
            pool.add(scan.names[indices[0]], image, scan.sizes[indices[0]], label, 1 << part)
        else:
            name = _name_of(path, standing.class_names[label], is_folder=is_folder)
            # No file counts as an empty one, which equals nothing.
            pool.add(name, image, size or 0, label, 1 << part)
    return pool, num_missing, num_elsewhere


def _name_of(path: str, class_name: str, *, is_folder: bool) -> str:
    """Return what --group-by is to search: as in class folders, CLASS/..., where the path has such
    a part.
    """
    return path[path.rfind(f"/{class_name}/") + 1 :] if is_folder else path


def _size(path: str) -> int | None:
    """Return the size in bytes, or None if there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _counts(standing: Standing, *, num_classes: int, num_parts: int) -> list[list[int]]:
    counts = [[0] * num_parts for _ in range(num_classes)]
    for label, part in zip(standing.labels, standing.parts, strict=True):
        counts[label][part] += 1
    return counts


def _check_growing(
    new: Scan, counts: Sequence[Sequence[int]], *, num_parts: int, allow_missing: bool
) -> None:
    growing = Counter(new.labels)
    sizes = {
        new.class_names[label]: count + sum(counts[label])
        for label, count in sorted(growing.items())
    }
    check_sizes(sizes, num_parts=num_parts, allow_missing=allow_missing)


def _placed(
    new: Scan,
    pool: _Pool,
    together: Grouping,
    counts: list[list[int]],
    *,
    ratio: Sequence[int],
    seed: int,
    first: int,
) -> bytearray:
    """Return the parts of the new images, which stand from `first` on in the pool; `counts` is
    brought up to date.
    """
    part_of = bytearray(len(new))
    bound: set[int] = set()
    free_units = []
    for unit in together.units:
        fresh = [index - first for index in unit if index >= first]
        parts = _parts(pool, unit)
        if not parts:
            free_units.append(fresh)
            continue
        bound.update(fresh)
        for index in fresh:
            part_of[index] = parts[0]
            counts[new.labels[index]][parts[0]] += 1
    free = [index for index in range(len(new)) if index not in bound]
    rank = {index: row for row, index in enumerate(free)}
    placed = place_images(
        [new.labels[index] for index in free],
        [[rank[index] for index in unit] for unit in free_units],
        class_names=new.class_names,
        ratio=ratio,
        seed=seed,
        standing=[row[: len(ratio)] for row in counts],
    )
    for index, part in zip(free, placed, strict=True):
        part_of[index] = part
        counts[new.labels[index]][part] += 1
    return part_of


def _torn(pool: _Pool, units: Sequence[Sequence[int]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    in_units = {index for unit in units for index in unit}
    single = [[index] for index in range(len(pool.names)) if index not in in_units]
    parts = [(pool.names[unit[0]], _parts(pool, unit)) for unit in (*units, *single)]
    return tuple(
        (name, tuple(PART_NAMES[part] for part in those)) for name, those in parts if len(those) > 1
    )


def _parts(pool: _Pool, unit: Sequence[int]) -> list[int]:
    """Return the parts that images of a unit stand in, ascending."""
    mask = 0
    for index in unit:
        mask |= pool.masks[index]
    return [part for part in range(len(PART_NAMES)) if mask >> part & 1]


def check_extension(scan: Scan, standing: Standing, *, tree: Tree | None = None) -> None:
    """Refuse, before anything is written, what cannot be extended.

    Raises:
        UsageError: a list is also the input, or the copies or links are not those that the lists
            name.
    """
    for name in [*list_names(PART_NAMES), CLASSES, RECORD]:
        check_file(scan, standing.folder / name)
    recorded = recorded_tree(standing.record, standing.folder)
    known = Tree(*recorded) if recorded else None
    if known and tree is None:
        raise UsageError(
            f"the lists in {standing.folder} name what {known.flag} made; pass that too"
        )
    if tree and not (known and known.kind == tree.kind and _is_same(known.folder, tree.folder)):
        there = f"of {known.flag}" if known else "of no --copy or --link"
        raise UsageError(
            f"{tree.flag} cannot be extended: the lists in {standing.folder} are {there}"
        )
    if tree and not scan.source.is_dir():
        raise UsageError(
            f"{tree.flag} cannot be extended from a list; name the folder of the classes"
        )


def write_extension(
    extension: Extension,
    standing: Standing,
    *,
    tree: Tree | None = None,
    settings: Mapping[str, Any],
) -> Written:
    """Append the new images to the lists and new classes to classes.txt, and write split.json last.

    Without new images nothing is written. Lists that a user wrote or edited stay out of the hashes,
    so that no later split takes them for its own.

    settings: command, seed, ratio and group_by. They go into the history of split.json; its command
    and seed stay
    those of the first split.

    Raises:
        UsageError: a copy or link would replace something. StorageError: the disk refused.
    """
    scan, split, out = extension.scan, extension.split, standing.folder
    if not len(scan):
        return Written(())
    paths, names = grow_tree(scan, split, tree) if tree else (scan.paths, scan.names)
    rows = zip(split.part_of, listed_paths(out, paths, names=names), scan.labels, strict=True)
    added = {name: lines for name, lines in list_contents(split.part_names, rows).items() if lines}
    if extension.new_classes:
        added[CLASSES] = classes_bytes(extension.new_classes)
    contents = {name: _extended(out / name, lines) for name, lines in added.items()}
    record = _new_record(extension, standing, settings, contents)
    for name, content in contents.items():
        write_atomically(out / name, content)
    write_atomically(out / RECORD, record_bytes(record))
    return Written((*(out / name for name in contents), out / RECORD), (), tree)


def _extended(path: Path, added: bytes) -> bytes:
    if not path.exists():
        return added
    content = path.read_bytes()
    if path.name == CLASSES:
        # Blank lines at its end would come to stand between two names.
        content = content.rstrip()
    return content + b"\n" * (not content.endswith(b"\n")) + added


def _new_record(
    extension: Extension,
    standing: Standing,
    settings: Mapping[str, Any],
    contents: Mapping[str, bytes],
) -> dict[str, Any]:
    scan, out, old = extension.scan, standing.folder, standing.record
    hashes = {
        name: text for name, text in old.get("sha256", {}).items() if is_ours(out / name, old)
    }
    hashes |= {
        name: sha256(content)
        for name, content in contents.items()
        if name in hashes or not os.path.lexists(out / name)
    }
    first = dict(old) or new_record(extension.split, scan.class_names, settings, {})
    step = {**settings, "num_new": len(scan)}
    return {
        **first,
        "ratio": settings["ratio"],
        "group_by": settings["group_by"],
        **record_counts(extension.split, scan.class_names),
        "sha256": hashes,
        "history": [*old.get("history", []), step],
    }


def _is_same(first: Path, second: Path) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)
