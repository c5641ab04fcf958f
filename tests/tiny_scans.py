"""Folders of files that need not be images, as splitting never decodes, and scans without any
files.
"""

import os
from pathlib import Path

from ptkit.core.data.lists import read_list
from ptkit.core.data.splits.scanning import Scan

_BEGINNING = "GIF8"


def scan_of(images):
    """Return a scan of (label, group) pairs whose files are empty, so nothing is read."""
    images = sorted(images)
    names = [f"{label}/g{group}-{index}.png" for index, (label, group) in enumerate(images)]
    labels = [label for label, _ in images]
    class_names = tuple(str(label) for label in range(max(labels) + 1))
    return Scan(Path("images"), class_names, names, names, labels, [0] * len(names))


CATS_AND_DOGS = [f"{label}/{number:02d}.png" for label in ("cat", "dog") for number in range(10)]


def make_tree(folder, names):
    """Write files that begin as images do and hold their names, so that no two are the same."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_BEGINNING}{name}")


def name_in(path):
    """Return the name that a file of `make_tree` holds, its own where it was not copied."""
    return Path(path).read_text().removeprefix(_BEGINNING)


def listed(*files):
    """Return where the images of list files really are."""
    lists = [read_list(Path(file)) for file in files]
    return [
        os.path.realpath(images.image_path(index))
        for images in lists
        for index in range(len(images))
    ]
