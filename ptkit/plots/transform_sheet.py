"""What transforms make of one image: a row a step, and below them the whole list, larger."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ptkit.plots.fonts import drawable, fitted, text_width
from ptkit.plots.style import FAINT_RGB, FRAME_RGB, MUTED, Page, house_style, new_page
from ptkit.plots.tiles import resized

_TILE, _GAP, _BESIDE = 104, 8, 22
_HEAD, _CAPTION, _BELOW = 20, 15, 16
_FEWEST_COLUMNS, _MOST_COLUMNS, _WHOLE_COLUMNS = 6, 8, 4
_RULE = 26


@dataclass(frozen=True)
class Step:
    """One row. heading: the call; line: what is to be said of it. before, draws: uint8 (h, w, 3),
    of any sizes.

    captions: below `before` and below each of the draws. columns: draws side by side, where they
    belong together.
    """

    heading: str
    line: str
    before: np.ndarray
    draws: Sequence[np.ndarray]
    captions: Sequence[str]
    columns: int = 0


@dataclass(frozen=True)
class _Placed:
    """A step with its tiles, `columns` of them side by side, each `pitch` pixels from the one
    before.
    """

    step: Step
    before: np.ndarray
    tiles: list[np.ndarray]
    columns: int
    pitch: int

    @property
    def row_heights(self) -> list[int]:
        rows = [
            self.tiles[start : start + self.columns]
            for start in range(0, len(self.tiles), self.columns)
        ]
        heights = [max(tile.shape[0] for tile in row) for row in rows]
        return [max(heights[0], self.before.shape[0]), *heights[1:]]

    @property
    def height(self) -> int:
        return (
            _HEAD
            + sum(self.row_heights)
            + (_CAPTION + _GAP) * len(self.row_heights)
            - _GAP
            + _BELOW
        )


@house_style()
def transform_figure(
    steps: Sequence[Step], whole: Step, *, title: str, notes: Sequence[str] = (), footer: str = ""
) -> Figure:
    """Draw each step alone, what it gets at the left, and then what the whole list makes of the
    file.
    """
    most = max((len(step.draws) for step in steps), default=0)
    places = min(max(most, _FEWEST_COLUMNS), _MOST_COLUMNS)
    width = places * (_TILE + _GAP)
    placed = [_placed(step, width, columns=step.columns or places, largest=_TILE) for step in steps]
    largest = _TILE if whole.columns else 2 * _TILE + _GAP
    last = _placed(
        whole, width, columns=whole.columns or _whole_columns(len(whole.draws)), largest=largest
    )
    height = sum(one.height for one in placed) + _RULE + last.height - _BELOW
    page = new_page(_TILE + _BESIDE + width - _GAP, height, title=title, notes=notes, footer=footer)
    # One image for all tiles: axes of its own for each would take seconds.
    canvas = np.full((height, page.width, 3), 255, np.uint8)
    top = 0
    for one in placed:
        _draw(page, canvas, one, top)
        top += one.height
    if placed:
        canvas[top + (_RULE - _BELOW) // 2, : _TILE + _BESIDE + width - _GAP] = FAINT_RGB
    _draw(page, canvas, last, top + _RULE)
    page.image(canvas, 0, 0)
    return page.figure


def _whole_columns(count: int) -> int:
    """Return how many large tiles are side by side: up to four in one row, else two even rows or
    rows of four.
    """
    return count if count <= _WHOLE_COLUMNS else min(-(-count // 2), _WHOLE_COLUMNS)


def _placed(step: Step, width: int, *, columns: int, largest: int) -> _Placed:
    """Choose the size of a step's tiles so that `columns` of them fit side by side into `width`."""
    pitch = min(width // columns, largest + _GAP)
    tiles = [_framed(_fitted(draw, pitch - _GAP - 2)) for draw in step.draws]
    return _Placed(step, _framed(_fitted(step.before, _TILE - 2)), tiles, columns, pitch)


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image whose longer side is `size`; a small one shows its pixels, enlarged by a
    whole factor.
    """
    longest = max(image.shape[:2])
    if 2 * longest <= size:
        return resized(image, size)
    height, width = (max(round(side * size / longest), 1) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _framed(tile: np.ndarray) -> np.ndarray:
    """Return a tile with a thin frame: a white one would not be seen on the page."""
    framed = np.empty((tile.shape[0] + 2, tile.shape[1] + 2, 3), np.uint8)
    framed[:] = FRAME_RGB
    framed[1:-1, 1:-1] = tile
    return framed


def _draw(page: Page, canvas: np.ndarray, placed: _Placed, top: int) -> None:
    """Write the words of a row onto the page and its tiles into the canvas."""
    step = placed.step
    room = max(page.width - text_width(drawable(step.line), size=8) - 12, page.width / 2)
    heading = fitted(drawable(step.heading), width=room, size=9, bold=True)
    page.text(heading, 0, top, weight="bold")
    beside = text_width(heading, size=9, bold=True) + 12
    line = fitted(drawable(step.line), width=page.width - beside, size=8)
    page.text(line, beside, top + 1, size=8, color=MUTED)
    top += _HEAD
    _tile(page, canvas, placed.before, step.captions[0], 0, top)
    for row, height in enumerate(placed.row_heights):
        here = range(row * placed.columns, min((row + 1) * placed.columns, len(placed.tiles)))
        for k in here:
            left = _TILE + _BESIDE + (k - here.start) * placed.pitch
            _tile(page, canvas, placed.tiles[k], step.captions[k + 1], left, top)
        top += height + _CAPTION + _GAP


def _tile(
    page: Page, canvas: np.ndarray, tile: np.ndarray, caption: str, left: int, top: int
) -> None:
    canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    page.text(caption, left, top + tile.shape[0] + 2, size=7.5, color=MUTED)
