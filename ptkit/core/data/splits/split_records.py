"""`split.json`: what `ptkit split` wrote into a folder, so that it may replace that and nothing
else.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptkit.core.data.splits.splitting import Split
from ptkit.core.files import sha256

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
