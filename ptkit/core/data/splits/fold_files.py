"""What a split into folds leaves on the disk: a folder with lists per fold, and one test list for
all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptkit.core.data.splits.relative_paths import listed_paths
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.split_files import (
    Written,
    check_targets,
    list_contents,
    list_names,
    write_lists,
)
from ptkit.core.data.splits.split_records import CLASSES, RECORD, is_ours, read_record
from ptkit.core.data.splits.splitting import PART_NAMES, Split
from ptkit.core.files import make_folder

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
