"""The size of a JPEG from its first bytes, in microseconds."""

import struct

Size = tuple[int, int]

# Markers that begin a frame and so hold its size (ITU-T T.81, table B.1); without DHT, JPG and DAC
# among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _START_OF_SCAN, _ORIENTATION = 0xE1, 0xDA, 0x0112
# EXIF orientations that turn rows into columns.
_TURNED = (5, 6, 7, 8)


def jpeg_size(data: bytes) -> Size | None:
    """Return (height, width) of the image turned upright; None if this is no JPEG or its header is
    damaged.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, is_turned = 2, False
    try:
        while True:
            start, marker, length = struct.unpack_from(">BBH", data, at)
            if start != 0xFF or marker == _START_OF_SCAN:
                return None
            if marker == 0xFF:  # a fill byte
                at += 1
                continue
            if marker in _FRAMES:
                height, width = struct.unpack_from(">HH", data, at + 5)
                if not height or not width:
                    return None
                return (width, height) if is_turned else (height, width)
            if marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
                is_turned = _orientation(data[at + 10 : at + 2 + length]) in _TURNED
            at += 2 + length
    except struct.error:
        return None


def _orientation(tiff: bytes) -> int:
    """Return the orientation that EXIF data has in its first directory; 1 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, _kind, _num, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1
