"""Paths as a list or a symbolic link holds them: seen from the folder it lies in."""

import os
from collections.abc import Iterable
from pathlib import Path


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
