"""The output of one layer for some images: a row per image, its strongest channels side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ptkit.core.wording import counted
from ptkit.plots.fonts import fitted, text_width
from ptkit.plots.style import MAGNITUDE, SIGNED, SMALL, dead_text, house_style, new_page, number
from ptkit.plots.tiles import mapped_colors, mosaic, resized

MAX_CHANNELS = 16

# Without more space between rows than between columns, one image seems to continue in the next.
_TILE, _GAP, _BELOW, _HEAD, _BETWEEN = 80, 2, 4, 20, 14


@dataclass(frozen=True)
class MapStats:
    """One value per channel over all images and positions, each array (C,); is_dead: bool.

    A channel is dead if it has the same value everywhere, or, where it has only one value (one
    image, a vector), if that is 0.
    """

    minima: np.ndarray
    maxima: np.ndarray
    mean_magnitudes: np.ndarray
    is_dead: np.ndarray

    @property
    def limit(self) -> float:
        """The largest absolute value of the layer, the end of its scale."""
        return float(max(-self.minima.min(), self.maxima.max())) or 1.0

    @property
    def is_signed(self) -> bool:
        return bool(self.minima.min() < 0)

    @property
    def strongest(self) -> np.ndarray:
        """The channels with the largest maximum, at most 16 of them, the largest first."""
        return np.argsort(-self.maxima, kind="stable")[:MAX_CHANNELS]


def map_stats(maps: np.ndarray) -> MapStats:
    """Measure the channels of one layer, without NaN and infinite values.

    maps: float (n, C, H, W).
    """
    known = np.where(np.isfinite(maps), maps, 0.0)
    minima, maxima = known.min(axis=(0, 2, 3)), known.max(axis=(0, 2, 3))
    magnitudes = np.abs(known)
    tiny = 1e-6 * magnitudes.max()
    has_one_value = maps.shape[0] * maps.shape[2] * maps.shape[3] == 1
    spread = np.maximum(maxima, -minima) if has_one_value else maxima - minima
    return MapStats(minima, maxima, magnitudes.mean(axis=(0, 2, 3)), spread <= tiny)


@house_style()
def feature_map_figure(
    maps: np.ndarray, images: np.ndarray, *, layer: str, names: Sequence[str], footer: str = ""
) -> Figure:
    """Draw each image, the mean |activation| of the layer, and the channels of largest maximum.

    maps: float (n, C, H, W). images: uint8 (n, h, w, 3), what the network saw, de-normalised.
    names: of the images.
    """
    stats = map_stats(maps)
    mean = np.abs(maps).mean(axis=1)
    mean_limit = float(np.nan_to_num(mean, posinf=0).max()) or 1.0
    size = _TILE if max(maps.shape[2:]) > 1 else _TILE // 2
    tiles = (resized(one, size) for one in mean)
    means = [mapped_colors(tile, MAGNITUDE, low=0, high=mean_limit) for tile in tiles]
    # An input much larger than the maps would pull the rows apart.
    inputs = [resized(image, max(means[0].shape[0], 56)) for image in images]
    colormap, low = (SIGNED, -stats.limit) if stats.is_signed else (MAGNITUDE, 0)
    strongest = stats.strongest.tolist()
    tiles = (resized(one[k], size) for one in maps for k in strongest)
    channels = [mapped_colors(tile, colormap, low=low, high=stats.limit) for tile in tiles]
    groups = (inputs, means, channels)
    widths = [max(tile.shape[1] for tile in tiles) for tiles in groups]
    height = max(tile.shape[0] for tiles in groups for tile in tiles)
    labels = [fitted(name, width=120, size=8) for name in names]
    left = max(text_width(label, size=8) for label in labels) + 10
    pictures = [
        _column_group(tiles, len(maps), height=height, width=width)
        for tiles, width in zip(groups, widths, strict=True)
    ]
    bottom = _HEAD + pictures[0].shape[0]
    where = "this image" if len(maps) == 1 else f"these {len(maps):,} images"
    title = dead_text(f"channels of {layer} are dead on {where}", stats.is_dead)
    right = left + sum(picture.shape[1] for picture in pictures) + 2 * _BETWEEN
    notes = [_shape_text(maps, stats)]
    page = new_page(right, bottom + 44, title=title, notes=notes, footer=footer)
    for k, label in enumerate(labels):
        middle = _HEAD + _GAP + k * (height + _BELOW + _GAP) + height / 2
        page.text(label, left - 6, middle, ha="right", va="center", size=8)
    headings = (["input"], ["mean |a|"], strongest)
    for picture, heads, width in zip(pictures, headings, widths, strict=True):
        page.image(picture, left, _HEAD)
        for k, head in enumerate(heads):
            middle = left + _GAP + k * (width + _GAP) + width / 2
            page.text(str(head), middle, _HEAD - 3, ha="center", va="bottom", **SMALL)
        left += picture.shape[1] + _BETWEEN
    limit = number(stats.limit)
    labels = [f"−{limit}", "0", limit] if stats.is_signed else ["0", limit]
    page.color_bar(0, bottom + 12, colormap=colormap, labels=labels, meaning="channels", gap=8)
    labels, meaning = ["0", number(mean_limit)], "mean |a|"
    page.color_bar(230, bottom + 12, colormap=MAGNITUDE, labels=labels, meaning=meaning, gap=8)
    return page.figure


def map_rows(layer: str, stats: MapStats) -> list[tuple[str, int, float, float, float, bool]]:
    """Return table rows: layer, channel, min, max, mean magnitude, is_dead."""
    columns = (stats.minima, stats.maxima, stats.mean_magnitudes, stats.is_dead)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [(layer, k, *row) for k, row in enumerate(values)]


def _column_group(tiles: list[np.ndarray], rows: int, *, height: int, width: int) -> np.ndarray:
    """Lay tiles out in `rows` rows of cells of one size, each tile in the middle of its cell."""
    cells = np.full((len(tiles), height + _BELOW, width, 3), 255, np.uint8)
    for cell, tile in zip(cells, tiles, strict=True):
        top, left = (height - tile.shape[0]) // 2, (width - tile.shape[1]) // 2
        cell[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return mosaic(cells, len(tiles) // rows, gap=_GAP)


def _shape_text(maps: np.ndarray, stats: MapStats) -> str:
    _, channels, height, width = maps.shape
    shown = len(stats.strongest)
    cap = "all shown, the largest maximum first"
    if shown < channels:
        cap = f"the {shown} with the largest maximum shown"
    size = f"{height}×{width}" if (height, width) != (1, 1) else "one value each"
    values = f"Values {number(stats.minima.min())} to {number(stats.maxima.max())}."
    dead = f"{stats.is_dead.mean():.1%} dead."
    return f"{counted(channels, 'channel')}, {size}, {cap}. {values} {dead}"
