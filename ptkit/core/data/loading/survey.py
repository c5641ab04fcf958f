"""A look at every file of a list that is decoded only as it is needed: at its header and its end.

So a truncated file is found before the first step, and unusual images are counted.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import JPEG_END, kind_of_name, sniff
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.entries import EntryWriter, entry_name, find_entry
from ptkit.core.data.loading.kept import Bad
from ptkit.core.data.pixel_limits import DEFAULT_MAX_PIXELS, claimed_size, max_pixels
from ptkit.core.errors import DataError
from ptkit.core.files import from_disk

# Files of one task of a thread: looking at one takes as long as handing it over.
_FILES_AT_ONCE = 64
_PNG_END = b"IEND\xaeB`\x82"
_SEVERAL = "with several frames (the first is used)"


@dataclass(frozen=True)
class Survey:
    """odd: how many images there are of each unusual kind, in words. bad: those that cannot be
    read.
    """

    odd: Mapping[str, int] = field(default_factory=dict)
    bad: Bad = ()


def known_survey(images: ImageList, key: str) -> Survey | None:
    """Return what an earlier survey found, kept under the key of the list's files."""
    entry = find_entry(entry_name(images.file, key), key=key)
    odd = entry.facts.get("odd") if entry is not None else None
    if not isinstance(odd, dict) or not all(type(count) is int for count in odd.values()):
        return None
    return Survey(odd)


def keep_survey(found: Survey, images: ImageList, key: str) -> None:
    """Keep a survey that found all files readable.

    Raises:
        StorageError: the disk refused.
    """
    facts = {
        "key": key,
        "kind": "survey",
        "list": os.path.abspath(images.file),
        "num_images": len(images),
        "size": None,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with EntryWriter(entry_name(images.file, key), facts) as writer:
        told = {"nbytes": 0, "sizes_nbytes": 0, "hashes_nbytes": 0, "odd": dict(found.odd)}
        writer.finish(told, hashes=b"")


def survey(images: ImageList, on_images: Callable[[int], object]) -> Survey:
    """Look at all files of a list; on_images: called with how many more are done."""
    odd: Counter[str] = Counter()
    bad: list[tuple[int, str]] = []

    def some(indices: Sequence[int]) -> list[tuple[int, list[str] | DataError]]:
        return [(index, _look(images.image_path(index))) for index in indices]

    for part in from_disk(some, len(images), at_once=_FILES_AT_ONCE):
        for index, found in part:
            if isinstance(found, DataError):
                bad.append((index, str(found)))
            else:
                odd.update(found)
        on_images(len(part))
    return Survey(dict(sorted(odd.items())), tuple(bad))


def _look(path: str) -> list[str] | DataError:
    """Return what is unusual about an image, or why it cannot be read."""
    try:
        head, tail, num_bytes = decoder.read_ends(path)
        kind = sniff(head, path)
        if not _seems_whole(kind, head, tail, num_bytes):
            # Only decoding decides: some files without an end are read all the same.
            decoder.read(path)
    except DataError as error:
        return error
    return list(_oddities(kind, head, path))


def _seems_whole(kind: str, head: bytes, tail: bytes, num_bytes: int) -> bool:
    """Say whether a file has its end, and a usual size in its header."""
    size = claimed_size(kind, head)
    if size is None or not 0 < math.prod(size) <= (max_pixels() or DEFAULT_MAX_PIXELS):
        return False
    match kind:
        case "JPEG":
            return tail.endswith(JPEG_END)
        case "PNG":
            return tail.endswith(_PNG_END)
        case "GIF":
            return tail.endswith(b";")
        case "WebP":
            return int.from_bytes(head[4:8], "little") + 8 <= num_bytes
        case "BMP":
            return 0 < int.from_bytes(head[2:6], "little") <= num_bytes
    return False


def _oddities(kind: str, head: bytes, path: str) -> Iterator[str]:
    if kind in ("TIFF", "AVIF", "HEIC"):
        yield kind
    if kind_of_name(path) not in (None, kind):
        yield "in another format than the name says"
    if claimed_size(kind, head) == (1, 1):
        yield "of 1×1 pixels"
    if kind == "JPEG" and b"MPF\0" in head:
        yield f"MPO, {_SEVERAL}"
    has_frames = {
        "PNG": b"acTL" in head.partition(b"IDAT")[0],
        # Its first frame may be longer than what was read.
        "GIF": kind == "GIF" and (b"NETSCAPE2.0" in head or _num_gif_frames(head) > 1),
        # The bit for animation in the extended header.
        "WebP": head[12:16] == b"VP8X" and bool(head[20] & 2),
    }
    if has_frames.get(kind, False):
        yield f"{kind}, {_SEVERAL}"


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
