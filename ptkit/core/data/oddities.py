"""Images that are read although they are unusual, which a pass counts for the user to know."""

from collections.abc import Mapping, Sequence

from ptkit.core.data.formats import is_jpeg, kind_of_name, sniff

# (width, height) or (height, width): none of it depends on which is which.
Sides = tuple[int, ...]

# So many times as long as wide: little of it is left in a square.
_LONG = 20
# A header is looked through up to here.
_HEAD = 1 << 16
_SEVERAL = "with several frames (the first is used)"
_NOTHING = ()


def oddities(data: bytes, path: str, sides: Sides | None, *, kind: str = "") -> Sequence[str]:
    """Return what is unusual about an image, in words; most have nothing.

    data: the file, or its beginning. kind: what `sniff` says, where that is known. sides: None
    where nothing tells them without decoding.

    Raises:
        DataError: it is no image.
    """
    if _is_plain(data, path, sides):
        return _NOTHING
    kind = kind or sniff(data, path)
    found = []
    if kind in ("TIFF", "AVIF", "HEIC"):
        found.append(kind)
    if kind_of_name(path) not in (None, kind):
        found.append("in another format than the name says")
    if sides is not None:
        shorter, longer = sorted(sides)
        if longer == 1:
            found.append("of 1×1 pixels")
        elif longer >= _LONG * shorter:
            found.append(f"{_LONG} times as long as wide, or more")
    if _has_frames(kind, data):
        found.append(f"{'MPO' if kind == 'JPEG' else kind}, {_SEVERAL}")
    return found


def odd_note(odd: Mapping[str, int]) -> str:
    """Return the counts as part of a line, empty where there is none."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(odd.items()))
    return f"used: {counts}" if odd else ""


def _is_plain(data: bytes, path: str, sides: Sides | None) -> bool:
    """Say of most JPEGs, at a third of the cost, that nothing is unusual about them."""
    return (
        is_jpeg(data)
        and path.endswith((".jpg", ".jpeg", ".JPEG", ".JPG"))
        and sides is not None
        and 1 < sides[0] < _LONG * sides[1]
        and 1 < sides[1] < _LONG * sides[0]
        and data.find(b"MPF\0", 0, _HEAD) < 0
    )


def _has_frames(kind: str, data: bytes) -> bool:
    match kind:
        case "JPEG":
            return data.find(b"MPF\0", 0, _HEAD) >= 0
        case "PNG":
            return data.find(b"acTL", 0, max(data.find(b"IDAT", 0, _HEAD), 0)) >= 0
        case "GIF":
            # Its first frame may be longer than what is looked at.
            return data.find(b"NETSCAPE2.0", 0, _HEAD) >= 0 or _num_gif_frames(data) > 1
        case "WebP":
            # The bit for animation in the extended header.
            return data[12:16] == b"VP8X" and bool(data[20] & 2)
    return False


def _num_gif_frames(head: bytes) -> int:
    """Return how many frames begin in the first bytes of a GIF (GIF89a specification)."""
    count, at = 0, 13 + _color_table(head[10])
    while at + 11 < len(head) and head[at] in b"\x21\x2c":
        is_frame = head[at] == 0x2C
        count += is_frame
        at += 11 + _color_table(head[at + 9]) if is_frame else 2
        # Blocks of data, each after its length, up to one of length 0.
        while at < len(head) and head[at]:
            at += 1 + head[at]
        at += 1
    return count


def _color_table(flags: int) -> int:
    """Return the bytes of the table of colours that a packed field tells of."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
