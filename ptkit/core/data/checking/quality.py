"""Rules about single images: files that cannot be read, and pictures that show little."""

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.evidence import Evidence, Found, Mask
from ptkit.core.data.checking.properties import VISIBLE
from ptkit.core.wording import counted

# Of 255 grey levels: nearly all of the picture is darker, or lighter.
MAX_DARK, MIN_LIGHT = 0.32, 0.95
# Standard deviation of the grey values, 0..1.
MIN_CONTRAST = 0.03
# Standard deviation of the Laplacian over that of the picture.
MIN_DETAIL = 0.03
# Of the longer side to the shorter; of the root of the area to its median, either way.
MAX_ASPECT, MAX_SIZE_FACTOR = 3.0, 4.0
_DARK_PERCENTILE, _LIGHT_PERCENTILE = 99, 5
_BLOCK = 1 << 13
# Of images that are of one colour as they are read, by where they are visible.
_TRANSPARENT = {
    "white": "of one colour without transparency, which is dropped: train with --alpha white",
    "drop": "of one colour on white: train with --alpha drop",
    "nowhere": "of one colour without transparency and on white, as signs drawn in white are: save"
    " them on a darker colour",
}


def unreadable(evidence: Evidence) -> Found | None:
    """Find files that training could not read, whole or at all."""
    errors = {k: why for k, why in evidence.properties.errors.items() if not evidence.is_ignored[k]}
    text = f"{counted(len(errors), 'file')} cannot be read"
    return Found(text, [[index] for index in errors], reasons=errors) if errors else None


def constant(evidence: Evidence) -> Found | None:
    """Find images of one colour."""
    return _those(evidence, "of one colour", evidence["is_constant"] & (evidence["visible"] == 0))


def transparent(evidence: Evidence) -> Found | None:
    """Find images that show nothing as they are read, but in their transparency or without it."""
    found = [
        each
        for where, words in _TRANSPARENT.items()
        if (each := _those(evidence, words, evidence["visible"] == VISIBLE.index(where)))
    ]
    groups = [group for each in found for group in each.groups]
    return Found("; ".join(each.text for each in found), groups) if found else None


def turned(evidence: Evidence) -> Found | None:
    """Find images that are upright by their EXIF orientation only, where others need none."""
    is_turned = evidence["is_turned"]
    # All of them turned: one camera, held one way.
    if is_turned[evidence.is_readable].all():
        return None
    return _those(
        evidence,
        "upright only for programs that heed EXIF (ptkit does); others see them on their side",
        is_turned,
    )


def dark(evidence: Evidence) -> Found | None:
    """Find images that are dark nearly everywhere."""
    shades = _percentiles(evidence, _DARK_PERCENTILE)
    return _those(evidence, "dark nearly everywhere", evidence.is_varied & (shades < MAX_DARK))


def light(evidence: Evidence) -> Found | None:
    """Find images that are light nearly everywhere."""
    shades = _percentiles(evidence, _LIGHT_PERCENTILE)
    return _those(evidence, "light nearly everywhere", evidence.is_varied & (shades > MIN_LIGHT))


def blurred(evidence: Evidence) -> Found | None:
    """Find images with hardly any fine detail for their contrast."""
    is_blurred = (evidence["detail"] < MIN_DETAIL) & (evidence["contrast"] >= MIN_CONTRAST)
    return _those(evidence, "blurred", evidence.is_varied & is_blurred)


def low_information(evidence: Evidence) -> Found | None:
    """Find images with hardly any contrast."""
    return _those(
        evidence, "nearly of one grey", evidence.is_varied & (evidence["contrast"] < MIN_CONTRAST)
    )


def odd_aspect(evidence: Evidence) -> Found | None:
    """Find images that are far longer than wide, or wider than long."""
    sides = np.stack([evidence["height"], evidence["width"]])
    is_odd = sides.max(axis=0) > MAX_ASPECT * sides.min(axis=0)
    return _those(evidence, f"over {MAX_ASPECT:g} times as long as wide", is_odd)


def odd_size(evidence: Evidence) -> Found | None:
    """Find images far larger or smaller than the median."""
    readable = evidence.is_readable
    side = np.sqrt(evidence["height"].astype(float) * evidence["width"])
    median = np.median(side[readable]) if readable.any() else 0.0
    is_odd = (side > MAX_SIZE_FACTOR * median) | (side * MAX_SIZE_FACTOR < median)
    return _those(
        evidence,
        f"over {MAX_SIZE_FACTOR:g} times larger or smaller than the median, {median:.0f} pixels",
        readable & is_odd,
    )


def _those(evidence: Evidence, what: str, chosen: Mask) -> Found | None:
    rows = np.flatnonzero(chosen & ~evidence.is_ignored).tolist()
    text = f"{counted(len(rows), 'image')} {'is' if len(rows) == 1 else 'are'} {what}"
    return Found(text, [[row] for row in rows]) if rows else None


def _percentiles(evidence: Evidence, percent: int) -> npt.NDArray[np.float64]:
    """Return the shade, 0..1, that so many percent of each thumbnail are not lighter than."""
    place = round(percent / 100 * (evidence["thumbnail"][0].size - 1))
    found = np.empty(len(evidence.listing))
    for start in range(0, len(found), _BLOCK):
        block = evidence["thumbnail"][start : start + _BLOCK]
        found[start : start + _BLOCK] = np.partition(block.reshape(len(block), -1), place)[:, place]
    return found / 255
