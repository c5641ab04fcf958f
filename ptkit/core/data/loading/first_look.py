"""What a look at some images of a list says before all of them are decoded."""

from contextlib import suppress

import numpy as np

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import sniff
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.reading import sizes_of
from ptkit.core.errors import DataError
from ptkit.core.sizes import is_small

# On so many images a transform of the user's own is tried.
_NUM_EXAMPLES = 3
# Of so many files the headers are read, to choose a size.
_NUM_HEADERS = 64


def choose_size(images: ImageList) -> int:
    """Return the input size for a list: its images' own up to 64 pixels, at least 16; else 224.

    The median shorter side of some images decides, read from their headers.
    """
    sides = [min(size) for size in sizes_of(images, _some_of(images)) if size is not None]
    if not sides:
        raise _none_readable(images)
    # The median: a few odd images do not decide.
    side = int(np.median(sides))
    return max(side, 16) if is_small(side) else 224


def has_jpegs(images: ImageList) -> bool:
    """Say whether there is a JPEG among some images of a list, by their first bytes."""
    for index in _some_of(images):
        # What cannot be read is reported by decoding.
        with suppress(DataError):
            if sniff(decoder.read_bytes(images.image_path(index), most=64)) == "JPEG":
                return True
    return False


def examples(images: ImageList, *, alpha: str) -> list[Pixels]:
    """Return some decoded images of a list, on which a user's own transforms are tried. alpha: see
    `images.read`.

    Raises:
        DataError: none of those looked at can be read.
    """
    found: list[Pixels] = []
    places = _some_of(images)
    # Far apart, as lists are sorted by class; others where these cannot be read.
    for index in dict.fromkeys(places[:: _NUM_HEADERS // _NUM_EXAMPLES] + places):
        # What cannot be read is reported by decoding.
        with suppress(DataError):
            found.append(decoder.read(images.image_path(index), alpha=alpha))
        if len(found) == _NUM_EXAMPLES:
            return found
    if not found:
        raise _none_readable(images)
    return found


def _some_of(images: ImageList) -> list[int]:
    # From one end to the other: lists are often in the order of their classes.
    places: list[int] = (
        np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int).tolist()
    )
    return places


def _none_readable(images: ImageList) -> DataError:
    return DataError(f"none of the images looked at in {images.file} can be read")
