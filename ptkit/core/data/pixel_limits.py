"""How many pixels an image may claim to have: looked at before the memory for them is taken."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ptkit.core.errors import ImageError

DEFAULT_MAX_PIXELS = 89_000_000
# A PNG that is white all over has 8,256 pixels a byte, the most that its compression can give. One
# colour in other formats takes no bytes at all, and nobody photographs that.
_PIXELS_A_BYTE = 10_000
# Decoding takes up to 14 bytes a pixel; a small image may be as blank as it likes.
_ALWAYS_ALLOWED = 16_000_000

# Width and height after so many bytes.
_PLACES = {
    "PNG": struct.Struct(">16xII"),
    "GIF": struct.Struct("<6xHH"),
    "BMP": struct.Struct("<18xii"),
}
# Start of frame: all of C0 to CF but the tables C4, C8 and CC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# None: the default, and then the rule about small files holds too.
_asked_for: int | None = None


@contextmanager
def allowing_pixels(most: int | None) -> Iterator[None]:
    """Let images have up to so many pixels, however few bytes they have; None: the default, 89
    million. `--max-pixels` of the commands.

    >>> with ptkit.allowing_pixels(200_000_000):
    ...     found = ptkit.normstats("train.txt")
    """
    before = _asked_for
    set_max_pixels(most)
    try:
        yield
    finally:
        set_max_pixels(before)


def set_max_pixels(most: int | None) -> None:
    """Let images have up to so many pixels from now on: see `allowing_pixels`."""
    global _asked_for
    _asked_for = most


def max_pixels() -> int | None:
    """Return what was asked for; None: the default."""
    return _asked_for


def check_pixels(width: int, height: int, *, num_bytes: int, path: object) -> None:
    """Refuse an image by the size that its header claims.

    Raises:
        DataError: more pixels than allowed, or more than so small a file can hold in earnest.
    """
    pixels = width * height
    if pixels <= _ALWAYS_ALLOWED and _asked_for is None:
        return
    limit = DEFAULT_MAX_PIXELS if _asked_for is None else _asked_for
    claim = f"its header claims {width}×{height} pixels"
    if pixels > limit:
        raise ImageError(
            f"cannot read {path}: {claim}, over {limit:,}; --max-pixels sets the limit"
        )
    if _asked_for is None and pixels > _ALWAYS_ALLOWED + _PIXELS_A_BYTE * num_bytes:
        raise ImageError(
            f"cannot read {path}: {claim}, and it has {num_bytes:,} bytes; if that is right, pass"
            f" --max-pixels {pixels}"
        )


def claimed_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that a header claims; None where only a decoder finds it."""
    if kind == "JPEG":
        return _size_of_jpeg(data)
    if kind == "WebP":
        return _size_of_webp(data)
    place = _PLACES.get(kind)
    # The first headers of BMP are shorter.
    if place is None or len(data) < place.size or (kind == "BMP" and data[14] < 40):
        return None
    width, height = place.unpack_from(data)
    # Negative where a BMP begins at its top.
    return abs(width), abs(height)


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    at, end = 2, len(data) - 8
    while at < end and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + (data[at + 2] << 8) + data[at + 3]
    return None


def _size_of_webp(data: bytes) -> tuple[int, int] | None:
    """See "WebP Container Specification" and, for the lossless one, its bitstream's."""
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
            return width + 1, height + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<26xHH", data)
            return width & 0x3FFF, height & 0x3FFF
    return None
