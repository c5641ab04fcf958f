"""split.json: what a split recorded, and which files it wrote."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptkit.core.data.splits.splitting import Split
from ptkit.core.data.splits.trees import Tree
from ptkit.core.files import parse_json, sha256

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
    "given": list,
}


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return what an earlier split recorded in this folder, or nothing."""
    try:
        record = parse_json((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    is_ours = (
        isinstance(record, dict)
        and record.get("format") == "ptkit.split"
        and "sha256" in record
        and all(isinstance(record[key], kind) for key, kind in _TYPES.items() if key in record)
    )
    return record if is_ours else {}


def is_unchanged(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file is as the split of this record wrote it."""
    if path.name == RECORD or not record:
        return bool(record)
    return path.is_file() and sha256(path.read_bytes()) == record["sha256"].get(path.name)


def recorded_tree(record: Mapping[str, Any], folder: Path) -> Tree | None:
    """Return the copies or links that a split into `folder` made."""
    if not (tree := record.get("tree")):
        return None
    return Tree(Path(os.path.normpath(folder / str(tree.get("folder")))), str(tree.get("kind")))


def new_record(
    split: Split,
    class_names: Sequence[str],
    *,
    settings: Mapping[str, Any],
    contents: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return the record of a split: settings first, then counts and the hashes of the files."""
    return {
        "format": "ptkit.split",
        "format_version": 1,
        **settings,
        **_counts(split, class_names),
        "sha256": {name: sha256(content) for name, content in contents.items()},
    }


def extended_record(
    old: Mapping[str, Any],
    split: Split,
    class_names: Sequence[str],
    *,
    settings: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """Return the record after an extension: command and seed stay those of the first split."""
    return {
        **(old or new_record(split, class_names, settings=settings, contents={})),
        "ratio": settings["ratio"],
        "group_by": settings["group_by"],
        **_counts(split, class_names),
        "sha256": hashes,
        "history": [*old.get("history", []), {**settings, "num_new": len(split.part_of)}],
    }


def _counts(split: Split, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "counts": dict(zip(split.part_names, split.totals, strict=True)),
        "class_counts": dict(zip(class_names, split.counts, strict=True)),
        "num_duplicates": split.grouping.num_duplicates,
    }
