"""Which files are images, by their extension; and what the bytes of an image say about it before
anything is decoded.
"""

import os
import re
import zlib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from ptkit.core.data.pixel_limits import check_pixels, claimed_size, max_pixels
from ptkit.core.errors import ImageError

# Format -> the module that reads it, which an installation may lack, and how to get it.
OPTIONAL = {
    "AVIF": ("PIL._avif", "install a Pillow that was built with AVIF (this one was not)"),
    "HEIC": ("pillow_heif", "run `pip install 'ptkit[heif]'`"),
}
OPTIONAL_EXTENSIONS = {".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC"}

_ALWAYS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".gif": "GIF",
}

# First bytes of what is read, and of what is only named in the error.
_ALLOWED: dict[str, bytes | tuple[bytes, ...]] = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "BMP": b"BM",
    "GIF": b"GIF8",
    "WebP": b"RIFF",
    # The last two are BigTIFF.
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_STARTS = tuple(
    start
    for starts in _ALLOWED.values()
    for start in (starts if isinstance(starts, tuple) else (starts,))
)
_REFUSED = {
    "EPS": b"%!PS",
    "PSD": b"8BPS",
    "PDF": b"%PDF",
    "JPEG 2000": b"\x00\x00\x00\x0cjP",
    "a Git LFS pointer (run `git lfs pull`)": b"version https://git-lfs",
    "a zip archive": b"PK\x03\x04",
}
# Brands of the container that both use (ISO 23008-12, annex B; AV1 Image File Format, section 6).
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# They take 10 bytes a pixel and more. Of others OpenCV itself refuses 89 million pixels, and below
# that it takes 6: the look would cost a tenth of the time of decoding a small image.
_HUNGRY = {"GIF", "WebP"}
# Chunks of a PNG in which Pillow looks for an orientation.
PNG_TEXT = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
JPEG_END = b"\xff\xd9"
# A start of scan, with its length and number of channels; an application's segment, a comment.
_FIRST_SEGMENT = re.compile(rb"\xff(?:\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]|[\xe1-\xef\xfe])")
# What comes before the pixels of the last JPEG without metadata: one encoder begins all images of a
# size alike.
_plain_start = b"no JPEG yet"


def can_read(kind: str) -> bool:
    """Say whether this installation reads an optional format; nothing large is imported."""
    module = OPTIONAL[kind][0]
    package = find_spec(module.partition(".")[0])
    if package is None or "." not in module:
        return package is not None
    # Not find_spec, which imports the package.
    return PathFinder.find_spec(module, package.submodule_search_locations) is not None


IMAGE_EXTENSIONS = frozenset(
    (*_ALWAYS, *(end for end, kind in OPTIONAL_EXTENSIONS.items() if can_read(kind)))
)


def kind_of_name(path: str) -> str | None:
    """Return the format that a name promises, None where it promises none."""
    extension = os.path.splitext(path)[1].lower()
    return _ALWAYS.get(extension) or OPTIONAL_EXTENSIONS.get(extension)


def is_jpeg(data: bytes) -> bool:
    """Say whether this begins as a JPEG does."""
    return data.startswith(_ALLOWED["JPEG"])


def is_png(data: bytes) -> bool:
    """Say whether this begins as a PNG does."""
    return data.startswith(_ALLOWED["PNG"])


def begins_as_image(data: bytes) -> bool:
    """Say whether the first bytes may be those of an image that is read: quicker than `sniff`, and
    wrong of other files in the containers of WebP, AVIF and HEIC.
    """
    return data.startswith(_STARTS) or data[4:8] == b"ftyp"


def sniff(data: bytes, path: str | Path = "image") -> str:
    """Return the format that the first bytes show: JPEG, PNG, BMP, GIF, WebP, TIFF, AVIF or HEIC.

    Raises:
        DataError: empty, or another format; the message names it.
    """
    for kind, start in _ALLOWED.items():
        # RIFF is the container of sound and films too.
        if data.startswith(start) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind
    if data[4:8] == b"ftyp":
        # The first box: its length, its name, the main brand, a version, other brands.
        brands = {data[k : k + 4] for k in range(8, min(int.from_bytes(data[:4]), 256), 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    raise ImageError(f"cannot read {path}: {_what_else(data)}")


def first_look(data: bytes, path: str | Path = "image") -> tuple[str, bytes | None, bool]:
    """Return the format; what OpenCV is given, None where it would not read the image as Pillow
    does; and whether the image may have an orientation.

    Raises:
        DataError: see `sniff`; or the header claims too many pixels.
    """
    # Of a small image a look takes a twentieth of the time that decoding takes.
    if data.startswith(_plain_start) and data.endswith(JPEG_END) and max_pixels() is None:
        return "JPEG", data, False
    kind = sniff(data, path)
    if (kind in _HUNGRY or max_pixels() is not None) and (claim := claimed_size(kind, data)):
        check_pixels(*claim, num_bytes=len(data), path=path)
    return kind, *_look(kind, data)


def _look(kind: str, data: bytes) -> tuple[bytes | None, bool]:
    match kind:
        case "JPEG":
            # Up to its end: cameras append data of their own. OpenCV gives some JPEGs without one
            # as images that are partly grey.
            whole = data if data.endswith(JPEG_END) else b"".join(data.rpartition(JPEG_END)[:2])
            return whole, jpeg_has_metadata(data)
        case "PNG":
            is_whole, has_text = _png_look(data)
            return data if is_whole else None, has_text
        case "WebP":
            is_whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
            # The extended header has a flag for EXIF and one for XMP.
            # A slice: the file may end before the flags.
            flags = int.from_bytes(data[20:21])
            has_text = data[12:16] == b"VP8X" and flags & 0b1100 != 0
            return data if is_whole else None, has_text
        case "BMP":
            # Masks, run lengths, and the headers before Windows 3 are Pillow's.
            is_plain = data[14:15] >= b"(" and data[30:34] == bytes(4) and data[28] in (1, 4, 8, 24)
            is_whole = int.from_bytes(data[2:6], "little") <= len(data)
            return data if is_plain and is_whole else None, False
        case "TIFF":  # Pillow turns it while it decodes
            return None, False
    return None, True


def jpeg_has_metadata(data: bytes) -> bool:
    """Say whether a JPEG has an APP1 segment, of EXIF or XMP, before its pixels."""
    global _plain_start
    # In most of them nothing comes before the pixels that could hold these bytes by chance.
    first = _FIRST_SEGMENT.search(data)
    if first is not None and first[0][1] == 0xDA:
        _plain_start = data[: first.end()]
        return False
    at, end = 2, len(data) - 4
    while at < end:
        marker = data[at + 1]
        if marker == 0xDA:
            return False
        # Pillow also looks at what is not a plain sequence of segments.
        if marker == 0xE1 or data[at] != 0xFF or marker == 0xFF:
            return True
        at += 2 + (data[at + 2] << 8) + data[at + 3]
    return False


def _png_look(data: bytes) -> tuple[bool, bool]:
    """Say whether the checksums of all chunks up to IEND agree, and whether there is metadata."""
    has_text = False
    for name, content, checksum in png_chunks(data):
        # Of an animation, versions of OpenCV differ in which image is the first.
        if name == b"acTL":
            return False, True
        has_text = has_text or name in PNG_TEXT
        is_whole = zlib.crc32(content, zlib.crc32(name)) == checksum
        if name == b"IEND" or not is_whole:
            return is_whole, has_text
    return False, has_text


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield name, content and checksum of each chunk that is there as a whole."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], view[at + 8 : end - 4], int.from_bytes(data[end - 4 : end])
        at = end


def _what_else(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data.startswith(_REFUSED["a zip archive"]) and b"data.pkl" in data[:256]:
        return "it is a checkpoint or a file of weights"
    named = [kind for kind, start in _REFUSED.items() if data.startswith(start)]
    if named:
        return f"it is {named[0]}; convert it to PNG or JPEG"
    if not data.strip(b"\0"):
        return "it holds only zero bytes"
    if data.lstrip()[:1] == b"<":
        return "it is HTML or XML, not an image"
    return "it is not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"
