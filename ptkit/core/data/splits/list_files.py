"""Write the lists of a split, of folds or of an extension, and refuse to destroy other files."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.data.lists import classes_bytes, list_bytes
from ptkit.core.data.splits.given_parts import PART_NAMES
from ptkit.core.data.splits.records import (
    CLASSES,
    RECORD,
    extended_record,
    is_unchanged,
    new_record,
    read_record,
    recorded_tree,
)
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import Split
from ptkit.core.data.splits.trees import Tree, check_tree, grow_tree, listed_paths, make_tree
from ptkit.core.errors import UsageError
from ptkit.core.file_sets import Replacing, replacing
from ptkit.core.files import make_folder, sha256

if TYPE_CHECKING:
    from ptkit.core.data.splits.existing_lists import ExistingLists
    from ptkit.core.data.splits.extending import Extension

# What splits and extensions write.
_OURS = (*(f"{name}.txt" for name in PART_NAMES), CLASSES, RECORD)
# A part of no list; folds are far fewer.
_IN_NO_LIST = 255


@dataclass(frozen=True)
class Written:
    """Files written, older lists of ours that were removed, and the folder of copies or links."""

    files: tuple[Path, ...]
    removed: tuple[Path, ...] = ()
    tree: Tree | None = None


def check_targets(
    scan: Scan,
    part_names: Sequence[str],
    *,
    out: Path,
    tree: Tree | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse, before anything is written, to destroy a file that no earlier split wrote.

    part_names: of lists in `out`, and of folds, which have a folder each.

    Raises:
        UsageError: there is such a file, a list is also the input, or the folder for copies or
            links holds something. DataError: a class name cannot be a folder name.
    """
    lists = [name for name in part_names if name in PART_NAMES]
    for fold in (name for name in part_names if name not in lists):
        check_targets(scan, PART_NAMES[:2], out=out / fold, overwrite=overwrite)
    if not lists:
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is not a folder; lists are written into a folder")
    record = read_record(out)
    class_lines = classes_bytes(scan.class_names)
    for name in [*(f"{name}.txt" for name in lists), CLASSES, RECORD]:
        path = out / name
        if not os.path.lexists(path):
            continue
        _check_file(scan, path)
        # Written by hand and left as they are, class names are no loss.
        is_same = name == CLASSES and path.is_file() and path.read_bytes() == class_lines
        if not overwrite and not is_same and not is_unchanged(path, record):
            raise UsageError(
                f"{path} exists and no earlier split wrote it; pass --overwrite or another folder"
                " with --out"
            )
    if tree is not None:
        check_tree(scan, tree)


def check_extension(scan: Scan, existing: "ExistingLists", *, tree: Tree | None = None) -> None:
    """Refuse, before anything is written, what cannot be extended.

    Raises:
        UsageError: a list is also the input, or the lists name other copies or links than `tree`.
    """
    folder = existing.folder
    for name in _OURS:
        _check_file(scan, folder / name)
    known = recorded_tree(existing.record, folder)
    if tree is None:
        if known:
            raise UsageError(f"the lists in {folder} name what {known.flag} made; pass that too")
        return
    wanted = (tree.kind, os.path.realpath(tree.folder))
    if not known or (known.kind, os.path.realpath(known.folder)) != wanted:
        made_by = known.flag if known else "no --copy or --link"
        raise UsageError(f"{tree.flag} cannot be extended: the lists in {folder} are of {made_by}")
    if not scan.has_class_folders:
        raise UsageError(
            f"{tree.flag} can be extended only from class folders; name the folder that holds them"
        )


def _check_file(scan: Scan, path: Path) -> None:
    if path.exists() and os.path.samefile(path, scan.source):
        raise UsageError(
            f"{path} would be overwritten while it is being split; choose another folder with --out"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; move it away or choose another folder with --out")


def write_split(
    scan: Scan, split: Split, *, out: Path, tree: Tree | None = None, settings: Mapping[str, Any]
) -> Written:
    """Write copies or links if asked, then the lists (of these), classes.txt and split.json.

    settings: goes into split.json in front of counts and hashes. Lists of parts that this split
    does not have are removed if an earlier split wrote them.

    Raises:
        StorageError: the disk refused. DataError: an image could not be read for copying.
    """
    make_folder(out)
    with replacing(out) as change:
        if tree is not None:
            scan = make_tree(scan, split, tree, change.undoing)
            folder = os.path.relpath(os.path.realpath(tree.folder), os.path.realpath(out))
            settings = {**settings, "tree": {"kind": tree.kind, "folder": folder}}
        return replace(_put_split(change, scan, split, out=out, settings=settings), tree=tree)


def _put_split(
    change: Replacing, scan: Scan, split: Split, *, out: Path, settings: Mapping[str, Any]
) -> Written:
    contents = _list_contents(scan, split, out) | {CLASSES: classes_bytes(scan.class_names)}
    old = read_record(out)
    stale = [out / name for name in _OURS if name not in (*contents, RECORD)]
    removed = tuple(path for path in stale if os.path.lexists(path) and is_unchanged(path, old))
    for path in removed:
        change.remove(path)
    record = new_record(split, scan.class_names, settings=settings, contents=contents)
    return Written(_put(change, out, contents, record), removed)


def write_folds(scan: Scan, split: Split, *, out: Path, settings: Mapping[str, Any]) -> Written:
    """Write a folder per fold, and test.txt if there is a test part.

    The images of a fold are its valid.txt, those of all other folds its train.txt.

    Folders of an earlier split into more folds lose the files that it wrote; if there is a test
    part, so does `out`, whose lists may share images with it.

    Raises:
        StorageError: the disk refused.
    """
    num_folds = sum(name != "test" for name in split.part_names)
    has_test = num_folds < len(split.part_names)
    written = []
    with replacing(make_folder(out)) as change:
        removed = _stale_folds(out, num_folds, has_test=has_test)
        for path in removed:
            change.remove(path)
        for fold in range(num_folds):
            is_valid = {part: int(part == fold) for part in range(num_folds)}
            sides = _regrouped(split, PART_NAMES[:2], number_of=is_valid)
            facts = {**settings, "fold": fold + 1, "num_folds": num_folds}
            folder = out / split.part_names[fold]
            written.append(_put_split(change, scan, sides, out=folder, settings=facts))
        if has_test:
            held_out = _regrouped(split, ("test",), number_of={num_folds: 0})
            facts = {**settings, "num_folds": num_folds}
            written.append(_put_split(change, scan, held_out, out=out, settings=facts))
    for folder in {path.parent for path in removed} - {out}:
        # Files of others, runs for example, stay.
        with suppress(OSError):
            folder.rmdir()
    files = tuple(path for each in written for path in each.files)
    return Written(files, (*removed, *(path for each in written for path in each.removed)))


def _regrouped(split: Split, part_names: tuple[str, ...], *, number_of: Mapping[int, int]) -> Split:
    """Return the split with its parts renumbered, and so joined; those not named are in no list."""
    counts = [[0] * len(part_names) for _ in split.counts]
    for part, number in number_of.items():
        for row, old in zip(counts, split.counts, strict=True):
            row[number] += old[part]
    # One byte an image: ten million take some milliseconds.
    table = bytes(number_of.get(part, _IN_NO_LIST) for part in range(256))
    return Split(part_names, bytes(split.part_of).translate(table), counts, split.grouping)


def _stale_folds(out: Path, num_folds: int, *, has_test: bool) -> list[Path]:
    """Return the files of earlier folds where this split writes none: test part, folds after K."""
    stale = [] if has_test else _fold_files(out)
    number = num_folds + 1
    while read_record(folder := out / f"fold{number}").get("num_folds"):
        stale += _fold_files(folder)
        number += 1
    return stale


def _fold_files(folder: Path) -> list[Path]:
    record = read_record(folder)
    if "num_folds" not in record:
        return []
    return [folder / name for name in _OURS if is_unchanged(folder / name, record)]


def write_extension(
    extension: "Extension",
    existing: "ExistingLists",
    *,
    tree: Tree | None = None,
    settings: Mapping[str, Any],
) -> Written:
    """Append the new images to the lists and new classes to classes.txt, then write split.json.

    Without new images nothing is written. The hashes leave out lists that a user wrote or edited,
    so that no later split takes them for its own.

    settings: command, seed, ratio and group_by, for the history in split.json.

    Raises:
        UsageError: a copy or link would replace something. StorageError: the disk refused.
    """
    scan, split, out, old = extension.scan, extension.split, existing.folder, existing.record
    if not len(scan):
        return Written(())
    with replacing(out) as change:
        if tree:
            scan = grow_tree(scan, split, tree, change.undoing)
        added = _list_contents(scan, split, out)
        if extension.new_classes:
            added[CLASSES] = classes_bytes(extension.new_classes)
        contents = {name: _appended(out / name, lines) for name, lines in added.items()}
        hashes = {k: v for k, v in old.get("sha256", {}).items() if is_unchanged(out / k, old)}
        ours = [name for name in contents if name in hashes or not os.path.lexists(out / name)]
        hashes |= {name: sha256(contents[name]) for name in ours}
        record = extended_record(old, split, scan.class_names, settings=settings, hashes=hashes)
        return Written(_put(change, out, contents, record), tree=tree)


def _appended(path: Path, added: bytes) -> bytes:
    if not path.exists():
        return added
    content = path.read_bytes()
    if path.name == CLASSES:
        # A blank line between two names would be an error.
        content = content.rstrip()
    return content + b"\n" * (not content.endswith(b"\n")) + added


def _list_contents(scan: Scan, split: Split, out: Path) -> dict[str, bytes]:
    """Return, by file name, the lists of the parts that have images."""
    rows: list[list[tuple[str, int]]] = [[] for _ in split.part_names]
    paths = listed_paths(out, scan.paths, names=scan.names)
    for part, path, label in zip(split.part_of, paths, scan.labels, strict=True):
        if part != _IN_NO_LIST:
            rows[part].append((path, label))
    named = zip(split.part_names, rows, strict=True)
    return {f"{name}.txt": list_bytes(lines) for name, lines in named if lines}


def _put(
    change: Replacing, out: Path, contents: Mapping[str, bytes], record: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write lists and the record of a split aside; return where they will be."""
    record_bytes = json.dumps(record, indent=1).encode() + b"\n"
    for name, content in {**contents, RECORD: record_bytes}.items():
        change.put(out / name, content)
    return tuple(out / name for name in (*contents, RECORD))
