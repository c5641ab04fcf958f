"""Bytes to pixels: the one place that decodes images, for training, statistics and prediction
alike.
"""

import contextlib
import importlib
import io
import logging
import os
import re
import stat
import zlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from ptkit.core.data.complaints import with_stderr, without_warnings
from ptkit.core.data.formats import (
    JPEG_END,
    OPTIONAL,
    PNG_TEXT,
    first_look,
    is_jpeg,
    is_png,
    jpeg_has_metadata,
    png_chunks,
    sniff,
)
from ptkit.core.data.pixel_limits import DEFAULT_MAX_PIXELS, check_pixels, max_pixels
from ptkit.core.errors import DataError, ImageError, UsageError
from ptkit.core.files import with_retries

# Another number whenever some file's pixels change: kept images are decoded anew.
DECODING = 2

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

# Pillow logs errors that it also raises; without a handler Python prints them.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# OpenCV's own threads would compete with ours; its resize and flip are small jobs here.
cv2.setNumThreads(1)

# Not IMREAD_REDUCED_COLOR_2: its colours are in the other order.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# Turned here: OpenCV knows EXIF alone, and its versions differ in the formats they look at.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# What makes a stored image upright, by its orientation (EXIF 2.32, section 4.6.5).
_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: lambda stored: cv2.flip(stored, 1),
    3: lambda stored: cv2.rotate(stored, cv2.ROTATE_180),
    4: lambda stored: cv2.flip(stored, 0),
    5: cv2.transpose,
    6: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE),
    7: lambda stored: cv2.rotate(cv2.transpose(stored), cv2.ROTATE_180),
    8: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_TURNED = (5, 6, 7, 8)
# How libjpeg and libtiff begin what they say of damaged pixels; the rest is about headers.
_DAMAGE = re.compile(
    r"(?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression"
    r"|(?:\w*Decode\w*|JPEGLib): (?!Warning)).*"
)
# How Pillow begins to say it, at twice its own limit.
_TOO_LARGE = re.compile(r"Image size \((\d+) pixels\)")
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_HEADER_BYTES = 1 << 16
# All formats have their end marker in them.
_TAIL_BYTES = 64
_ORIENTATION = 0x0112


def read(path: str | Path, *, alpha: str = "drop") -> Pixels:
    """Return the image as uint8 RGB of shape (H, W, 3), turned upright as Pillow's exif_transpose
    does.

    16-bit images are scaled to 8 bits, of several frames or pages the first is taken. alpha: "drop"
    leaves transparency out of account, "white" puts the image on white.

    Raises:
        DataError: not a readable image, or a damaged one; the message has path and reason.
        StorageError: the disk failed three times.
    """
    return decode(read_bytes(path), path, alpha=alpha)


def decode(data: bytes, path: str | Path = "image", *, alpha: str = "drop") -> Pixels:
    """Return the pixels of an encoded image, see `read`; `path` is for messages."""
    pixels, complaint = with_stderr(_decoded, data, path, alpha)
    if not complaint:
        return pixels
    if damage := _DAMAGE.search(complaint):
        raise ImageError(f"cannot read {path}: {damage[0]}")
    # libjpeg tells of its first complaint only, and this harmless one would hide the others.
    if "JFIF revision" in complaint and data[6:11] == b"JFIF\0" and data[11] != 1:
        return decode(data[:11] + b"\1" + data[12:], path, alpha=alpha)
    return pixels


def decode_reduced(data: bytes, times: int) -> Pixels | None:
    """Return a JPEG decoded `times` (2, 4 or 8) smaller, its sides rounded up; None where only
    `decode` can.

    A pixel is nearly the mean over `times` by `times` pixels; less of each block is computed.
    """
    if not (is_jpeg(data) and data.endswith(JPEG_END)):
        return None
    pixels, complaint = with_stderr(_with_opencv, data, _FLAGS | _REDUCED[times])
    if pixels is None or complaint:
        return None
    return _upright(pixels, data, "JPEG") if jpeg_has_metadata(data) else pixels


def read_bytes(path: str | Path, *, most: int | None = None) -> bytes:
    """Return the content of a regular file, or the beginning of it; never blocks on a FIFO or a
    device.

    Raises:
        DataError, StorageError: see `read`.
    """
    return with_retries(path, _regular_bytes, path, most)


def read_ends(path: str | Path) -> tuple[bytes, bytes, int]:
    """Return the beginning of a file, up to 64 KiB, its last bytes, and its length.

    Raises:
        DataError, StorageError: see `read`.
    """
    return with_retries(path, _ends, path)


def size_of(path: str | Path) -> tuple[int, int]:
    """Return (height, width) of what `read` gives, from the header: nothing is decoded.

    Raises:
        DataError: see `read`.
    """
    data = read_bytes(path, most=_HEADER_BYTES)
    # A PNG may have its orientation after its pixels.
    if not is_png(data):
        # A damaged header, or one that ends beyond what was read.
        with contextlib.suppress(DataError):
            return header_size(data, path)
    return header_size(data if len(data) < _HEADER_BYTES else read_bytes(path), path)


def header_size(data: bytes, path: str | Path = "image") -> tuple[int, int]:
    """Return (height, width) of what `decode` gives; this takes a thousandth of its time.

    Raises:
        DataError: see `read`.
    """
    kind = sniff(data, path)
    image = _header(data, path, kind)
    # Of a TIFF, versions of Pillow differ in whether `size` is turned already.
    width, height = map(image.tag_v2.get, (256, 257)) if kind == "TIFF" else image.size
    return (width, height) if _orientation(image) in _TURNED else (height, width)


def is_upright(data: bytes) -> bool:
    """Say whether an encoded JPEG is shown as it is stored, as its metadata have it; not where its
    header is refused.
    """
    with contextlib.suppress(DataError):
        return _orientation(_header(data, "", "JPEG")) not in _UPRIGHT
    return False


def _length_of(descriptor: int, path: str | Path) -> int:
    """Return the length of an open file, which must be a regular one."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"cannot read {path}: not a regular file")
    return status.st_size


def _ends(path: str | Path) -> tuple[bytes, bytes, int]:
    descriptor = os.open(os.fsencode(path), _READ_FLAGS)
    try:
        length = _length_of(descriptor, path)
        head = os.read(descriptor, _HEADER_BYTES)
        if length <= len(head):
            return head, head[-_TAIL_BYTES:], length
        os.lseek(descriptor, -_TAIL_BYTES, os.SEEK_END)
        return head, os.read(descriptor, _TAIL_BYTES), length
    finally:
        os.close(descriptor)


def _regular_bytes(path: str | Path, most: int | None) -> bytes:
    descriptor = os.open(os.fsencode(path), _READ_FLAGS)
    try:
        length = _length_of(descriptor, path)
        wanted = length if most is None else min(most, length)
        data = os.read(descriptor, wanted)
        # One read gives all of it on most disks; the file may have become shorter meanwhile.
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def alpha_channel(data: bytes, path: str | Path = "image") -> Pixels:
    """Return how opaque each pixel of an image is, uint8 (H, W), 255 where nothing shines through.

    Raises:
        DataError: it cannot be read.
    """
    channel, _ = with_stderr(_decoded_channel, data, path)
    return channel


def _decoded(data: bytes, path: str | Path, alpha: str) -> Pixels:
    kind, for_opencv, may_be_turned = first_look(data, path)
    to_pixels = to_rgb
    if alpha == "white" and kind != "JPEG":
        # OpenCV drops what is transparent, and does not say that there was any.
        for_opencv, to_pixels = None, on_white
    pixels = _with_opencv(for_opencv) if for_opencv else None
    if pixels is None:
        pixels = _with_pillow(data, path, kind, to_pixels)
    return _upright(pixels, data, kind) if may_be_turned else pixels


def _decoded_channel(data: bytes, path: str | Path) -> Pixels:
    kind, _, may_be_turned = first_look(data, path)
    channel = _with_pillow(data, path, kind, _opacity)
    return _upright(channel, data, kind) if may_be_turned else channel


def _upright(pixels: Pixels, data: bytes, kind: str) -> Pixels:
    """Return the pixels as the orientation says; it is ignored where it cannot be read."""
    with contextlib.suppress(DataError):
        turn = _UPRIGHT.get(_orientation(_header(data, "", kind)))
        return pixels if turn is None else turn(pixels)
    return pixels


def _orientation(image: Any) -> Any:
    """Return the orientation of an opened image as Pillow finds it, in EXIF, ImageMagick's raw
    profile or XMP: with anything but 2 to 8 it is upright already.
    """
    from PIL import Image

    with contextlib.suppress(DataError):
        # Not image.getexif(), which decodes a PNG to look behind its pixels.
        return _pillow_call(lambda: Image.Image.getexif(image), "", "").get(_ORIENTATION)
    return None


def _header(data: bytes, path: str | Path, kind: str) -> Any:
    """Return the Pillow image to ask for its size and its orientation."""
    num_bytes = len(data)
    if kind == "PNG":
        # What it says behind its pixels comes to the front, and the pixels go.
        said = [chunk for chunk in png_chunks(data) if chunk[0] in (b"IHDR", *PNG_TEXT)]
        said.append((b"IDAT", memoryview(b""), zlib.crc32(b"IDAT")))
        parts = (
            (len(content).to_bytes(4), name, content, checksum.to_bytes(4))
            for name, content, checksum in said
        )
        data = data[:8] + b"".join(chain.from_iterable(parts))
    return _opened(data, path, kind, num_bytes=num_bytes)


def _with_opencv(data: bytes, flags: int = _FLAGS) -> Pixels | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]
    except cv2.error:  # more pixels than allowed: Pillow's header check says how many
        return None


def _with_pillow(
    data: bytes, path: str | Path, kind: str, to_pixels: Callable[[Any], Pixels]
) -> Pixels:
    """Decode what OpenCV refused, strictly: truncated data is an error."""
    image = _opened(data, path, kind, num_bytes=len(data))
    if min(image.size) < 1:
        raise ImageError(f"cannot read {path}: its size is {image.width}×{image.height}")
    # A copy: what Pillow gives cannot be written to, and torch warns of such arrays.
    return np.array(_pillow_call(lambda: to_pixels(image), path, kind), order="C")


def _opened(data: bytes, path: str | Path, kind: str, *, num_bytes: int) -> Any:
    """Return the Pillow image, header read and size checked, pixels not yet decoded."""
    from PIL import Image

    formats = {"JPEG": ("JPEG", "MPO"), "HEIC": ("HEIF",)}.get(kind, (kind,))
    if kind in OPTIONAL:
        _load_plugin(kind, path)
    # Pillow has a limit of its own, at twice its number: it is raised where the user asks for more.
    if Image.MAX_IMAGE_PIXELS and (max_pixels() or 0) > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels()
    image = _pillow_call(lambda: Image.open(io.BytesIO(data), formats=formats), path, kind)
    check_pixels(image.width, image.height, num_bytes=num_bytes, path=path)
    return image


def _load_plugin(kind: str, path: str | Path) -> None:
    """Load what reads a format that not every installation can read."""
    module, remedy = OPTIONAL[kind]
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        raise ImageError(
            f"cannot read {path}: it is {kind}; {remedy}, or convert it to PNG or JPEG"
        ) from None
    if kind == "HEIC":
        plugin.register_heif_opener()


def _pillow_call(work: Callable[[], Any], path: str | Path, kind: str) -> Any:
    try:
        with without_warnings():
            return work()
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if "cannot identify" in reason:
            reason = f"damaged {kind} header"
        elif claim := _TOO_LARGE.match(reason):
            reason = f"its header claims {int(claim[1]):,} pixels; --max-pixels sets the limit"
        raise ImageError(f"cannot read {path}: {reason}") from None


def to_rgb(image: Any) -> Pixels:
    """Return RGB pixels; 16-bit greys keep their upper 8 bits (Pillow's own convert clips them to
    white).

    Raises:
        DataError: numbers of more than 16 bits, of which nobody knows what is white.
    """
    num_bits = max(image.tag_v2.get(258, (1,))) if image.format == "TIFF" else 8
    if image.mode == "F" or num_bits > 16:
        raise DataError("its pixels are numbers of 32 bits; save it with 8 or 16")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def on_white(image: Any) -> Pixels:
    """Return RGB pixels of a Pillow image on a white background; see `to_rgb`."""
    from PIL import Image

    if not _has_transparency(image):
        return to_rgb(image)
    whole = image.convert("RGBA")
    return np.asarray(
        Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    )


def _opacity(image: Any) -> Pixels:
    if not _has_transparency(image):
        return np.full((image.height, image.width), 255, np.uint8)
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _has_transparency(image: Any) -> bool:
    image.load()
    # Of 16 bits Pillow knows one transparent grey at most, which convert would clip.
    return bool(image.has_transparency_data) and not image.mode.startswith("I")
