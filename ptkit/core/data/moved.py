"""Images that were moved: another folder replaces the leading folders of each listed path."""

import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from ptkit.core.errors import DataError, UsageError

# Of so many images at least one must be where they were moved to.
_NUM_TRIED = 20


def check_root(root: Path) -> None:
    """Refuse a root that is no folder.

    Raises:
        UsageError: it is none.
    """
    if not root.is_dir():
        raise UsageError(f"--root {root} is not a folder")


def missing_image(path: str, *, place: str, others: str = "") -> DataError:
    """Return the error for a path that leads nowhere. place: the file and line that name it."""
    return DataError(
        f"{place}: no image {path}{others}; if the images are elsewhere, pass --root DIR"
    )


def prefix_of_some(
    paths: Iterable[str], root: Path, *, exists: Callable[[str], bool]
) -> tuple[str, str] | None:
    """Return `moved_prefix` of the first of some paths that is found; a few may be missing."""
    tried = (moved_prefix(path, root, exists=exists) for path in islice(paths, _NUM_TRIED))
    return next(filter(None, tried), None)


def moved_prefix(path: str, root: Path, *, exists: Callable[[str], bool]) -> tuple[str, str] | None:
    """Return which beginning of a path to replace, and by what, so that the file is found.

    As few leading folders as possible are replaced: of `a/b/1.png` none, then `a/`, then `a/b/`; of
    an absolute path at least the slash. None where nothing is found.
    """
    new = prefix_of(root)
    cuts = [] if path.startswith("/") else [0]
    cuts += [place + 1 for place, mark in enumerate(path) if mark == "/"]
    return next(((path[:cut], new) for cut in cuts if exists(new + path[cut:])), None)


def replaced(path: str, prefix: tuple[str, str]) -> str:
    """Return the path with its beginning replaced, if it begins so."""
    old, new = prefix
    return new + path[len(old) :] if path.startswith(old) else path


def prefix_of(folder: Path) -> str:
    """Return what paths in a folder begin with: nothing for the working directory."""
    return "" if folder == Path() else os.path.join(folder, "")
