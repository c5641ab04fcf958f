"""A folder PART/CLASS/IMAGE of copies of the images or of links to them, for programs that want
folders.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import Split
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.files import make_folder


@dataclass(frozen=True)
class Tree:
    """Where the images go. kind: "copy" or "link" (symbolic, relative)."""

    folder: Path
    kind: str

    @property
    def flag(self) -> str:
        """The flag and the folder, as the user wrote them."""
        return f"--{self.kind} {self.folder}"


def check_tree(scan: Scan, tree: Tree) -> None:
    """Refuse a folder that holds something, or lies among the images.

    Raises:
        UsageError: it does. DataError: there can be no folder of a class's name.
    """
    folder = tree.folder
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        # Never merged, not even with --overwrite: images of an older split would be left on the
        # wrong side.
        raise UsageError(
            f"{tree.flag} exists and is not an empty folder; remove it or name another"
        )
    source = Path(os.path.realpath(scan.source))
    if source.is_dir() and Path(os.path.realpath(folder)).is_relative_to(source):
        raise UsageError(
            f"{tree.flag} lies inside {scan.source}, where it would become a class; name another"
            " folder"
        )
    for name in scan.class_names:
        if "/" in name or name in (".", ".."):
            raise DataError(
                f"--{tree.kind} cannot make a folder of the class name {name!r}; rename it in"
                " classes.txt"
            )


def make_tree(scan: Scan, split: Split, tree: Tree) -> tuple[list[str], list[str]]:
    """Copy or link all images into a folder that gets its name when it is complete.

    Returns the paths of the copies or links, and their names PART/CLASS/... below the folder.

    Raises:
        StorageError: the disk refused; nothing is left behind. DataError: an image could not be
            read.
    """
    names = _tree_names(scan, split)
    target = Path(os.path.realpath(tree.folder))
    unfinished = make_folder(target.parent) / f".{target.name}.{os.getpid()}"
    try:
        _fill(unfinished, scan.paths, names, tree=tree, target=target)
        _rename(unfinished, target)
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
    return [f"{target}/{name}" for name in names], names


def grow_tree(scan: Scan, split: Split, tree: Tree) -> tuple[list[str], list[str]]:
    """Copy or link the images into a folder that an earlier split made; otherwise as `make_tree`.

    Raises:
        UsageError: something lies already where an image has to go.
    """
    names = _tree_names(scan, split)
    target = Path(os.path.realpath(tree.folder))
    paths = [f"{target}/{name}" for name in names]
    for name, path in zip(names, paths, strict=True):
        if os.path.lexists(path):
            raise UsageError(f"{tree.folder / name} exists and no list here names it; move it away")
    folders = {
        target / above for below in _folders(names) for above in (Path(below), *Path(below).parents)
    }
    new_folders = [folder for folder in sorted(folders, reverse=True) if not folder.exists()]
    try:
        _fill(target, scan.paths, names, tree=tree, target=target)
    except (StorageError, DataError):
        for path in paths:
            Path(path).unlink(missing_ok=True)
        for folder in filter(Path.exists, new_folders):
            folder.rmdir()
        raise
    return paths, names


def _tree_names(scan: Scan, split: Split) -> list[str]:
    """Return PART/CLASS/... for each image; images that a list names keep their file name, made
    unique.
    """
    parts = [split.part_names[part] for part in split.part_of]
    if scan.source.is_dir():
        return [f"{part}/{name}" for part, name in zip(parts, scan.names, strict=True)]
    taken: set[str] = set()
    result = []
    for index, (part, name, label) in enumerate(zip(parts, scan.names, scan.labels, strict=True)):
        folder, base = f"{part}/{scan.class_names[label]}", name.rpartition("/")[2]
        while f"{folder}/{base}" in taken:
            base = f"{index}-{base}"
        taken.add(f"{folder}/{base}")
        result.append(f"{folder}/{base}")
    return result


def _folders(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition("/")[0] for name in names})


def _fill(
    folder: Path, paths: Sequence[str], names: Sequence[str], *, tree: Tree, target: Path
) -> None:
    """Put all images below `folder`, which will be `target`."""
    for below in _folders(names):
        make_folder(folder / below)
    if tree.kind == "copy":
        for path, name in zip(paths, names, strict=True):
            _copy(path, f"{folder}/{name}", tree=tree)
        return
    texts = link_targets([f"{target}/{name}" for name in names], paths)
    for text, name in zip(texts, names, strict=True):
        _link(text, f"{folder}/{name}", tree=tree)


def _copy(path: str, copied: str, *, tree: Tree) -> None:
    try:
        shutil.copyfile(path, copied)
    except OSError as error:
        reason = (
            f"cannot copy {error.filename} to {tree.folder}: {error.strerror or error}; no copies"
            " are left behind"
        )
        raise (DataError if error.filename == path else StorageError)(reason) from error


def _link(text: str, link: str, *, tree: Tree) -> None:
    try:
        os.symlink(text, link)
    except OSError as error:
        raise StorageError(
            f"cannot make symbolic links in {tree.folder}: {error.strerror or error}; "
            "no links are left behind; --copy works without them"
        ) from error


def _rename(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError as error:
        raise StorageError(f"cannot make the folder {target}: {error.strerror or error}") from error


def listed_paths(folder: Path, paths: Iterable[str], *, names: Iterable[str]) -> list[str]:
    """Return the paths as seen from `folder`. What a list named by an absolute path keeps it.

    names: of each image, as the source has it.
    """
    base = os.path.realpath(folder)
    folders: dict[str, str] = {}
    result = []
    for path, name in zip(paths, names, strict=True):
        cut = path.rfind("/") + 1
        parent = path[:cut]
        if parent not in folders:
            folders[parent] = _folder_from(base, parent or ".")
        result.append(name if name[0] == "/" else folders[parent] + path[cut:])
    return result


def link_targets(links: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Return what each of the symbolic links has to hold so that it leads to its path.

    links: where they will be, absolute and without symbolic links on the way.
    """
    folders: dict[tuple[str, str], str] = {}
    result = []
    for link, path in zip(links, paths, strict=True):
        cut = path.rfind("/") + 1
        pair = (link[: link.rfind("/")], path[:cut])
        if pair not in folders:
            folders[pair] = _folder_from(pair[0], pair[1] or ".")
        result.append(folders[pair] + path[cut:])
    return result


def _folder_from(base: str, folder: str) -> str:
    # `link/..` is not where the text says; apart from that, a user's symlinks stay as they are.
    absolute = os.path.realpath(folder) if ".." in folder.split("/") else os.path.abspath(folder)
    relative = os.path.relpath(absolute, base)
    return "" if relative == "." else f"{relative}/"
