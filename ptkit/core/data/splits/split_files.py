"""What a split leaves on the disk: lists, the record of them, and copies or links if they are
wanted.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import classes_bytes, list_bytes
from ptkit.core.data.splits.relative_paths import listed_paths
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.split_records import (
    CLASSES,
    RECORD,
    is_ours,
    new_record,
    read_record,
    record_bytes,
)
from ptkit.core.data.splits.splitting import PART_NAMES, Split
from ptkit.core.data.splits.trees import Tree, check_tree, make_tree
from ptkit.core.errors import UsageError
from ptkit.core.files import make_folder, write_atomically


@dataclass(frozen=True)
class Written:
    """Files written, older lists of ours that were removed, and the folder of copies or links."""

    files: tuple[Path, ...]
    removed: tuple[Path, ...] = ()
    tree: Tree | None = None


def check_targets(
    scan: Scan,
    part_names: Iterable[str],
    *,
    out: Path,
    tree: Tree | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse, before anything is written, what would destroy a file that no earlier split wrote.

    Raises:
        UsageError: such a file, or a list that is also the input, or copies or links into a folder
            that holds something. DataError: there can be no folder of a class's name.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is no folder; lists are written into a folder")
    record = read_record(out)
    for name in [*list_names(part_names), CLASSES, RECORD]:
        path = out / name
        if not os.path.lexists(path):
            continue
        check_file(scan, path)
        same_classes = (
            name == CLASSES
            and path.is_file()
            and path.read_bytes() == classes_bytes(scan.class_names)
        )
        if not overwrite and not same_classes and not is_ours(path, record):
            raise UsageError(
                f"{path} exists and no earlier split wrote it; pass --overwrite or another folder"
                " with --out"
            )
    if tree is not None:
        check_tree(scan, tree)


def check_file(scan: Scan, path: Path) -> None:
    """Refuse to write to a path that is the input, or no file.

    Raises:
        UsageError: it is.
    """
    if path.exists() and os.path.samefile(path, scan.source):
        raise UsageError(
            f"{path} would be overwritten while it is being split; choose another folder with --out"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file; move it away or choose another folder with --out")


def write_split(
    scan: Scan, split: Split, *, out: Path, tree: Tree | None = None, settings: Mapping[str, Any]
) -> Written:
    """Write the copies or links if asked, the lists (of these then), classes.txt, and split.json
    last.

    settings: goes into split.json in front of counts and hashes. Lists of parts that this split
    does not have are removed where they are ours.

    Raises:
        StorageError: the disk refused. DataError: an image could not be read for copying.
    """
    make_folder(out)
    paths, names = scan.paths, scan.names
    if tree is not None:
        paths, names = make_tree(scan, split, tree)
        settings = {**settings, "tree": {"kind": tree.kind, "folder": _folder_in_record(tree, out)}}
    rows = zip(split.part_of, listed_paths(out, paths, names=names), scan.labels, strict=True)
    written = write_lists(
        scan.class_names, split, list_contents(split.part_names, rows), out=out, settings=settings
    )
    return Written(written.files, written.removed, tree)


def write_lists(
    class_names: Sequence[str],
    split: Split,
    contents: Mapping[str, bytes],
    *,
    out: Path,
    settings: Mapping[str, Any],
) -> Written:
    """Write the lists, classes.txt, and split.json last; see `write_split`."""
    record = read_record(out)
    stale = [out / name for name in list_names(PART_NAMES) if name not in contents]
    removed = tuple(path for path in stale if os.path.lexists(path) and is_ours(path, record))
    contents = {**contents, CLASSES: classes_bytes(class_names)}
    for name, content in contents.items():
        write_atomically(out / name, content)
    for path in removed:
        path.unlink(missing_ok=True)
    write_atomically(out / RECORD, record_bytes(new_record(split, class_names, settings, contents)))
    return Written((*(out / name for name in contents), out / RECORD), removed)


def list_names(part_names: Iterable[str]) -> list[str]:
    """Return the file names of the lists of these parts."""
    return [f"{name}.txt" for name in part_names]


def list_contents(
    part_names: Sequence[str], rows: Iterable[tuple[int, str, int]]
) -> dict[str, bytes]:
    """Return the list of each part, by file name, from rows of part, path and label."""
    parts: list[list[tuple[str, int]]] = [[] for _ in part_names]
    for part, path, label in rows:
        parts[part].append((path, label))
    return dict(zip(list_names(part_names), map(list_bytes, parts), strict=True))


def _folder_in_record(tree: Tree, out: Path) -> str:
    return os.path.relpath(os.path.realpath(tree.folder), os.path.realpath(out))
