"""Images that show nothing without their transparency: icons and signs, drawn in it alone."""

from contextlib import suppress

import numpy as np

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import is_png, sniff
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import spread
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DataError

_NUM_LOOKED_AT = 8
# Colour types of a PNG that have an alpha channel (PNG, section 11.2.1).
_WITH_ALPHA = (4, 6)


def alpha_for(images: ImageList) -> str:
    """Return what should become of the transparency of a list's images, see `images.read`: "white"
    where some of those that are looked at, from one end of the list to the other, show something on
    it, none shows anything without its transparency, and all have a format that may have it.
    """
    found = "drop"
    for index in spread(range(len(images)), _NUM_LOOKED_AT):
        # What cannot be read is reported by decoding.
        with suppress(DataError):
            data = decoder.read_bytes(images.image_path(index))
            if not _may_be_transparent(data):
                return "drop"
            where = where_visible(data)
            if where == "drop":
                return "drop"
            if where == "white":
                found = "white"
    return found


def where_visible(data: bytes) -> str | None:
    """Return for which `alpha`, see `images.read`, an encoded image is not of one colour: "drop",
    or else "white"; "nowhere" where its transparency alone varies, and None where nothing does.

    Raises:
        DataError: it cannot be read.
    """
    if not is_of_one_colour(decoder.decode(data)):
        return "drop"
    if not _may_be_transparent(data):
        return None
    if not is_of_one_colour(decoder.decode(data, alpha="white")):
        return "white"
    return None if is_of_one_colour(decoder.alpha_channel(data)) else "nowhere"


def is_of_one_colour(pixels: Pixels) -> bool:
    """Say whether all pixels (H, W, ...) are equal."""
    return bool((pixels == pixels[0, 0]).all())


def make_visible(path: str) -> Pixels:
    """Return the pixels of an image as it is visible, see `where_visible`; its transparency, white
    on black, where it is so nowhere.

    Raises:
        DataError: it cannot be read.
    """
    data = decoder.read_bytes(path)
    where = where_visible(data)
    if where == "nowhere":
        return np.repeat(decoder.alpha_channel(data, path)[..., None], 3, axis=2)
    return decoder.decode(data, path, alpha=where or "drop")


def _may_be_transparent(data: bytes) -> bool:
    """Say whether a file may have transparency, without decoding it.

    Raises:
        DataError: it is no image.
    """
    if is_png(data):
        has_channel = len(data) > 25 and data[25] in _WITH_ALPHA
        return has_channel or b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
    return sniff(data) not in ("JPEG", "BMP")
