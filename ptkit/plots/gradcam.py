"""Images with the heat of Grad-CAM over them and the box of the hottest region."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ptkit.plots.fonts import fitted
from ptkit.plots.style import INK, MAGNITUDE, MUTED, RED, Page, house_style, new_page, percent
from ptkit.plots.tiles import resized

_TILE, _GAP, _BETWEEN, _LINE = 132, 4, 26, 14
_COLUMNS, _MIN_CELL = 4, 200


@dataclass(frozen=True)
class Explained:
    """One image, uint8 (H, W, 3), and what the network looked at.

    heat: (H, W), 0..1. box: (x1, y1, x2, y2), ends exclusive, or None. lines: below the image.
    """

    image: np.ndarray
    heat: np.ndarray
    box: tuple[int, int, int, int] | None
    lines: Sequence[str]
    is_wrong: bool = False


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image, greyed, with the colours of its heat over it: uint8 (H, W, 3)."""
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    colors = matplotlib.colormaps[MAGNITUDE](heat)[..., :3] * 255
    mixed: np.ndarray = 0.45 * grey + 0.55 * colors
    return mixed.round().clip(0, 255).astype(np.uint8)


@house_style()
def gradcam_figure(
    explained: Sequence[Explained], *, layer: str, of: str, footer: str = ""
) -> Figure:
    """Draw each image and its heat with a box; a wrong answer has a red last line.

    of: what is explained, in words.
    """
    columns = min(_COLUMNS, len(explained))
    sizes = [resized(one.image, _TILE).shape[:2] for one in explained]
    height, width = np.max(sizes, axis=0).tolist()
    cell_width = max(2 * width + _GAP, _MIN_CELL) + _BETWEEN
    cell_height = height + 6 + _LINE * max(len(one.lines) for one in explained) + 18
    end = -(-len(explained) // columns) * cell_height
    boxes = [(one.box, one.heat.size) for one in explained if one.box is not None]
    shares = [(x2 - x1) * (y2 - y1) / size for (x1, y1, x2, y2), size in boxes]
    found = "in no region"
    if shares:
        found = f"in a box of {percent(float(np.median(shares)))} of the image (median)"
    title = f"Where did it look for {of}? {found}"
    box = "Box: the largest region above half of the highest heat."
    notes = [f"Grad-CAM of {layer}. {box}"]
    width = columns * cell_width - _BETWEEN
    page = new_page(width, end + 34, title=title, notes=notes, footer=footer)
    for place, one in enumerate(explained):
        left, bottom = place % columns * cell_width, place // columns * cell_height + height
        _draw(page.inset(left, bottom), one, room=cell_width - _BETWEEN)
    meaning = "heat, share of the image's highest"
    page.color_bar(0, end, colormap=MAGNITUDE, labels=["0", "1"], meaning=meaning)
    return page.figure


def _draw(page: Page, one: Explained, *, room: float) -> None:
    """Draw one image and its heat above the page's corner, and the lines below."""
    tile = resized(one.image, _TILE)
    height, width = tile.shape[:2]
    page.image(tile, 0, -height)
    page.image(resized(overlay(one.image, one.heat), _TILE), width + _GAP, -height)
    if one.box is not None:
        x1, y1, x2, y2 = (end * width / one.image.shape[1] for end in one.box)
        heat = page.inset(width + _GAP, -height)
        heat.frame(x1, y1, x2 - x1, y2 - y1, color=RED, linewidth=1.6)
    for number, line in enumerate(one.lines):
        color = RED if one.is_wrong and number == len(one.lines) - 1 else INK if number else MUTED
        text = fitted(line, width=room, size=8)
        page.text(text, 0, 5 + _LINE * number, size=8, color=color)
