"""Bytes to pixels: the one place that decodes images, for training, statistics and prediction
alike.
"""

import contextlib
import io
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import with_retries

DEFAULT_MAX_PIXELS = 89_000_000

# OpenCV reads both when it is imported: no log lines on standard error, and its own pixel limit.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(DEFAULT_MAX_PIXELS))

# Re-exported: whoever needs OpenCV gets it with these settings.
try:
    import cv2 as cv2
except ImportError as error:
    if ".so" not in str(error):
        raise
    raise UsageError(
        f"OpenCV needs a library of the system: {error}; install it (libgl1 has libGL.so.1), or"
        " uninstall opencv-python and then install opencv-python-headless"
    ) from error
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

Pixels = npt.NDArray[np.uint8]

# OpenCV's own threads would compete with ours; its resize and flip are small jobs here.
cv2.setNumThreads(1)

# First bytes of what is read, and of what is only named in the error.
_ALLOWED = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "BMP": b"BM",
    "GIF": b"GIF8",
    "WebP": b"RIFF",
}
_REFUSED: dict[str, bytes | tuple[bytes, ...]] = {
    "EPS": b"%!PS",
    "PSD": b"8BPS",
    "PDF": b"%PDF",
    "TIFF": (b"II*\x00", b"MM\x00*"),
    "JPEG 2000": b"\x00\x00\x00\x0cjP",
    "a Git LFS pointer (run `git lfs pull`)": b"version https://git-lfs",
    "a zip archive": b"PK\x03\x04",
}
# Not IMREAD_REDUCED_COLOR_2: its colours are in the other order.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_HEADER_BYTES = 1 << 16
_ONE_HEADER = threading.Lock()
# The EXIF tag, and those of its values that turn rows into columns.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
# OpenCV 4 turns no WebP as its EXIF says; Pillow does.
_TURNS_WEBP = int(cv2.__version__.partition(".")[0]) >= 5


def read(path: str | Path) -> Pixels:
    """Return the image as uint8 RGB of shape (H, W, 3), turned upright where EXIF says so.

    16-bit images are scaled to 8 bits, alpha is dropped, of an animation the first frame is taken.

    Raises:
        DataError: not a readable image; the message has path and reason.
        StorageError: the disk failed three times.
    """
    return decode(read_bytes(path), path)


def decode(data: bytes, path: str | Path = "image") -> Pixels:
    """Return the pixels of an encoded image, see `read`; `path` is for messages."""
    kind = sniff(data, path)
    is_turned_wrong = kind == "WebP" and not _TURNS_WEBP and b"EXIF" in data
    pixels = _with_opencv(data) if _ends_well(kind, data) and not is_turned_wrong else None
    return _with_pillow(data, path, kind) if pixels is None else pixels


def decode_reduced(data: bytes, times: int) -> Pixels | None:
    """Return a JPEG decoded `times` (2, 4 or 8) smaller, its sides rounded up; None where only
    `decode` can.

    A pixel is nearly the mean over `times` by `times` pixels; less of each block is computed.
    """
    is_whole = is_jpeg(data) and _ends_well("JPEG", data)
    return _with_opencv(data, _REDUCED[times]) if is_whole else None


def is_jpeg(data: bytes) -> bool:
    """Say whether this begins as a JPEG does."""
    return data.startswith(_ALLOWED["JPEG"])


def read_bytes(path: str | Path, *, most: int | None = None) -> bytes:
    """Return the content of a regular file, or the beginning of it; never blocks on a FIFO or a
    device.

    Raises:
        DataError, StorageError: see `read`.
    """
    return with_retries(path, _regular_bytes, path, most)


def sniff(data: bytes, path: str | Path = "image") -> str:
    """Return the format that the first bytes show: JPEG, PNG, BMP, GIF or WebP.

    Raises:
        DataError: empty, or another format; the message names it.
    """
    for kind, start in _ALLOWED.items():
        # RIFF is the container of sound and films too.
        if data.startswith(start) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind
    raise DataError(f"cannot read {path}: {_what_else(data)}")


def size_of(path: str | Path) -> tuple[int, int]:
    """Return (height, width) of what `read` gives, from the header: nothing is decoded.

    Raises:
        DataError: see `read`.
    """
    data = read_bytes(path, most=_HEADER_BYTES)
    # A PNG may have its orientation after its pixels.
    if not data.startswith(_ALLOWED["PNG"]):
        # A damaged header, or one that ends beyond what was read.
        with contextlib.suppress(DataError):
            return header_size(data, path)
    return header_size(data if len(data) < _HEADER_BYTES else read_bytes(path), path)


def header_size(data: bytes, path: str | Path = "image") -> tuple[int, int]:
    """Return (height, width) of what `decode` gives; this takes a thousandth of its time.

    Raises:
        DataError: see `read`.
    """
    image = _opened(data, path)
    is_turned = _orientation(image, data) in _TURNED
    return (image.width, image.height) if is_turned else (image.height, image.width)


def _regular_bytes(path: str | Path, most: int | None) -> bytes:
    descriptor = os.open(os.fsencode(path), _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"cannot read {path}: not a regular file")
        wanted = status.st_size if most is None else min(most, status.st_size)
        data = os.read(descriptor, wanted)
        # One read gives all of it on most disks; the file may have become shorter meanwhile.
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def _what_else(data: bytes) -> str:
    if not data:
        return "the file is empty"
    named = [kind for kind, start in _REFUSED.items() if data.startswith(start)]
    if named or data[4:8] == b"ftyp":
        return f"it is {named[0] if named else 'HEIC or AVIF'}; convert it to PNG or JPEG"
    if not data.strip(b"\0"):
        return "it holds only zero bytes"
    if data.lstrip()[:1] == b"<":
        return "it is HTML or XML, not an image"
    return "it is not a JPEG, PNG, WebP, BMP or GIF image"


def _ends_well(kind: str, data: bytes) -> bool:
    """Say whether the end marker is there: OpenCV's libraries write to standard error otherwise."""
    match kind:
        case "JPEG":
            return data.endswith(b"\xff\xd9")
        case "PNG":
            return _png_chunks_are_whole(data)
        case "WebP":
            return int.from_bytes(data[4:8], "little") + 8 <= len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") <= len(data)
    return False  # GIF: Pillow gives the first frame of every kind


def _png_chunks_are_whole(data: bytes) -> bool:
    """Compare the checksums of all chunks up to IEND."""
    for name, content, checksum in _png_chunks(data):
        is_whole = zlib.crc32(content, zlib.crc32(name)) == checksum
        if name == b"IEND" or not is_whole:
            return is_whole
    return False


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield name, content and checksum of each chunk that is there as a whole."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], view[at + 8 : end - 4], int.from_bytes(data[end - 4 : end])
        at = end


def _with_opencv(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> Pixels | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]
    except cv2.error:  # more pixels than allowed: Pillow's header check says how many
        return None


def _with_pillow(data: bytes, path: str | Path, kind: str) -> Pixels:
    """Decode what OpenCV refused, strictly: truncated data is an error."""
    from PIL import ImageOps

    image = _opened(data, path)
    if min(image.size) < 1:
        raise DataError(f"cannot read {path}: its size is {image.width}×{image.height}")
    pixels = _pillow_call(lambda: to_rgb(ImageOps.exif_transpose(image) or image), path, kind)
    # A copy: what Pillow gives cannot be written to, and torch warns of such arrays.
    return np.array(pixels, order="C")


def _opened(data: bytes, path: str | Path) -> Any:
    """Return the Pillow image, header read and size checked, pixels not yet decoded."""
    from PIL import Image

    kind = sniff(data, path)
    formats = [kind, "MPO"] if kind == "JPEG" else [kind]
    # Threads that enter and leave catch_warnings in turns would leave its filter in place.
    with _ONE_HEADER:
        image = _pillow_call(lambda: Image.open(io.BytesIO(data), formats=formats), path, kind)
    # Pillow also turns images by these, OpenCV by EXIF alone.
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(name, None)
    pixels = image.width * image.height
    if pixels > DEFAULT_MAX_PIXELS:
        raise DataError(
            f"cannot read {path}: its header claims {image.width}×{image.height} pixels, over"
            f" {DEFAULT_MAX_PIXELS:,}"
        )
    return image


def _orientation(image: Any, data: bytes) -> int:
    """Return the EXIF orientation of an opened image, 1 where it has none or a damaged one."""
    from PIL import Image

    # Not image.getexif(), which decodes a PNG to look behind its pixels.
    raw = image.info.get("exif")
    if raw is None and image.format == "PNG":
        raw = next((bytes(chunk) for name, chunk, _ in _png_chunks(data) if name == b"eXIf"), None)
    exif = Image.Exif()
    try:
        exif.load(raw or b"")
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # as in _pillow_call
        return 1


def _pillow_call(work: Callable[[], Any], path: str | Path, kind: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if "cannot identify" in reason:
            reason = f"damaged {kind} header"
        raise DataError(f"cannot read {path}: {reason}") from None


def to_rgb(image: Any) -> Pixels:
    """Return RGB pixels; 16-bit greys keep their upper 8 bits (Pillow's own convert clips them to
    white).
    """
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
