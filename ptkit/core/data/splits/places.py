"""Where the images of a table are: beside it, below a root, or in a folder that holds them."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ptkit.core.data.moved import missing_image, prefix_of, prefix_of_some, replaced
from ptkit.core.data.splits.scanning import file_size, is_image
from ptkit.core.errors import DataError
from ptkit.core.wording import first_of

# How deep below the table a folder of images is looked for, and with how many rows.
_MAX_DEPTH, _NUM_TRIED = 2, 10

# Returns the path of an image, with the extension that it has on disk, or None.
_Find = Callable[[str], str | None]


@dataclass(frozen=True)
class Places:
    """The images of a table, in its order.

    names: relative to the folder of the table or the root, or absolute as in the table. paths: the
    same, to open. sizes: in bytes, 0 where lenient. note: what had to be assumed.
    """

    names: list[str] = field(repr=False)
    paths: list[str] = field(repr=False)
    sizes: list[int] = field(repr=False)
    note: str


def find_places(
    listed: Sequence[str],
    lines: Sequence[int],
    file: Path,
    *,
    root: Path | None,
    is_lenient: bool = False,
) -> Places:
    """Find the files that a table names, with or without their extension.

    Paths are relative to `root`, by default to the folder of the table or else to the working
    directory. Where nothing is there, the one folder that holds them is looked for below. Of moved
    paths `root` replaces the beginning, see `prefix_of_some`.

    lines: where each is in the file, for messages. is_lenient: an image may be missing, if not all
    are; its path is where it should be.

    Raises:
        DataError: an image is missing, or several files or folders may be meant.
    """
    find = partial(_find, listing=cache(_listing))
    base = prefix_of(root or file.parent)
    moved = root and prefix_of_some(listed, root, exists=lambda path: find(path) is not None)
    if moved:
        folder, wanted = base, [replaced(name, moved) for name in listed]
    else:
        folder = _folder_of(listed, file, base, find=find, has_root=root is not None)
        wanted = [os.path.join(folder, name) for name in listed]
    found = [find(path) for path in wanted]
    paths = [path for path in found if path is not None]
    if is_lenient and paths:
        paths = [path or name for path, name in zip(found, wanted, strict=True)]
    if len(paths) < len(found):
        row, more = found.index(None), len(found) - len(paths) - 1
        others = f" (and {more:,} more are missing)" if more else ""
        raise missing_image(wanted[row], place=f"{file}, line {lines[row]}", others=others)
    pairs = zip(paths, wanted, strict=True)
    added = sorted({path[len(name) :] for path, name in pairs if path != name})
    note = f" in {folder}" if folder and folder != prefix_of(file.parent) else ""
    note += f" with {first_of(added, 3)} added" if added else ""
    names = [path.removeprefix(base) for path in paths]
    sizes = [0 if is_lenient else file_size(path) for path in paths]
    return Places(names, paths, sizes, note)


def _folder_of(listed: Sequence[str], file: Path, base: str, *, find: _Find, has_root: bool) -> str:
    """Return the folder that the paths of a table are relative to, with a slash."""
    tried = listed[:_NUM_TRIED]

    def holds_some(folder: str) -> bool:
        return any(find(os.path.join(folder, name)) for name in tried)

    for usual in (base,) if has_root else (base, ""):
        if holds_some(usual):
            return usual
    below = [base]
    for _ in range(_MAX_DEPTH if not os.path.isabs(listed[0]) else 0):
        below = [folder for above in below for folder in _folders_in(above)]
        if found := [folder for folder in below if holds_some(folder)]:
            return _only(found, listed, file, find=find)
    return base


def _only(found: Sequence[str], listed: Sequence[str], file: Path, *, find: _Find) -> str:
    """Return the only one of several folders: it holds all rows, or has the name of the table."""
    if len(found) > 1:
        whole = [f for f in found if all(find(os.path.join(f, name)) for name in listed)]
        found = whole or found
    named = [folder for folder in found if Path(folder).name == file.stem]
    if len(found) > 1 and len(named) != 1:
        raise DataError(
            f"the images of {file} may be in {first_of(found, 5)}: choose with --root DIR"
        )
    return (named or found)[0]


def _folders_in(folder: str) -> Iterable[str]:
    try:
        with os.scandir(folder or ".") as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []
    return [f"{folder}{name}/" for name in names]


def _listing(folder: str) -> tuple[set[str], dict[str, list[str]]]:
    """Return the names of the files in a folder, and of its images by what precedes the
    extension.
    """
    try:
        with os.scandir(folder or ".") as entries:
            names = {entry.name for entry in entries if not entry.is_dir()}
    except (OSError, ValueError):
        return set(), {}
    stems: dict[str, list[str]] = {}
    for name in sorted(filter(is_image, names)):
        stems.setdefault(os.path.splitext(name)[0], []).append(name)
    return names, stems


def _find(
    path: str, *, listing: Callable[[str], tuple[set[str], dict[str, list[str]]]]
) -> str | None:
    folder, name = os.path.split(path)
    names, stems = listing(folder)
    if name in names:
        return path
    images = stems.get(name, ())
    if len(images) > 1:
        raise DataError(
            f"{path} may be {' or '.join(images[:2])}: the table must say which, with the extension"
        )
    return os.path.join(folder, images[0]) if images else None
