"""Read the lists that are to be extended, and find which images of the source they name."""

import filecmp
import functools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import read_classes, read_list
from ptkit.core.data.splits.given_parts import PART_NAMES, part_of
from ptkit.core.data.splits.records import CLASSES, RECORD, is_unchanged, read_record, recorded_tree
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.errors import DataError, UsageError


@dataclass(frozen=True)
class ExistingLists:
    """The lines of the lists in a folder; paths, labels and parts run in parallel.

    record: of the split that wrote them, if one did.
    list_names: the parts that have a list. edited: lists that are not as the split wrote them.
    paths: to open from the working directory. parts: indices into PART_NAMES.
    """

    folder: Path
    record: Mapping[str, Any] = field(repr=False)
    class_names: tuple[str, ...]
    list_names: tuple[str, ...]
    edited: tuple[str, ...]
    paths: list[str] = field(repr=False)
    labels: list[int] = field(repr=False)
    parts: list[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def ratio(self) -> str:
        """The ratio of the earlier split or, if none is recorded, that of the lists themselves.

        Raises:
            UsageError: none is recorded, and there is no training or no validation list.
        """
        recorded = self.record.get("ratio")
        if isinstance(recorded, str):
            return recorded
        if self.list_names[:2] != PART_NAMES[:2]:
            raise UsageError(
                f"{self.folder} has only a list for {', '.join(self.list_names)}; pass --ratio"
            )
        return ":".join(str(self.parts.count(part)) for part in range(len(self.list_names)))


def read_existing(out: Path) -> ExistingLists:
    """Read classes.txt and those of train.txt, valid.txt and test.txt that exist.

    Raises:
        DataError: there are no lists or no classes.txt, or one is wrong (see `read_list`).
        UsageError: the folder is one fold of several, or its split.json is something else.
    """
    record = read_record(out)
    if "num_folds" in record:
        raise UsageError(
            f"the lists in {out} are of {record['num_folds']} folds, which must change together; "
            "run --kfold anew instead of --extend"
        )
    present = tuple(name for name in PART_NAMES if os.path.lexists(out / f"{name}.txt"))
    if not present:
        raise DataError(
            f"no train.txt, valid.txt or test.txt in {out} to extend; split without --extend first"
        )
    if os.path.lexists(out / RECORD) and not record:
        raise UsageError(f"{out / RECORD} exists and no split wrote it; move it away")
    if not (out / CLASSES).is_file():
        raise DataError(
            f"no {out / CLASSES}: --extend keeps the indices of the classes; write one name a line"
        )
    class_names = read_classes(out / CLASSES)
    files = [out / f"{name}.txt" for name in present]
    edited = tuple(file.name for file in files if not is_unchanged(file, record))
    lists = {file.stem: read_list(file, kind=SINGLE) for file in files}
    paths = [images.image_path(row) for images in lists.values() for row in range(len(images))]
    labels = [label for images in lists.values() for label in images.labels.tolist()]
    parts = [PART_NAMES.index(name) for name, images in lists.items() for _ in range(len(images))]
    return ExistingLists(out, record, class_names, present, edited, paths, labels, parts)


def match_lines(existing: ExistingLists, scan: Scan) -> list[list[int]]:
    """Return, for each line, the images of the scan that it names.

    They are several where a file has several names: a symbolic link anywhere, or a hard link, is
    the file it leads to. A copy or link that an earlier split made is the image it was made of.

    Raises:
        DataError: the source gives an image another class than the list does.
    """
    by_place: defaultdict[str, list[int]] = defaultdict(list)
    for index, place in enumerate(_places(scan.paths)):
        by_place[place].append(index)
    places = _places(existing.paths)
    by_tree = zip(_by_tree(existing, scan, places), places, strict=True)
    found = [named or by_place.get(place, []) for named, place in by_tree]
    _match_by_identity(existing, scan, found)
    for line, indices in enumerate(found):
        name = existing.class_names[existing.labels[line]]
        others = [scan.class_names[scan.labels[index]] for index in indices]
        if others and name not in others:
            raise DataError(
                f"{existing.folder / PART_NAMES[existing.parts[line]]}.txt gives"
                f" {existing.paths[line]} the class {name}, but {scan.source} the class"
                f" {others[0]}; correct one of them"
            )
    return found


def _by_tree(existing: ExistingLists, scan: Scan, places: Iterable[str]) -> list[list[int]]:
    """Match the lines that name copies or links of an earlier --copy or --link by DIR/PART/NAME.

    Each part that was given may have an image of one name: of the source's own part the name is
    enough, of another the bytes must be the same too.
    """
    tree = recorded_tree(existing.record, existing.folder)
    if tree is None or not scan.has_class_folders:
        return [[] for _ in existing.paths]
    prefix = os.path.join(os.path.realpath(tree.folder), "")
    others = set(existing.record.get("given", ())) - {part_of(Path(scan.source).resolve().name)}
    by_name = {name: index for index, name in enumerate(scan.names)}
    found: list[list[int]] = []
    for path, place, part in zip(existing.paths, places, existing.parts, strict=True):
        # Below the folder of the copies come the part and the name; the source has the name alone.
        name = place[len(prefix) :].partition("/")[2] if place.startswith(prefix) else ""
        named = [by_name[name]] if name in by_name else []
        needs_bytes = PART_NAMES[part] in others
        found.append([k for k in named if not needs_bytes or _is_copy(path, scan.paths[k])])
    return found


def _is_copy(path: str, image: str) -> bool:
    try:
        return filecmp.cmp(path, image, shallow=False)
    except OSError:
        return False


def _match_by_identity(existing: ExistingLists, scan: Scan, found: list[list[int]]) -> None:
    """Match the lines and images left over by device and inode; `found` is changed in place."""
    lines: defaultdict[tuple[int, int] | None, list[int]] = defaultdict(list)
    for line, indices in enumerate(found):
        if not indices:
            lines[_identity(existing.paths[line])].append(line)
    # Those whose file is gone.
    lines.pop(None, None)
    if not lines:
        return
    known = {index for indices in found for index in indices}
    for index, path in enumerate(scan.paths):
        # One look at the disk for each image that no list names by its path.
        for line in lines.get(_identity(path), ()) if index not in known else ():
            found[line] = [*found[line], index]


def _places(paths: Iterable[str]) -> list[str]:
    """Return each path with its folder's symbolic links resolved; the file may still be one."""
    real = functools.cache(os.path.realpath)
    cuts = ((path, path.rfind("/") + 1) for path in paths)
    return [f"{real(path[:cut] or '.')}/{path[cut:]}" for path, cut in cuts]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
