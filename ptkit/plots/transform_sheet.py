"""What transforms make of one image: a row a step, and below them the whole list, larger."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ptkit.plots.fonts import drawable, fitted, text_width
from ptkit.plots.style import FAINT_RGB, FRAME_RGB, MUTED, SMALL, Page, house_style, new_page
from ptkit.plots.tiles import mosaic, resized

_TILE, _GAP, _BESIDE = 104, 8, 22
_HEAD, _CAPTION, _BELOW = 20, 15, 16
_FEWEST_COLUMNS, _MOST_COLUMNS, _WHOLE_COLUMNS = 6, 8, 4
_RULE = 26


@dataclass(frozen=True)
class Step:
    """One row.

    heading: the call; line: a remark beside it. before, draws: uint8 (h, w, 3), of any sizes.
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
    """A step with its tiles, `columns` of them side by side and `pitch` pixels apart."""

    step: Step
    before: np.ndarray
    tiles: list[np.ndarray]
    columns: int
    pitch: int

    @property
    def row_heights(self) -> list[int]:
        heights = [tile.shape[0] for tile in self.tiles]
        heights[0] = max(heights[0], self.before.shape[0])
        starts = range(0, len(heights), self.columns)
        return [max(heights[start : start + self.columns]) for start in starts]

    @property
    def height(self) -> int:
        rows = self.row_heights
        return _HEAD + sum(rows) + (_CAPTION + _GAP) * len(rows) - _GAP + _BELOW


@house_style()
def transform_figure(
    steps: Sequence[Step], whole: Step, *, title: str, notes: Sequence[str] = (), footer: str = ""
) -> Figure:
    """Draw each step alone with its input at the left, and then what the whole list does."""
    most = max((len(step.draws) for step in steps), default=0)
    places = min(max(most, _FEWEST_COLUMNS), _MOST_COLUMNS)
    width = places * (_TILE + _GAP)
    placed = [_placed(step, width, columns=step.columns or places, largest=_TILE) for step in steps]
    columns, largest = whole.columns, _TILE
    if not columns:
        # Large tiles: up to four in one row, else two even rows or rows of four.
        count, largest = len(whole.draws), 2 * _TILE + _GAP
        columns = min(count if count <= _WHOLE_COLUMNS else -(-count // 2), _WHOLE_COLUMNS)
    last = _placed(whole, width, columns=columns, largest=largest)
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


def _placed(step: Step, width: int, *, columns: int, largest: int) -> _Placed:
    """Choose the size of a step's tiles so that `columns` of them fit side by side into `width`."""
    pitch = min(width // columns, largest + _GAP)
    tiles = [_framed(draw, pitch - _GAP) for draw in step.draws]
    return _Placed(step, _framed(step.before, _TILE), tiles, columns, pitch)


def _framed(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image in a thin frame, without which a white one would not be seen on the page.

    size: of the longer side, with the frame. A small image is enlarged by a whole factor.
    """
    size, longest = size - 2, max(image.shape[:2])
    if 2 * longest <= size:
        tile = resized(image, size)
    else:
        height, width = (max(round(side * size / longest), 1) for side in image.shape[:2])
        large = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        tile = np.asarray(large)
    return mosaic(tile[None], 1, fill=FRAME_RGB)


def _draw(page: Page, canvas: np.ndarray, placed: _Placed, top: int) -> None:
    """Write the words of a row onto the page and its tiles into the canvas."""
    step = placed.step
    room = max(page.width - text_width(drawable(step.line), size=8) - 12, page.width / 2)
    heading = fitted(step.heading, width=room, size=9, bold=True)
    page.text(heading, 0, top, weight="bold")
    beside = text_width(heading, size=9, bold=True) + 12
    line = fitted(step.line, width=page.width - beside, size=8)
    page.text(line, beside, top + 1, **SMALL)
    tops = list(itertools.accumulate(placed.row_heights, initial=top + _HEAD))
    places = [(0, tops[0])]
    for k in range(len(placed.tiles)):
        row, column = divmod(k, placed.columns)
        down = tops[row] + row * (_CAPTION + _GAP)
        places.append((_TILE + _BESIDE + column * placed.pitch, down))
    tiles = [placed.before, *placed.tiles]
    for (left, start), tile, caption in zip(places, tiles, step.captions, strict=True):
        canvas[start : start + tile.shape[0], left : left + tile.shape[1]] = tile
        page.text(caption, left, start + tile.shape[0] + 2, size=7.5, color=MUTED)
