"""A folder PART/CLASS/IMAGE of copies or links, for programs that need folders."""

import errno
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import Split
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.files import make_folder
from ptkit.core.new_folders import new_folder

# Takes what is to be called if what follows fails; see `Replacing.undoing`.
Undoing = Callable[[Callable[[], object]], object]


def _forget(_undo: Callable[[], object]) -> None:
    """Leave what was made there, whatever follows."""


@dataclass(frozen=True)
class Tree:
    """Where the images go. kind: "copy" or "link" (symbolic, relative)."""

    folder: Path
    kind: str

    @property
    def flag(self) -> str:
        """The flag and the folder, as the user wrote them."""
        return f"--{self.kind} {self.folder}"


def tree_of(*, copy: Path | None, link: Path | None) -> Tree | None:
    """Return the copies or links that are asked for.

    Raises:
        UsageError: both.
    """
    if copy is not None and link is not None:
        raise UsageError(
            "--copy and --link cannot be combined: the lists name either copies or links; leave one"
            " of them out"
        )
    if copy is not None:
        return Tree(copy, "copy")
    return None if link is None else Tree(link, "link")


def check_tree(scan: Scan, tree: Tree) -> None:
    """Refuse a folder that holds something, or lies among the images.

    Raises:
        UsageError: it does. DataError: a class name cannot be a folder name.
    """
    folder = tree.folder
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        # Never merged, not even with --overwrite: images of an older split would stay in the wrong
        # part.
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


def make_tree(scan: Scan, split: Split, tree: Tree, undoing: Undoing = _forget) -> Scan:
    """Copy or link all images into a folder that gets its name when it is complete.

    undoing: is given what removes it again. Returns the scan with the paths of the copies or links,
    and names PART/CLASS/... in the folder.

    Raises:
        StorageError: the disk refused; nothing is left behind. DataError: an image could not be
            read.
    """
    names = _tree_names(scan, split)
    target = Path(os.path.realpath(tree.folder))
    with new_folder(tree.folder) as (unfinished, _):
        _fill(unfinished, scan.paths, names, tree=tree, target=target)
    undoing(functools.partial(shutil.rmtree, target, ignore_errors=True))
    return replace(scan, names=names, paths=[f"{target}/{name}" for name in names])


def grow_tree(scan: Scan, split: Split, tree: Tree, undoing: Undoing = _forget) -> Scan:
    """Copy or link the images into a folder that an earlier split made; otherwise as `make_tree`.

    Raises:
        UsageError: something is where an image has to go.
    """
    names = _tree_names(scan, split)
    target = Path(os.path.realpath(tree.folder))
    paths = [f"{target}/{name}" for name in names]
    for name, path in zip(names, paths, strict=True):
        if os.path.lexists(path):
            raise UsageError(
                f"{tree.folder / name} exists; rename the new image, or move that away if no list"
                " here names it"
            )
    folders = {target / place for below in _folders(names) for place in (below, *below.parents)}
    new_folders = [folder for folder in sorted(folders, reverse=True) if not folder.exists()]
    remove = functools.partial(_remove, paths, new_folders)
    try:
        _fill(target, scan.paths, names, tree=tree, target=target)
    except BaseException:
        remove()
        raise
    undoing(remove)
    return replace(scan, names=names, paths=paths)


def _remove(paths: Sequence[str], folders: Sequence[Path]) -> None:
    """Remove files that were made, and then folders, the inner ones first."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _tree_names(scan: Scan, split: Split) -> list[str]:
    """Return PART/CLASS/... for each image; file names in a list are made unique."""
    parts = [split.part_names[part] for part in split.part_of]
    if scan.has_class_folders:
        return [f"{part}/{name}" for part, name in zip(parts, scan.names, strict=True)]
    taken: dict[str, None] = {}
    for index, (part, name, label) in enumerate(zip(parts, scan.names, scan.labels, strict=True)):
        folder, base = f"{part}/{scan.class_names[label]}", name.rpartition("/")[2]
        while f"{folder}/{base}" in taken:
            base = f"{index}-{base}"
        taken[f"{folder}/{base}"] = None
    return list(taken)


def _folders(names: Sequence[str]) -> list[Path]:
    return [Path(folder) for folder in sorted({name.rpartition("/")[0] for name in names})]


def _fill(
    folder: Path, paths: Sequence[str], names: Sequence[str], *, tree: Tree, target: Path
) -> None:
    """Put all images below `folder`, which will be `target`."""
    for below in _folders(names):
        make_folder(folder / below)
    put: Callable[[str, str], object] = shutil.copyfile if tree.kind == "copy" else os.symlink
    folders = (f"{target}/{name}".rpartition("/")[0] for name in names)
    sources = paths if tree.kind == "copy" else _relative(paths, folders)
    for source, name in zip(sources, names, strict=True):
        try:
            put(source, f"{folder}/{name}")
        except OSError as error:
            raise _refusal(error, source, tree) from error


def _refusal(error: OSError, source: str, tree: Tree) -> DataError | StorageError:
    reason = error.strerror or error
    if tree.kind == "link":
        return StorageError(
            f"cannot make symbolic links in {tree.folder}: {reason}; no links are left behind;"
            " --copy works without them"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # Copying names the image too, which is not at fault.
        return StorageError(
            f"the disk of {tree.folder} is full ({reason}): make room; no copies are left behind"
        )
    file = error.filename
    kind = DataError if file == source else StorageError
    return kind(f"cannot copy {file} to {tree.folder}: {reason}; no copies are left behind")


def listed_paths(folder: Path, paths: Iterable[str], *, names: Iterable[str]) -> list[str]:
    """Return the paths as seen from `folder`. An absolute path in a list stays absolute.

    names: of each image, as the source has it.
    """
    relative = _relative(paths, itertools.repeat(os.path.realpath(folder)))
    return [name if name[0] == "/" else path for path, name in zip(relative, names, strict=True)]


def _relative(paths: Iterable[str], folders: Iterable[str]) -> Iterator[str]:
    """Yield each path as seen from its folder, which is absolute and free of symbolic links."""
    folder_from = functools.cache(_folder_from)
    for path, folder in zip(paths, folders, strict=False):
        cut = path.rfind("/") + 1
        yield folder_from(folder, path[:cut] or ".") + path[cut:]


def _folder_from(base: str, folder: str) -> str:
    # `link/..` is the parent of the link's target; apart from that, a user's symlinks are kept.
    absolute = os.path.realpath(folder) if ".." in folder.split("/") else os.path.abspath(folder)
    relative = os.path.relpath(absolute, base)
    return "" if relative == "." else f"{relative}/"
