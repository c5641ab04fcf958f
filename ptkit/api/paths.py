"""Paths as callers give them."""

import os
from pathlib import Path

StrPath = str | os.PathLike[str]


def path_or_none(path: StrPath | None) -> Path | None:
    """Return a path, or None where the caller gave none."""
    return None if path is None else Path(path)
