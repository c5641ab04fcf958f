"""torchvision's data sets as parts with images: files as they are, arrays as pixels.

CIFAR's files are pickles, which can run code: torchvision compares the MD5 of each with the one it
knows before it reads them.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from ptkit.core.data.images import read_bytes
from ptkit.core.data.sets.contents import Part, SetImage
from ptkit.core.data.sets.fetching import Fetch, fetching
from ptkit.core.data.sets.known import KnownSet
from ptkit.core.errors import DataError, PtkitError, UsageError
from ptkit.core.wording import reason_of


def read_known(known: KnownSet, root: Path, fetch: Fetch) -> list[Part]:
    """Return the parts of a set, downloaded or taken from where the user has put the files.

    root: an empty folder, for archives and what is in them.

    Raises:
        StorageError: the network or the disk failed. DataError: files that are missing, damaged or
            not the set's. UsageError: a library is missing.
    """
    if known.needs and importlib.util.find_spec(known.needs) is None:
        raise UsageError(f"{fetch.name} needs {known.needs}: pip install 'ptkit[datasets]'")
    opened = _unpacked(known, fetch.local) or _fetched(known, root, fetch)
    return [
        Part(name, len(data), _images(data, known))
        for name, data in zip(known.parts, opened, strict=True)
    ]


def _unpacked(known: KnownSet, local: Path | None) -> list[Any]:
    """Return the set where a folder has it as torchvision unpacks it; nothing where it has not."""
    if local is None or not local.is_dir():
        return []
    # The folder that torchvision makes may be named itself.
    for root in (local, local.parent):
        try:
            return _open(known, root, download=False)
        except (RuntimeError, OSError):
            continue
        except Exception as error:
            # Its readers raise anything for a damaged file.
            raise DataError(f"{local} holds a damaged file: {reason_of(error)}") from error
    return []


def _fetched(known: KnownSet, root: Path, fetch: Fetch) -> list[Any]:
    try:
        with fetching(fetch):
            return _open(known, root, download=True)
    except PtkitError:
        raise
    # Of URLs, archives and files that are read: anything.
    except Exception as error:
        raise fetch.refusal(error) from error


def _open(known: KnownSet, root: Path, *, download: bool) -> list[Any]:
    target = getattr(datasets, known.target)
    opened = []
    for which in known.parts.values():
        make = partial(target, str(root), **known.options, **which)
        try:
            # Some sets refuse to download what the part before has brought.
            opened.append(make(download=False))
        except (RuntimeError, OSError):
            if not download:
                raise
            opened.append(make(download=True))
    return opened


def _images(data: Any, known: KnownSet) -> Iterator[SetImage]:
    names = known.class_names or [_first(name) for name in data.classes]
    files = _files_of(data)
    if files is not None:
        # Some sets list a folder as the disk has it.
        for path, label in sorted(files):
            yield SetImage(_named(label, names, path.stem, known), path.stem, read_bytes(path))
        return
    width = len(str(len(data)))
    for number in range(len(data)):
        image, label = data[number]
        if known.is_transposed:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        stem = f"{number:0{width}d}"
        yield SetImage(_named(int(label), names, stem, known), stem, image)


def _named(label: int, names: Sequence[str], stem: str, known: KnownSet) -> str:
    # Files whose MD5 torchvision does not compare may hold anything; -1 would be the last class.
    if not 0 <= label < len(names):
        raise DataError(
            f"image {stem} is of class {label}, but {known.target} has 0 to {len(names) - 1}; the"
            " files are damaged, or belong to another set"
        )
    return names[label]


def _first(name: str | tuple[str, ...]) -> str:
    # Imagenette has several names for a class.
    return name if isinstance(name, str) else name[0]


def _files_of(data: Any) -> list[tuple[Path, int]] | None:
    """Return path and label of each image; None for a set that has arrays."""
    # Its sets have no common name for this, and older ones open the image before it can be asked.
    for name in ("_samples", "samples"):
        if pairs := getattr(data, name, None):
            return [(Path(path), int(label)) for path, label in pairs]
    for name in ("_image_files", "_images"):
        if paths := getattr(data, name, None):
            return [
                (Path(path), int(label)) for path, label in zip(paths, data._labels, strict=True)
            ]
    return None
