"""The output of one layer for some images: a row per image, its strongest channels side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from ptkit.core.wording import counted
from ptkit.plots.fonts import fitted, text_width
from ptkit.plots.style import (
    MAGNITUDE,
    SIGNED,
    SMALL,
    Page,
    dead_text,
    house_style,
    new_page,
    number,
)
from ptkit.plots.tiles import RGB, WHITE, Grid, mapped_colors, mosaic, resized, shares_between

MAX_CHANNELS, MAP_SCALES = 16, ("layer", "map")

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


@dataclass(frozen=True)
class MapLook:
    """How feature maps are shown.

    scale: "layer" (all channels alike) or "map" (each from its minimum to its maximum, in greys).
    grid: the layout of the channels of an image.
    """

    scale: str = "layer"
    grid: Grid = field(default_factory=Grid)


@house_style()
def feature_map_figure(
    maps: np.ndarray,
    images: np.ndarray,
    *,
    layer: str,
    names: Sequence[str],
    look: MapLook | None = None,
    footer: str = "",
) -> Figure:
    """Draw each image, the mean |activation| of the layer, and the channels of largest maximum.

    maps: float (n, C, H, W). images: uint8 (n, h, w, 3), what the network saw, de-normalised.
    names: of the images.
    """
    stats, look = map_stats(maps), look or MapLook()
    mean = np.abs(maps).mean(axis=1)
    mean_limit = float(np.nan_to_num(mean, posinf=0).max()) or 1.0
    size = _TILE if max(maps.shape[2:]) > 1 else _TILE // 2
    means = [mapped_colors(resized(one, size), MAGNITUDE, low=0, high=mean_limit) for one in mean]
    # An input much larger than the maps would pull the rows apart.
    inputs = [resized(image, max(means[0].shape[0], 56)) for image in images]
    strongest = stats.strongest.tolist()
    channels = [_map_colors(resized(one[k], size), stats, look) for one in maps for k in strongest]
    in_line = min(look.grid.columns or len(strongest), len(strongest))
    lines = -(-len(strongest) // in_line)
    height = max(tile.shape[0] for tiles in (inputs, means, channels) for tile in tiles)
    cells = _Cells(len(maps), lines, height, look.grid)
    groups = [(inputs, ["input"], 1), (means, ["mean |a|"], 1), (channels, strongest, in_line)]
    labels = [fitted(name, width=120, size=8) for name in names]
    left = max(text_width(label, size=8) for label in labels) + 10
    fill = look.grid.fill or WHITE
    pictures = [
        cells.picture(tiles, in_line=in_line, fill=fill if tiles is channels else WHITE)
        for tiles, _, in_line in groups
    ]
    bottom = _HEAD + pictures[0].shape[0]
    where = "this image" if len(maps) == 1 else f"these {len(maps):,} images"
    title = dead_text(f"channels of {layer} are dead on {where}", stats.is_dead)
    right = left + sum(picture.shape[1] for picture in pictures) + 2 * _BETWEEN
    notes = [_shape_text(maps, stats)]
    if lines > 1:
        notes.append(f"Channels of an image, line by line: {', '.join(map(str, strongest))}.")
    page = new_page(right, bottom + 44, title=title, notes=notes, footer=footer)
    for k, label in enumerate(labels):
        middle = _HEAD + cells.gap + k * cells.pitch + height / 2
        page.text(label, left - 6, middle, ha="right", va="center", size=8)
    for picture, (tiles, heads, in_line) in zip(pictures, groups, strict=True):
        page.image(picture, left, _HEAD)
        width = max(tile.shape[1] for tile in tiles) + cells.gap
        # Of several lines the note names the channels.
        for k, head in enumerate(heads if len(heads) == in_line else ()):
            middle = left + cells.gap / 2 + (k + 0.5) * width
            page.text(str(head), middle, _HEAD - 3, ha="center", va="bottom", **SMALL)
        left += picture.shape[1] + _BETWEEN
    _draw_scales(page.inset(0, bottom + 12), stats, look, mean_limit=mean_limit)
    return page.figure


def _map_colors(tile: np.ndarray, stats: MapStats, look: MapLook) -> np.ndarray:
    if look.scale == "map":
        known = np.nan_to_num(tile, nan=0, posinf=0, neginf=0)
        return mapped_colors(shares_between(tile, known.min(), known.max()), "gray", low=0, high=1)
    colormap, low = (SIGNED, -stats.limit) if stats.is_signed else (MAGNITUDE, 0)
    return mapped_colors(tile, colormap, low=low, high=stats.limit)


def _draw_scales(page: Page, stats: MapStats, look: MapLook, *, mean_limit: float) -> None:
    limit = number(stats.limit)
    colormap, labels, meaning = MAGNITUDE, ["0", limit], "channels"
    if stats.is_signed:
        colormap, labels = SIGNED, [f"−{limit}", "0", limit]
    if look.scale == "map":
        colormap, labels, meaning = "gray", ["its min", "its max"], "each map"
    page.color_bar(0, 0, colormap=colormap, labels=labels, meaning=meaning, gap=8)
    labels, meaning = ["0", number(mean_limit)], "mean |a|"
    page.color_bar(230, 0, colormap=MAGNITUDE, labels=labels, meaning=meaning, gap=8)


def map_rows(layer: str, stats: MapStats) -> list[tuple[str, int, float, float, float, bool]]:
    """Return table rows: layer, channel, min, max, mean magnitude, is_dead."""
    columns = (stats.minima, stats.maxima, stats.mean_magnitudes, stats.is_dead)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [(layer, k, *row) for k, row in enumerate(values)]


@dataclass(frozen=True)
class _Cells:
    """Rows of cells, one an image; each has several lines. height: of the highest tile."""

    rows: int
    lines: int
    height: int
    grid: Grid

    @property
    def gap(self) -> int:
        return _GAP if self.grid.gap is None else self.grid.gap

    @property
    def line(self) -> int:
        """The height of a line; a gap that the user wants is the same in both directions."""
        return self.height + (_BELOW if self.grid.gap is None else 0)

    @property
    def pitch(self) -> int:
        """From row to row."""
        return self.lines * (self.line + self.gap)

    def picture(self, tiles: Sequence[np.ndarray], *, in_line: int, fill: RGB) -> np.ndarray:
        """Lay tiles out, as many a row in each, every one in the middle of its cell."""
        width = max(tile.shape[1] for tile in tiles)
        shape = (self.rows, self.lines * in_line, self.line, width, 3)
        cells, in_row = np.full(shape, fill, np.uint8), len(tiles) // self.rows
        for k, tile in enumerate(tiles):
            cell = cells[divmod(k, in_row)]
            top, left = (self.height - tile.shape[0]) // 2, (width - tile.shape[1]) // 2
            cell[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return mosaic(cells.reshape(-1, *shape[2:]), in_line, gap=self.gap, fill=fill)


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
