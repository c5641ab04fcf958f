"""A look at every file of a list that is decoded only as it is needed: at its header and its end.

So a truncated file is found before the first step, and unusual images are counted.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import JPEG_END, sniff
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.entries import EntryWriter, entry_name, find_entry
from ptkit.core.data.loading.kept import Bad
from ptkit.core.data.oddities import oddities
from ptkit.core.data.pixel_limits import DEFAULT_MAX_PIXELS, claimed_size, max_pixels
from ptkit.core.errors import DataError
from ptkit.core.files import from_disk

# Files of one task of a thread: looking at one takes as long as handing it over.
_FILES_AT_ONCE = 64
_PNG_END = b"IEND\xaeB`\x82"


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

    def some(indices: Sequence[int]) -> list[tuple[int, Sequence[str] | DataError]]:
        return [(index, _look(images.image_path(index))) for index in indices]

    for part in from_disk(some, len(images), at_once=_FILES_AT_ONCE):
        for index, found in part:
            if isinstance(found, DataError):
                bad.append((index, str(found)))
            else:
                odd.update(found)
        on_images(len(part))
    return Survey(dict(sorted(odd.items())), tuple(bad))


def _look(path: str) -> Sequence[str] | DataError:
    """Return what is unusual about an image, or why it cannot be read."""
    try:
        head, tail, num_bytes = decoder.read_ends(path)
        kind = sniff(head, path)
        if not _seems_whole(kind, head, tail, num_bytes):
            # Only decoding decides: some files without an end are read all the same.
            decoder.read(path)
    except DataError as error:
        return error
    return oddities(head, path, claimed_size(kind, head), kind=kind)


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
