"""What extending lists leaves on the disk: lines at their end, new class names, the record brought
up to date.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import classes_bytes
from ptkit.core.data.splits.extending import Extension
from ptkit.core.data.splits.relative_paths import listed_paths
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.split_files import Written, check_file, list_contents, list_names
from ptkit.core.data.splits.split_records import (
    CLASSES,
    RECORD,
    is_ours,
    new_record,
    record_bytes,
    record_counts,
    recorded_tree,
)
from ptkit.core.data.splits.splitting import PART_NAMES
from ptkit.core.data.splits.standing import Standing
from ptkit.core.data.splits.trees import Tree, grow_tree
from ptkit.core.errors import UsageError
from ptkit.core.files import sha256, write_atomically


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
