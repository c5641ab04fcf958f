"""What stands in the lists that are to be extended, and which images of the source it names."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import read_classes, read_list
from ptkit.core.data.splits.list_files import (
    CLASSES,
    RECORD,
    is_ours,
    read_record,
    recorded_tree,
)
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import PART_NAMES
from ptkit.core.errors import DataError, UsageError


@dataclass(frozen=True)
class Standing:
    """The lines of the lists in a folder; paths, labels and parts run in parallel.

    record: of the split that wrote them, if one did. edited: files that are not as it wrote them.
    list_names: the parts that have a list. parts: indices into PART_NAMES. paths: to be opened from
    here.
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
    def classes_file(self) -> Path:
        """The file of the class names."""
        return self.folder / CLASSES

    @property
    def ratio(self) -> str:
        """The ratio of the earlier split or, if none is known, that of the lists themselves.

        Raises:
            UsageError: there is no training or no validation list to tell it.
        """
        if isinstance(self.record.get("ratio"), str):
            return self.record["ratio"]
        if self.list_names[:2] != PART_NAMES[:2]:
            raise UsageError(
                f"only {', '.join(self.list_names)} stands in {self.folder}; say --ratio"
            )
        return ":".join(str(self.parts.count(part)) for part in range(len(self.list_names)))


def read_standing(out: Path) -> Standing:
    """Read train.txt, valid.txt and test.txt, those that are there, and classes.txt.

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
    edited = tuple(f"{name}.txt" for name in present if not is_ours(out / f"{name}.txt", record))
    standing = Standing(out, record, class_names, present, edited, [], [], [])
    for name in present:
        images = read_list(out / f"{name}.txt", kind=SINGLE)
        standing.paths.extend([images.image_path(row) for row in range(len(images))])
        standing.labels.extend(images.labels.tolist())
        standing.parts.extend([PART_NAMES.index(name)] * len(images))
    return standing


def match_lines(standing: Standing, scan: Scan) -> list[list[int]]:
    """Return, of each line, the images of the scan that it names: more than one where two names
    lead to one file.

    Copies and links that an earlier split made stand for their images. A symbolic link anywhere, or
    a hard link,
    is the file it leads to.

    Raises:
        DataError: the source gives an image another class than the list does.
    """
    by_place = _indices_by(_places(scan.paths))
    places = _places(standing.paths)
    found = [
        named or by_place.get(place, [])
        for named, place in zip(_by_tree(standing, scan, places), places, strict=True)
    ]
    _match_by_identity(standing, scan, found)
    for line, indices in enumerate(found):
        name = standing.class_names[standing.labels[line]]
        others = [scan.class_names[scan.labels[index]] for index in indices]
        if others and name not in others:
            raise DataError(
                f"{standing.folder / PART_NAMES[standing.parts[line]]}.txt gives"
                f" {standing.paths[line]} the class {name}, but {scan.source} the class"
                f" {others[0]}; correct one of them"
            )
    return found


def _by_tree(standing: Standing, scan: Scan, places: Iterable[str]) -> list[list[int]]:
    """Match the lines that name copies or links of an earlier --copy or --link: DIR/PART/NAME
    stands for NAME.
    """
    tree = recorded_tree(standing.record, standing.folder)
    if tree is None or not scan.source.is_dir():
        return [[] for _ in standing.paths]
    prefix = os.path.join(os.path.realpath(tree[0]), "")
    by_name = {name: [index] for index, name in enumerate(scan.names)}
    return [
        (
            by_name.get(place.removeprefix(prefix).partition("/")[2], [])
            if place.startswith(prefix)
            else []
        )
        for place in places
    ]


def _match_by_identity(standing: Standing, scan: Scan, found: list[list[int]]) -> None:
    """Match the lines left over with the images left over, by device and inode; `found` is changed
    in place.
    """
    lines: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for line, indices in enumerate(found):
        identity = None if indices else _identity(standing.paths[line])
        if identity is not None:
            lines[identity].append(line)
    if not lines:
        return
    known = {index for indices in found for index in indices}
    for index, path in enumerate(scan.paths):
        identity = None if index in known else _identity(path)
        for line in lines.get(identity, ()) if identity is not None else ():
            found[line] = [*found[line], index]


def _places(paths: Iterable[str]) -> list[str]:
    """Return each path with the symbolic links in its folder resolved; the file itself may still be
    one.
    """
    folders: dict[str, str] = {}
    result = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ("/" if path.startswith("/") else "."))
        result.append(f"{folders[folder]}/{name}")
    return result


def _indices_by(keys: Iterable[str]) -> dict[str, list[int]]:
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        indices[key].append(index)
    return dict(indices)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
