"""Pictures as text inside a page: thumbnails of images, and figures of a run."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from PIL import Image

from ptkit.core.data.images import Pixels
from ptkit.core.errors import PtkitError
from ptkit.core.machine import num_cores

# Of the longer side; smaller images stay as they are.
THUMBNAIL = 112
# Figures of more bytes are compressed again; their text stays readable.
_LARGE, _QUALITY, _MAX_WIDTH = 60_000, 85, 1600
_KINDS = {".png": "image/png", ".gif": "image/gif"}


def thumbnails(
    images: Sequence[Callable[[], Pixels]], *, budget: int, workers: int = 0
) -> list[str | None]:
    """Return a data URI for each image; None where it cannot be read, and for those after which all
    URIs together would be longer than `budget` characters. images: functions that read them.
    """
    with ThreadPoolExecutor(workers or num_cores(), "ptkit-thumbnails") as pool:
        return list(_within(pool.map(_thumbnail, images), budget))


def figures(files: Iterable[Path], *, budget: int) -> list[str | None]:
    """Return a data URI for each PNG or GIF, as `thumbnails` does."""
    return list(_within(map(_figure, files), budget))


def _within(uris: Iterable[str | None], budget: int) -> Iterator[str | None]:
    for uri in uris:
        budget -= len(uri or "")
        yield uri if budget >= 0 else None


def _thumbnail(read: Callable[[], Pixels]) -> str | None:
    try:
        pixels = read()
    except PtkitError:
        return None
    height, width = pixels.shape[:2]
    scale = THUMBNAIL / max(height, width)
    buffer = io.BytesIO()
    if scale >= 1:
        # In a few pixels JPEG shows more of itself than of the image.
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        return _uri(buffer.getvalue(), "image/png")
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=80)
    return _uri(buffer.getvalue(), "image/jpeg")


def _figure(file: Path) -> str | None:
    try:
        data = file.read_bytes()
        if len(data) <= _LARGE or file.suffix == ".gif":
            return _uri(data, _KINDS[file.suffix])
        return _uri(_compressed(data), "image/webp")
    # A figure of a killed run, or one that is being written.
    except OSError:
        return None


def _compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    if picture.width > _MAX_WIDTH:
        picture = picture.resize((_MAX_WIDTH, round(picture.height * _MAX_WIDTH / picture.width)))
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
