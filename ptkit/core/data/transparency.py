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
    where images show something on it, and none of those that are looked at, from one end of the
    list to the other, is opaque or shows anything without its transparency.
    """
    found = "drop"
    for index in spread(range(len(images)), _NUM_LOOKED_AT):
        # What cannot be read is reported by decoding.
        with suppress(DataError):
            data = decoder.read_bytes(images.image_path(index))
            if not _may_be_transparent(data):
                return "drop"
            pixels = decoder.decode(data)
            if not is_of_one_colour(pixels):
                return "drop"
            if is_hidden(data, pixels) and not is_white(pixels):
                found = "white"
    return found


def is_hidden(data: bytes, pixels: Pixels) -> bool:
    """Say whether what an image shows is in its transparency alone.

    data: the file. pixels: uint8 (H, W, 3), without transparency or on white.
    """
    if not (_may_be_transparent(data) and is_of_one_colour(pixels)):
        return False
    with suppress(DataError):
        return not is_of_one_colour(decoder.alpha_channel(data))
    return False


def is_of_one_colour(pixels: Pixels) -> bool:
    """Say whether all pixels (H, W, ...) are equal."""
    return bool((pixels == pixels[0, 0]).all())


def is_white(pixels: Pixels) -> bool:
    """Say whether all pixels (H, W, 3) are white."""
    return bool((pixels == 255).all())


def shown(path: str) -> Pixels:
    """Return an image that is hidden so that it can be seen: on white, or what is white on black.

    Raises:
        DataError: it cannot be read.
    """
    data = decoder.read_bytes(path)
    pixels = decoder.decode(data, path, alpha="white")
    if is_white(pixels):
        return np.repeat(decoder.alpha_channel(data, path)[..., None], 3, axis=2)
    return pixels


def _may_be_transparent(data: bytes) -> bool:
    """Say whether a file may have transparency, without decoding it.

    Raises:
        DataError: it is no image.
    """
    if is_png(data):
        has_channel = len(data) > 25 and data[25] in _WITH_ALPHA
        return has_channel or b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
    return sniff(data) not in ("JPEG", "BMP")
