"""What a split leaves on the disk: lists, the record of them, and copies or links if they are
wanted.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import classes_bytes, list_bytes
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import PART_NAMES, Split
from ptkit.core.data.splits.trees import Tree, check_tree, listed_paths, make_tree
from ptkit.core.errors import UsageError
from ptkit.core.files import make_folder, sha256, write_atomically


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


_TRAIN, _VALID, _TEST = range(3)


def check_fold_targets(
    scan: Scan, part_names: Sequence[str], *, out: Path, overwrite: bool = False
) -> None:
    """Refuse, before anything is written, what would destroy a file that no earlier split wrote.

    part_names: fold1 ... foldK, and test if it is held out.

    Raises:
        UsageError: see `split_files.check_targets`.
    """
    for name in part_names:
        if name == "test":
            check_targets(scan, ["test"], out=out, overwrite=overwrite)
        else:
            check_targets(scan, ["train", "valid"], out=out / name, overwrite=overwrite)


def write_folds(scan: Scan, split: Split, *, out: Path, settings: Mapping[str, Any]) -> Written:
    """Write a folder per fold, whose images are its valid.txt and those of all others its
    train.txt; then test.txt.

    Folders of an earlier split into more folds lose the files that it wrote; so does `out`, if
    there is a test part, lose lists of an earlier split, which may share images with it.

    Raises:
        StorageError: the disk refused.
    """
    num_folds = len([name for name in split.part_names if name != "test"])
    removed = _remove_stale_folds(make_folder(out), num_folds, has_test="test" in split.part_names)
    files: list[Path] = []
    for part, name in enumerate(split.part_names):
        folder = out if name == "test" else make_folder(out / name)
        paths = listed_paths(folder, scan.paths, names=scan.names)
        sides = bytes(split.part_of).translate(_sides(part, num_folds))
        rows = [row for row in zip(sides, paths, scan.labels, strict=True) if row[0] <= _TEST]
        contents = {file: text for file, text in list_contents(PART_NAMES, rows).items() if text}
        facts = {
            **settings,
            **({} if name == "test" else {"fold": part + 1}),
            "num_folds": num_folds,
        }
        written = write_lists(
            scan.class_names,
            _side_counts(split, part, num_folds),
            contents,
            out=folder,
            settings=facts,
        )
        files += written.files
        removed += written.removed
    return Written(tuple(files), tuple(removed))


def _sides(part: int, num_folds: int) -> bytes:
    """Return a table from parts to what they are in the folder of one of them, 255 for what is not
    in its lists.
    """
    table = bytearray([255] * 256)
    if part == num_folds:
        table[part] = _TEST
    else:
        table[:num_folds] = bytes([_TRAIN] * num_folds)
        table[part] = _VALID
    return bytes(table)


def _side_counts(split: Split, part: int, num_folds: int) -> Split:
    """Return the split as the folder of one part has it: its part names and counts."""
    if part == num_folds:
        return replace(
            split, part_names=("test",), counts=[[counts[part]] for counts in split.counts]
        )
    counts = [[sum(counts[:num_folds]) - counts[part], counts[part]] for counts in split.counts]
    return replace(split, part_names=("train", "valid"), counts=counts)


def _remove_stale_folds(out: Path, num_folds: int, *, has_test: bool) -> list[Path]:
    """Remove what an earlier split into folds wrote where this one writes nothing: its test part,
    fold K+1 and on.
    """
    removed = [] if has_test else _remove_ours(out)
    number = num_folds + 1
    while read_record(folder := out / f"fold{number}").get("num_folds"):
        removed += _remove_ours(folder)
        # What is not ours, runs for example, stays.
        if not any(folder.iterdir()):
            folder.rmdir()
        number += 1
    return removed


def _remove_ours(folder: Path) -> list[Path]:
    record = read_record(folder)
    if "num_folds" not in record:
        return []
    ours = [
        folder / name
        for name in (*list_names(PART_NAMES), CLASSES, RECORD)
        if is_ours(folder / name, record)
    ]
    for path in ours:
        path.unlink()
    return ours


RECORD = "split.json"
CLASSES = "classes.txt"
# What later splits read, with the types that make a record one of ours.
_TYPES = {
    "sha256": dict,
    "tree": dict,
    "history": list,
    "ratio": str | None,
    "group_by": str | None,
    "num_folds": int,
}


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return what an earlier split recorded in this folder, or nothing."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    if (
        not isinstance(record, dict)
        or record.get("format") != "ptkit.split"
        or "sha256" not in record
    ):
        return {}
    is_whole = all(isinstance(record[key], kind) for key, kind in _TYPES.items() if key in record)
    return record if is_whole else {}


def is_ours(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file is as the split of this record wrote it."""
    if path.name == RECORD:
        return bool(record)
    return (
        path.is_file()
        and bool(record)
        and sha256(path.read_bytes()) == record["sha256"].get(path.name)
    )


def recorded_tree(record: Mapping[str, Any], folder: Path) -> tuple[Path, str] | None:
    """Return the folder that a split into `folder` filled with images, and how ("copy" or "link"),
    if it did.
    """
    tree = record.get("tree")
    return (
        (Path(os.path.normpath(folder / str(tree.get("folder")))), str(tree.get("kind")))
        if tree
        else None
    )


def new_record(
    split: Split,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    contents: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return the record of a split: settings first, then counts and the hashes of the files."""
    return {
        "format": "ptkit.split",
        "format_version": 1,
        **settings,
        **record_counts(split, class_names),
    } | {"sha256": {name: sha256(content) for name, content in contents.items()}}


def record_counts(split: Split, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the part of a record that counts images."""
    return {
        "counts": dict(zip(split.part_names, split.totals, strict=True)),
        "class_counts": dict(zip(class_names, split.counts, strict=True)),
        "num_duplicates": split.together.num_duplicates,
    }


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return the content of split.json."""
    return json.dumps(record, indent=1).encode() + b"\n"
