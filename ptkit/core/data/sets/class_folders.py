"""A data set as class folders, PART/CLASS/IMAGE; the folder gets its name when it is complete."""

import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ptkit.core.counting import Counting
from ptkit.core.data.formats import sniff
from ptkit.core.data.images import to_rgb
from ptkit.core.data.sets.contents import Part, SetImage
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.machine import num_cores

_SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "WebP": ".webp", "TIFF": ".tif",
    "AVIF": ".avif", "HEIC": ".heic",
}  # fmt: skip
_MODES_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# Images that are encoded and written together.
_BLOCK = 256
# What some system does not allow in a name, or means something else by.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: it does, or it is a file.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} exists and is not an empty folder; remove it, or name another with --out"
        )


def write_parts(
    parts: Sequence[Part], folder: Path, counting: Counting
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Write all images into a folder; returns how many each part has, and the names of the class
    folders, in order.

    Raises:
        StorageError: the disk refused. DataError: an image that cannot be read.
    """
    folders: dict[str, str] = {}
    counts = {}
    # Encoding and the disk give the interpreter's lock away.
    with ThreadPoolExecutor(num_cores(), "ptkit-write") as pool:
        for part in parts:
            taken: set[str] = set()
            with counting(f"writing {part.name or 'images'}", part.num_images) as on_images:
                images = iter(part.images)
                while block := list(islice(images, _BLOCK)):
                    encoded = pool.map(_encoded, block)
                    files = [
                        (_file_of(image, suffix, folder / part.name, folders, taken), content)
                        for image, (content, suffix) in zip(block, encoded, strict=True)
                    ]
                    # Taken out of the iterator, which holds the errors.
                    list(pool.map(_write, files))
                    on_images(len(block))
            counts[part.name] = len(taken)
    return counts, tuple(sorted(folders.values()))


def folder_name(label: str, known: dict[str, str]) -> str:
    """Return the name of a class's folder, which every system allows and no other class has.

    known: the names so far, by class; a new one is put there.
    """
    if label not in known:
        name = _allowed(label)
        # Names that differ in capitals only are one folder on some disks.
        taken = {other.casefold() for other in known.values()}
        tries = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3)))
        known[label] = next(one for one in tries if one.casefold() not in taken)
    return known[label]


def _allowed(text: str) -> str:
    """Return a name that every system allows and shows."""
    name = _FORBIDDEN.sub("_", text).strip().rstrip(".")
    # A leading dot would hide it.
    name = "_" + name[1:] if name.startswith(".") else name
    return f"{name}_" if not name or _DEVICES.fullmatch(name) else name


def _file_of(
    image: SetImage, suffix: str, folder: Path, folders: dict[str, str], taken: set[str]
) -> Path:
    """Return where an image goes; taken: the files so far, with this one afterwards."""
    below = folder / folder_name(image.label, folders)
    stem = _allowed(image.stem)
    # Two files of one name come from different folders of the set.
    number = len(taken)
    while f"{below}/{stem}{suffix}".casefold() in taken:
        stem, number = f"{number}-{stem}", number + 1
    taken.add(f"{below}/{stem}{suffix}".casefold())
    return below / f"{stem}{suffix}"


def _write(file_and_content: tuple[Path, bytes]) -> None:
    file, content = file_and_content
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"cannot write {file.name}: {error.strerror or error}; nothing is left behind"
        ) from error


def _encoded(image: SetImage) -> tuple[bytes, str]:
    """Return a file's bytes and suffix: as they are if ptkit reads such files, else as PNG."""
    content = image.content
    if isinstance(content, bytes):
        try:
            return content, _SUFFIXES[sniff(content)]
        except DataError:
            content = _opened(content, image)
    buffer = io.BytesIO()
    try:
        _as_png_takes(content).save(buffer, "PNG")
    except DataError as error:
        raise DataError(
            f"the set's image {image.stem} of {image.label} cannot be written: {error}"
        ) from None
    return buffer.getvalue(), ".png"


def _as_png_takes(content: Image.Image) -> Image.Image:
    """Return the pixels as RGB where PNG lacks their mode, as files like these are read: it has no
    CMYK, no YCbCr and no 32 bits.

    Raises:
        DataError: no pixels, or numbers of which nobody knows what is white.
    """
    if 0 in content.size:
        raise DataError("it has no pixels")
    if content.mode in _MODES_OF_PNG:
        return content
    # Numbers of a set's own, not those of a file of 16 bits.
    if content.format is None and content.mode == "I":
        numbers = np.asarray(content)
        if numbers.min() < 0 or numbers.max() > 255:
            found = f"{numbers.min()}..{numbers.max()}"
            raise DataError(f"its pixels are numbers of {found}, not of 0..255")
        return content.convert("RGB")
    return Image.fromarray(to_rgb(content))


def _opened(content: bytes, image: SetImage) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(content))
        opened.load()
    # Pillow raises many kinds for files that are no images.
    except Exception as error:
        # Pillow names the buffer.
        why = "not a known image format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"the set's image {image.stem} of {image.label} cannot be read: {why}"
        ) from error
    return opened
