"""Find the images to split: below class folders, or in a list file."""

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptkit.core.data.formats import IMAGE_EXTENSIONS, OPTIONAL, OPTIONAL_EXTENSIONS
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import check_image, classes_file, read_list
from ptkit.core.errors import DataError


class LayoutError(DataError):
    """The images are not in class folders: a table, their names or parts may tell their classes."""


@dataclass(frozen=True)
class Scan:
    """Images in the order of class and path: names, paths, labels and sizes run in parallel.

    source: the folder or list file.
    names: paths relative to the folder, or as the list has them. paths: the same, to open from the
    working directory.
    labels: 0..len(class_names) - 1. sizes: in bytes.
    ignored: how many files of each extension (or name) are not images.
    has_class_folders: whether names begin with the folder of the class.
    parts: train, valid or test of each image, where the source gives them.
    groups: what the images of a group share, None for those in no group.
    notes: what was taken for what, a line each.
    """

    source: Path
    class_names: tuple[str, ...]
    names: list[str] = field(repr=False)
    paths: list[str] = field(repr=False)
    labels: list[int] = field(repr=False)
    sizes: list[int] = field(repr=False)
    ignored: Mapping[str, int] = field(default_factory=dict)
    has_class_folders: bool = False
    parts: Sequence[str] = field(default=(), repr=False)
    groups: Sequence[str | None] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_ignored(self) -> int:
        return sum(self.ignored.values())


def scan_class_folders(folder: Path, *, known_classes: Collection[str] = ()) -> Scan:
    """Find the images below `folder`/<class>/, nested ones too.

    Symlinks are followed, each folder once per class. Hidden files, __MACOSX and files that are not
    images by extension are ignored and counted, in a class that has images. Classes are sorted by
    code point, as torchvision's ImageFolder does.

    known_classes: a single class folder is accepted if it is one of these.

    Raises:
        LayoutError: no images, images outside class folders, or fewer than two classes.
        DataError: no such folder, a class folder without images, or a broken symlink.
    """
    ignored: Counter[str] = Counter()
    found = _scan_top(folder, ignored)
    _check_found(folder, found, ignored, known_classes=known_classes)
    prefix = os.path.join(folder, "")
    names = [f"{class_name}/{name}" for class_name, images in found.items() for name, _ in images]
    paths = [prefix + name for name in names]
    labels = [label for label, images in enumerate(found.values()) for _ in images]
    sizes = [size for images in found.values() for _, size in images]
    return Scan(
        folder,
        tuple(found),
        names=names,
        paths=paths,
        labels=labels,
        sizes=sizes,
        ignored=dict(ignored),
        has_class_folders=True,
    )


def scan_list(file: Path, *, known_classes: Path | None = None, root: Path | None = None) -> Scan:
    """Find the images that a list file names.

    known_classes: a file of class names. With it a single class is accepted, and without a
    classes.txt beside the list its labels are lines of this file.

    Raises:
        DataError: the list is wrong (see `read_list`), its labels are not classes, an image is
            missing or not a file, or there is only one class.
    """
    has_names = classes_file(file) is not None
    images = read_list(file, kind=SINGLE, root=root)
    if known_classes is not None and not has_names and not images.has_named_labels:
        images = read_list(file, classes=known_classes, kind=SINGLE, root=root)
    listed = map(images.listed_path, range(len(images)))
    in_order = sorted(zip(images.labels.tolist(), listed, range(len(images)), strict=True))
    labels, names, rows = map(list, zip(*in_order, strict=True))
    if labels[0] == labels[-1] and known_classes is None:
        raise DataError(
            f"{file} has images of one class only, {images.class_names[labels[0]]}; expected two or"
            " more"
        )
    paths = [images.image_path(row) for row in rows]
    try:
        sizes = [file_size(path) for path in paths]
    except DataError:
        # A missing one is told with its line; only now, as it takes another look at each file.
        for row in range(len(images)):
            check_image(images, row)
        raise
    return Scan(file, images.class_names, names=names, paths=paths, labels=labels, sizes=sizes)


def _scan_top(folder: Path, ignored: Counter[str]) -> dict[str, list[tuple[str, int]]]:
    """Return (path below the class folder, size) of the images of each class."""
    folders, loose = contents_of(str(folder), "", ignored)
    if loose:
        first, _ = min(loose)
        raise LayoutError(
            f"{folder} holds {len(loose):,} images outside class folders, such as {first}; "
            f"expected {folder}/<class>/{first}"
        )
    real = Path(os.path.realpath(folder))
    above = {_identity(str(place)) for place in (real, *real.parents)}
    found = {}
    for name in sorted(below.rstrip("/") for below in folders):
        if _identity(os.path.join(folder, name)) in above:
            ignored[name] += 1
            continue
        others: Counter[str] = Counter()
        found[name] = images_below(folder / name, seen=set(above), ignored=others)
        # Leaving it out would move the index of every class after it.
        if not found[name]:
            raise DataError(_no_images(folder / name, others))
        ignored += others
    return found


def _no_images(folder: Path, others: Mapping[str, int]) -> str:
    if not others:
        return f"the class folder {folder} is empty; put images into it or remove it"
    kinds = [OPTIONAL_EXTENSIONS.get(name.lower()) for name in others]
    remedy = next((OPTIONAL[kind][1] for kind in kinds if kind), "put images into it")
    return (
        f"nothing in the class folder {folder} can be read as an image, only"
        f" {describe_ignored(others)} found; {remedy}, or remove it"
    )


def images_below(
    folder: Path, *, seen: set[tuple[int, int]], ignored: Counter[str]
) -> list[tuple[str, int]]:
    """Return the images of one class, or of any folder.

    seen: the folders visited, changed in place; at first those above, which a symlink may lead to.
    ignored: gets the other files.
    """
    images: list[tuple[str, int]] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        path = os.path.join(folder, below)
        if (identity := _identity(path)) in seen:
            continue
        seen.add(identity)
        folders, found = contents_of(path, below, ignored)
        images += found
        # Of two paths to one folder the same is used whatever order the file system returns.
        waiting.extend(sorted(folders, reverse=True))
    return sorted(images)


def contents_of(
    folder: str, below: str, ignored: Counter[str]
) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the folders in a folder, and (path, size) of the images; ignored gets the others.

    below: what the paths begin with; those of folders end with a slash.
    """
    folders, images = [], []
    for entry in _entries(folder):
        name = entry.name
        # Nearly all entries are plain images, so their test comes first.
        if is_image(name) and entry.is_file(follow_symlinks=False):
            images.append((below + name, file_size(entry.path)))
        elif name[0] == "." or name in ("Thumbs.db", "__MACOSX", "desktop.ini"):
            ignored[name] += 1
        # isdir: a symlink to itself is no folder; reading it raises with a message.
        elif os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            folders.append(f"{below}{name}/")
        elif is_image(name):
            images.append((below + name, file_size(entry.path)))
        else:
            if entry.is_symlink():
                # A broken one may have been a folder of images.
                file_size(entry.path)
            ignored[os.path.splitext(name)[1] or name] += 1
    return folders, images


def _check_found(
    folder: Path,
    found: Mapping[str, list[tuple[str, int]]],
    ignored: Mapping[str, int],
    *,
    known_classes: Collection[str],
) -> None:
    expected = f"expected {folder}/<class>/<image>.png"
    if not found:
        others = f", only {describe_ignored(ignored)}" if ignored else ""
        raise LayoutError(f"{folder} has no images{others}; {expected}")
    if len(found) == 1 and not found.keys() & set(known_classes):
        [(only, images)] = found.items()
        advice = f"{expected} for two or more classes"
        if all("/" in name for name, _ in images):
            advice = f"did you mean `ptkit split {folder / only}`?"
        raise LayoutError(f"{folder} has images of one class only, {only}; {advice}")


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Return counts by kind, the most frequent first: "12 .txt, 1 README"."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{count:,} {kind}" for kind, count in ordered[:5]]
    return ", ".join(kinds) + (", ..." if len(ordered) > 5 else "")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        raise DataError(f"no folder {folder} here; expected one folder per class in it") from None
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    return found.st_dev, found.st_ino


def file_size(path: str) -> int:
    """Return the bytes of a regular file.

    Raises:
        DataError: there is none, or it is something else.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        broken = os.path.islink(path)
        raise DataError(
            f"{path} is a broken symlink; fix or remove it" if broken else f"no image {path}"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is not a regular file; expected an image")
    return found.st_size


def is_image(name: str) -> bool:
    """Say whether a file is an image by its extension, and not hidden."""
    return name[name.rfind(".") :].lower() in IMAGE_EXTENSIONS and name[0] != "."
