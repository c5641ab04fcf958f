"""Paths as callers give them."""

import os
from pathlib import Path

StrPath = str | os.PathLike[str]


def path_or_none(path: StrPath | None) -> Path | None:
    """Return a path, or None where the caller gave none."""
    return None if path is None else Path(path)


def text_or_none(name: StrPath | None) -> str | None:
    """Return a name or a path as text, or None where the caller gave none."""
    return None if name is None else os.fspath(name)
