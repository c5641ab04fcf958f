"""Images side by side with words below them or beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots.fonts import fitted, text_width, wrapped
from ptkit.plots.style import INK, MUTED, RED, SMALL, house_style, new_page
from ptkit.plots.tiles import resized

_CELL, _THUMBNAIL, _GAP, _LINE = 152, 140, 14, 14
_COLUMNS = 6
_STRIP_THUMBNAIL, _STRIP_TEXT = 72, 240


@dataclass(frozen=True)
class Strip:
    """A row of images, uint8 (h, w, 3) of any sizes, with a heading and a line below it."""

    heading: str
    line: str
    images: Sequence[np.ndarray]


@house_style()
def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    *,
    title: str,
    notes: Sequence[str] = (),
    footer: str = "",
) -> Figure:
    """Draw images in a grid with lines below each; the first line is muted, the last one red.

    images: uint8 (h, w, 3) each, of any sizes; small ones are enlarged by repeating pixels.
    captions: lines per image; all but the first are wrapped.
    """
    columns = min(_COLUMNS, len(images))
    tiles = [resized(image, _THUMBNAIL) for image in images]
    captioned = [_in_lines(*lines) for lines in captions]
    words = _LINE * max(map(len, captioned))
    heights, starts = [tile.shape[0] for tile in tiles], range(0, len(tiles), columns)
    highest = [max(heights[start : start + columns]) for start in starts]
    height = sum(highest) + (4 + words + _GAP) * len(highest)
    width = columns * (_CELL + _GAP) - _GAP
    page = new_page(width, height, title=title, notes=notes, footer=footer)
    for k, (tile, lines) in enumerate(zip(tiles, captioned, strict=True)):
        row, left = k // columns, k % columns * (_CELL + _GAP)
        # Images of a row end at one line, so that their captions start there.
        end = sum(highest[: row + 1]) + (4 + words + _GAP) * row
        page.image(tile, left, end - tile.shape[0])
        for number, (line, color) in enumerate(lines):
            page.text(line, left, end + 4 + _LINE * number, size=8, color=color)
    return page.figure


def _in_lines(first: str, *others: str) -> list[tuple[str, str]]:
    """Return the lines of a caption with their colours."""
    lines = [(fitted(first, width=_CELL, size=8), MUTED)]
    for number, text in enumerate(others, 1):
        color = RED if number == len(others) else INK
        lines += [(line, color) for line in wrapped(text, width=_CELL, size=8)]
    return lines


@house_style()
def strip_sheet(
    strips: Sequence[Strip], *, title: str, notes: Sequence[str] = (), footer: str = ""
) -> Figure:
    """Draw rows of images, each with its heading and line at the left."""
    most = max(len(strip.images) for strip in strips)
    pitch = _STRIP_THUMBNAIL + 6
    headings = [wrapped(strip.heading, width=_STRIP_TEXT, size=9, bold=True) for strip in strips]
    widths = [text_width(line, size=9, bold=True) for lines in headings for line in lines]
    left = round(max(widths + [text_width(strip.line, size=8) for strip in strips])) + 16
    height = len(strips) * (_STRIP_THUMBNAIL + _GAP)
    page = new_page(left + most * pitch, height, title=title, notes=notes, footer=footer)
    for row, (strip, lines) in enumerate(zip(strips, headings, strict=True)):
        top = row * (_STRIP_THUMBNAIL + _GAP)
        middle = top + _STRIP_THUMBNAIL / 2
        # Long names may be higher than the thumbnails beside them.
        start = middle - (len(lines) * 14 + 12) / 2
        for number, line in enumerate(lines):
            page.text(line, 0, start + 14 * number, weight="bold")
        page.text(strip.line, 0, start + 14 * len(lines) + 1, **SMALL)
        for place, image in enumerate(strip.images):
            tile = resized(image, _STRIP_THUMBNAIL)
            page.image(tile, left + place * pitch, top + (_STRIP_THUMBNAIL - tile.shape[0]) / 2)
    return page.figure
