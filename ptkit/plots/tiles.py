"""Small arrays laid side by side as one image, pixel for pixel."""

import math
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from ptkit.core.errors import UsageError
from ptkit.plots.style import NOT_FINITE

# Of 0..255.
RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Grid:
    """How tiles are laid out, as torchvision's make_grid has it; None where the picture decides.

    columns: tiles side by side (nrow). gap: pixels between them (padding). fill: the colour of the
    gaps (pad_value).
    """

    columns: int | None = None
    gap: int | None = None
    fill: RGB | None = None


def grid_of(columns: int | None, gap: int | None, colour: str | None) -> Grid:
    """Return a layout; colour: a grey of 0..1, a name, or #rrggbb.

    Raises:
        UsageError: not a colour.
    """
    if colour is None:
        return Grid(columns, gap)
    try:
        red, green, blue = (round(255 * part) for part in to_rgb(colour))
    except ValueError as error:
        raise UsageError(
            f"--gap-colour must be a grey of 0..1, a name such as white, or #rrggbb, found"
            f" {colour!r}"
        ) from error
    return Grid(columns, gap, (red, green, blue))


def resized(tile: np.ndarray, size: int) -> np.ndarray:
    """Return a tile enlarged by a whole factor, or reduced by averaging, to near `size`.

    tile: (H, W) or (H, W, C). size: of the longer side, never exceeded. Enlarging repeats pixels.
    """
    height, width = tile.shape[:2]
    if max(height, width) <= size:
        factor = size // max(height, width)
        return enlarged(tile, factor, axis=0)
    block = math.ceil(max(height, width) / size)
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(tile.astype(np.float64), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(np.append(rows, height)), np.diff(np.append(columns, width)))
    means: np.ndarray = sums / counts.reshape(counts.shape + (1,) * (tile.ndim - 2))
    return (means.round() if tile.dtype == np.uint8 else means).astype(tile.dtype)


def mosaic(tiles: np.ndarray, columns: int, *, gap: int = 1, fill: RGB = WHITE) -> np.ndarray:
    """Lay tiles, uint8 (n, H, W, 3), out row by row; the gap is also the frame around them."""
    number, height, width, _ = tiles.shape
    rows = math.ceil(number / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    page = np.full(shape, fill, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = (k // columns) * (height + gap) + gap, (k % columns) * (width + gap) + gap
        page[top : top + height, left : left + width] = tile
    return page


def num_columns(count: int, *, ratio: float, narrowest: float, widest: float) -> int:
    """Return how many of `count` tiles make a row: few holes in the last row, wider than high.

    ratio: of width to height, at best. narrowest, widest: what that width may be multiplied by.
    """
    best = math.sqrt(ratio * count)
    widths = range(math.ceil(best * narrowest), math.ceil(best * widest) + 1)
    return min(widths, key=lambda width: (-count % width, abs(width - best)))


def enlarged(tiles: np.ndarray, factor: int, *, axis: int = -3) -> np.ndarray:
    """Return tiles (..., H, W, C) with each pixel repeated in both directions; axis: that of H."""
    return tiles.repeat(factor, axis=axis).repeat(factor, axis=axis + 1)


def as_pixels(colors: np.ndarray) -> np.ndarray:
    """Return colours of 0..1 as uint8."""
    scaled: np.ndarray = colors * 255
    return scaled.round().astype(np.uint8)


def shares_between(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return where values are between `low`, 0, and `high`, 1; 0.5 where these are equal."""
    span = high - low
    return np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0.5)


def mapped_colors(values: np.ndarray, colormap: str, *, low: float, high: float) -> np.ndarray:
    """Return uint8 colours (..., 3); `low` and `high` get the end colours of the colormap."""
    shares = (values.astype(np.float64) - low) / (high - low)
    colors = matplotlib.colormaps[colormap](shares)[..., :3]
    # An infinite value is no more drawable than a NaN.
    colors[~np.isfinite(values)] = to_rgb(NOT_FINITE)
    return as_pixels(colors)
