"""What a split leaves on the disk: lists, the record of them, and copies if they are wanted."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import classes_bytes, list_bytes
from ptkit.core.data.scanning import Scan
from ptkit.core.data.splitting import PART_NAMES, Split
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.files import make_folder, sha256, write_atomically

_RECORD = "split.json"
_CLASSES = "classes.txt"


@dataclass(frozen=True)
class Written:
    """Files written, older lists of ours that were removed, and the folder of copies."""

    files: tuple[Path, ...]
    removed: tuple[Path, ...]
    copies: Path | None = None


def check_targets(
    scan: Scan, part_names: Iterable[str], *, out: Path, copy: Path | None = None, overwrite: bool = False
) -> None:
    """Refuse, before anything is written, what would destroy a file that no earlier split wrote.

    Raises:
        UsageError: such a file, or a list that is also the input, or --copy into a folder that holds something.
        DataError: --copy cannot make a folder of a class name.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is no folder; lists are written into a folder")
    record = _old_record(out)
    for name in [*_list_names(part_names), _CLASSES, _RECORD]:
        path = out / name
        if not os.path.lexists(path):
            continue
        if path.exists() and os.path.samefile(path, scan.source):
            raise UsageError(f"{path} would be overwritten while it is being split; choose another folder with --out")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no file; move it away or choose another folder with --out")
        same_classes = name == _CLASSES and path.is_file() and path.read_bytes() == classes_bytes(scan.class_names)
        if not overwrite and not same_classes and not _is_ours(path, record):
            raise UsageError(
                f"{path} exists and no earlier split wrote it; pass --overwrite or another folder with --out"
            )
    if copy is not None:
        _check_copy(scan, copy)


def write_split(
    scan: Scan, split: Split, *, out: Path, copy: Path | None = None, settings: Mapping[str, Any]
) -> Written:
    """Write the copies if asked, the lists (of the copies then), classes.txt, and split.json last.

    settings: goes into split.json in front of counts and hashes. Lists of parts that this split does not have are
    removed where they are ours.

    Raises:
        StorageError: the disk refused. DataError: an image could not be read for copying.
    """
    record = _old_record(out)
    stale = [out / name for name in _list_names(PART_NAMES[len(split.part_names) :])]
    removed = tuple(path for path in stale if os.path.lexists(path) and _is_ours(path, record))
    make_folder(out)
    paths, names = scan.paths, scan.names
    if copy is not None:
        names = _copied_names(scan, split)
        paths = _copy_images(scan.paths, names, copy)
    contents = _list_contents(scan, split, _paths_from(out, paths, names))
    contents[_CLASSES] = classes_bytes(scan.class_names)
    for name, content in contents.items():
        write_atomically(out / name, content)
    for path in removed:
        path.unlink(missing_ok=True)
    write_atomically(out / _RECORD, _record_bytes(scan, split, settings, contents))
    return Written((*(out / name for name in contents), out / _RECORD), removed, copy)


def _list_names(part_names: Iterable[str]) -> list[str]:
    return [f"{name}.txt" for name in part_names]


def _old_record(out: Path) -> Mapping[str, Any]:
    """Return what an earlier split recorded here, or nothing."""
    try:
        record = json.loads((out / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    known = isinstance(record, dict) and record.get("format") == "ptkit.split"
    return record if known and isinstance(record.get("sha256"), dict) else {}


def _is_ours(path: Path, record: Mapping[str, Any]) -> bool:
    if path.name == _RECORD:
        return bool(record)
    return path.is_file() and bool(record) and sha256(path.read_bytes()) == record["sha256"].get(path.name)


def _check_copy(scan: Scan, copy: Path) -> None:
    if copy.exists() and not (copy.is_dir() and not any(copy.iterdir())):
        # Never merged, not even with --overwrite: images of an older split would be left on the wrong side.
        raise UsageError(f"--copy {copy} exists and is not an empty folder; remove it or name another")
    source = Path(os.path.realpath(scan.source))
    if source.is_dir() and Path(os.path.realpath(copy)).is_relative_to(source):
        raise UsageError(f"--copy {copy} lies inside {scan.source}, where it would become a class; name another folder")
    for name in scan.class_names:
        if "/" in name or name in (".", ".."):
            raise DataError(f"--copy cannot make a folder of the class name {name!r}; rename it in classes.txt")


def _list_contents(scan: Scan, split: Split, paths: Sequence[str]) -> dict[str, bytes]:
    rows: list[list[tuple[str, int]]] = [[] for _ in split.part_names]
    for part, path, label in zip(split.part_of, paths, scan.labels, strict=True):
        rows[part].append((path, label))
    return dict(zip(_list_names(split.part_names), map(list_bytes, rows), strict=True))


def _paths_from(out: Path, paths: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the paths as seen from `out`. What a list named by an absolute path keeps it."""
    base = os.path.realpath(out)
    folders: dict[str, str] = {}
    result = []
    for path, name in zip(paths, names, strict=True):
        cut = path.rfind("/") + 1
        folder = path[:cut]
        if folder not in folders:
            folders[folder] = _folder_from(base, folder or ".")
        result.append(name if name[0] == "/" else folders[folder] + path[cut:])
    return result


def _folder_from(base: str, folder: str) -> str:
    # `link/..` is not where the text says; apart from that, a user's symlinks stay as they are.
    absolute = os.path.realpath(folder) if ".." in folder.split("/") else os.path.abspath(folder)
    relative = os.path.relpath(absolute, base)
    return "" if relative == "." else f"{relative}/"


def _copied_names(scan: Scan, split: Split) -> list[str]:
    """Return PART/CLASS/... for each image; images that a list names keep their file name, made unique."""
    parts = [split.part_names[part] for part in split.part_of]
    if scan.source.is_dir():
        return [f"{part}/{name}" for part, name in zip(parts, scan.names, strict=True)]
    taken: set[str] = set()
    result = []
    for index, (part, name, label) in enumerate(zip(parts, scan.names, scan.labels, strict=True)):
        folder, base = f"{part}/{scan.class_names[label]}", name.rpartition("/")[2]
        copied = f"{folder}/{base}" if f"{folder}/{base}" not in taken else f"{folder}/{index}-{base}"
        taken.add(copied)
        result.append(copied)
    return result


def _copy_images(paths: Sequence[str], names: Sequence[str], copy: Path) -> list[str]:
    """Copy all images below a folder that gets its name when it is complete; return where they are then."""
    target = Path(os.path.realpath(copy))
    unfinished = make_folder(target.parent) / f".{target.name}.{os.getpid()}"
    try:
        for folder in sorted({name.rpartition("/")[0] for name in names}):
            (unfinished / folder).mkdir(parents=True, exist_ok=True)
        for path, name in zip(paths, names, strict=True):
            shutil.copyfile(path, f"{unfinished}/{name}")
        unfinished.rename(target)
    except OSError as error:
        reason = f"cannot copy {error.filename} to {copy}: {error.strerror or error}; no copies are left behind"
        raise (DataError if error.filename in paths else StorageError)(reason) from error
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
    return [f"{target}/{name}" for name in names]


def _record_bytes(scan: Scan, split: Split, settings: Mapping[str, Any], contents: Mapping[str, bytes]) -> bytes:
    record = {
        "format": "ptkit.split",
        "format_version": 1,
        **settings,
        "counts": dict(zip(split.part_names, split.totals, strict=True)),
        "class_counts": dict(zip(scan.class_names, split.counts, strict=True)),
        "num_duplicates": split.num_duplicates,
        "sha256": {name: sha256(content) for name, content in contents.items()},
    }
    return json.dumps(record, indent=1).encode() + b"\n"
