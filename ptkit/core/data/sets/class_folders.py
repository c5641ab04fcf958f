"""A data set as class folders, PART/CLASS/IMAGE; the folder gets its name when it is complete."""

import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from PIL import Image

from ptkit.core.data.formats import sniff
from ptkit.core.data.sets.contents import Part, SetImage
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.files import make_folder

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

_SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "WebP": ".webp", "TIFF": ".tif",
    "AVIF": ".avif", "HEIC": ".heic",
}  # fmt: skip
_MODES_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
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


@contextmanager
def unfinished(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a folder that becomes `folder` at the end of the block, and one for what is needed
    meanwhile; where the block fails, nothing is left of either.

    Raises:
        StorageError: the disk refused.
    """
    target = Path(os.path.realpath(folder))
    work = make_folder(target.parent) / f".{target.name}.{os.getpid()}"
    try:
        finished, scratch = make_folder(work / "set"), make_folder(work / "files")
        yield finished, scratch
        # Renaming replaces an empty folder, and no other.
        finished.rename(target)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
    for part in parts:
        taken: Counter[str] = Counter()
        with counting(f"writing {part.name or 'images'}", part.num_images) as on_images:
            for number, image in enumerate(part.images):
                name = folder_name(image.label, folders)
                _write(image, folder / part.name / name, taken, number=number)
                on_images(1)
            counts[part.name] = sum(taken.values())
    return counts, tuple(sorted(folders.values()))


def folder_name(label: str, known: dict[str, str]) -> str:
    """Return the name of a class's folder, which every system allows and no other class has.

    known: the names so far, by class; a new one is put there.
    """
    if label not in known:
        name = _FORBIDDEN.sub("_", label).strip().rstrip(".")
        # A leading dot hides a folder.
        name = "_" + name[1:] if name.startswith(".") else name
        name = f"{name}_" if not name or _DEVICES.fullmatch(name) else name
        # Names that differ in capitals only are one folder on some disks.
        taken = {other.casefold() for other in known.values()}
        tries = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3)))
        known[label] = next(one for one in tries if one.casefold() not in taken)
    return known[label]


def _write(image: SetImage, folder: Path, taken: Counter[str], *, number: int) -> None:
    content, suffix = _encoded(image)
    stem = _FORBIDDEN.sub("_", image.stem) or str(number)
    # Two files of one name come from different folders of the set.
    key = f"{folder}/{stem}{suffix}".casefold()
    if taken[key]:
        stem = f"{number}-{stem}"
    taken[f"{folder}/{stem}{suffix}".casefold()] += 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}{suffix}").write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"cannot write {stem}{suffix}: {error.strerror or error}; nothing is left behind"
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
    # PNG has no CMYK, YCbCr or floats.
    pixels = content if content.mode in _MODES_OF_PNG else content.convert("RGB")
    pixels.save(buffer, "PNG")
    return buffer.getvalue(), ".png"


def _opened(content: bytes, image: SetImage) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(content))
        opened.load()
    # Pillow raises many kinds for files that are no images.
    except Exception as error:
        raise DataError(
            f"the set's image {image.stem} of {image.label} cannot be read: {error}"
        ) from error
    return opened
