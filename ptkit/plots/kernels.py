"""Convolution kernels of one layer as a picture, from the bare weight tensor.

The shape (outputs, inputs, height, width) alone decides what is drawn: three inputs are
colours; one input (greyscale images, depthwise layers) is a sheet of signed maps; 1×1 is a matrix;
anything else is a grid with a row per output channel, or, where its kernels would be too small to
be seen, the spectrum of the layer. The view "channels" draws the grid of any layer, in greys.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots import style
from ptkit.plots.kernel_spectrum import SPECTRUM_HEIGHT, SPECTRUM_WIDTH, draw_spectrum, is_static
from ptkit.plots.kernel_stats import (
    KernelStats,
    draw_legend,
    kernel_colors,
    kernel_notes,
    kernel_stats,
)
from ptkit.plots.tiles import RGB, Grid, enlarged, mosaic, num_columns

SCALES, VIEWS = ("layer", "kernel"), ("auto", "channels")
MAX_TILES = 256

# Below each kernel of a sheet: a bar of three pixels and the channel's number.
_CAPTION = 17
# Of a grid: the most outputs and inputs of the strongest panel, and the most pixels a side of the
# whole layer.
_STRONGEST = 16
_MAX_SIDE = 1024
_HEAD, _BARS, _BETWEEN, _LEGEND = 46, 52, 36, 40


@dataclass(frozen=True)
class KernelLook:
    """How kernels are shown.

    scale: "layer" (all kernels alike, so that they compare) or "kernel" (each stretched from its
    minimum to its maximum, the textbook way, which shows dead kernels at full contrast). view:
    "auto", or "channels" (a row per output, a grey tile per input). grid: the layout; its columns
    are kernels side by side, and each output of a grid begins a new line.
    """

    scale: str = "layer"
    view: str = "auto"
    grid: Grid = field(default_factory=Grid)

    @property
    def has_channels(self) -> bool:
        return self.view == "channels"

    @property
    def colormap(self) -> str:
        return "gray" if self.has_channels else style.SIGNED


@style.house_style()
def kernel_figure(
    weight: np.ndarray, *, layer: str, look: KernelLook | None = None, footer: str = ""
) -> Figure:
    """Draw the kernels of one layer; weight: float (outputs, inputs, height, width)."""
    look, stats = look or KernelLook(), kernel_stats(weight)
    draw = _sheet_figure if _is_sheet(weight, look) else _grid_figure
    title = style.dead_text(f"kernels of {layer} are dead", stats.is_dead)
    return draw(weight, stats, look=look, title=title, footer=footer)


def shows_spectrum(weight: np.ndarray, look: KernelLook) -> bool:
    """Return whether the picture of a layer has its singular values in place of all kernels."""
    return is_static(weight) and not look.has_channels and not _is_sheet(weight, look)


def output_mosaics(
    weight: np.ndarray,
    *,
    look: KernelLook | None = None,
    num_outputs: int = 16,
    num_inputs: int = 64,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the strongest output channels, each with an image of its kernels side by side.

    Images are uint8 (H, W, 3). num_inputs: at most the first so many kernels of an output.
    """
    look, stats = look or KernelLook(), kernel_stats(weight)
    paint = partial(kernel_colors, limit=stats.limit, scale=look.scale, colormap=look.colormap)
    zoom = max(1, 24 // max(weight.shape[2:]))
    for channel in np.sort(np.argsort(-stats.norms, kind="stable")[:num_outputs]).tolist():
        kernels = weight[channel]
        is_rgb = len(kernels) == 3 and not look.has_channels
        tiles = enlarged(paint(kernels[None] if is_rgb else kernels[:num_inputs, None]), zoom)
        columns = look.grid.columns or min(len(tiles), 16)
        yield channel, mosaic(tiles, columns, **_gaps(look.grid, 1, fill=style.FRAME_RGB))


def _is_sheet(weight: np.ndarray, look: KernelLook) -> bool:
    _, inputs, height, width = weight.shape
    return inputs in (1, 3) and height * width > 1 and not look.has_channels


def _gaps(grid: Grid, gap: int, *, fill: RGB) -> dict[str, Any]:
    """Return the gap and its colour: what the user wants, or these."""
    return {
        "gap": gap if grid.gap is None else grid.gap,
        "fill": fill if grid.fill is None else grid.fill,
    }


def _sheet_figure(
    weight: np.ndarray, stats: KernelStats, *, look: KernelLook, **words: Any
) -> Figure:
    """Draw each output's kernel as one tile, with its norm as a bar and its number below."""
    shown = np.sort(np.argsort(-stats.norms, kind="stable")[:MAX_TILES])
    is_rgb = weight.shape[1] == 3
    columns = look.grid.columns or num_columns(len(shown), ratio=1, narrowest=1, widest=1.8)
    zoom = max(1, min(max(640 // columns, 38), 96) // max(weight.shape[2:]))
    colors = kernel_colors(weight[shown], limit=stats.limit, scale=look.scale)
    tiles = _captioned(enlarged(colors, zoom), stats, shown)
    gaps = _gaps(look.grid, 6, fill=(255, 255, 255))
    gap = gaps["gap"]
    picture = mosaic(tiles, columns, **gaps)[gap:, gap:]
    how = f"RGB{', grey is 0' if look.scale == 'layer' else ''}." if is_rgb else "Signed."
    if len(shown) < len(weight):
        how += f" {len(shown):,} of {len(weight):,} shown, the strongest."
    notes = kernel_notes(weight, stats, how=how, bar="below a kernel")
    page = style.new_page(picture.shape[1], picture.shape[0] + 40, notes=notes, **words)
    page.image(picture, 0, 0)
    height, width = tiles.shape[1] + gap, tiles.shape[2] + gap
    for k, channel in enumerate(shown):
        left, bottom = (k % columns) * width, (k // columns + 1) * height - gap
        color = style.RED if stats.is_dead[channel] else style.MUTED
        page.text(str(channel), left, bottom, va="bottom", size=6.5, color=color)
    meaning = "each colour; ends: 99.5th percentile of |w|" if is_rgb else ""
    top, scale = picture.shape[0] + 8, look.scale
    draw_legend(page, top, stats, scale=scale, is_grey=is_rgb, meaning=meaning)
    return page.figure


def _captioned(tiles: np.ndarray, stats: KernelStats, shown: np.ndarray) -> np.ndarray:
    """Add a frame, room for a caption with a norm bar, and a red cross over each dead kernel."""
    number, height, width, _ = tiles.shape
    result = np.full((number, height + 2 + _CAPTION, width + 2, 3), 255, np.uint8)
    result[:, : height + 2] = style.FRAME_RGB
    result[:, 1 : height + 1, 1 : width + 1] = tiles
    steps = np.linspace(0, 1, 2 * max(height, width))
    downwards = np.rint(steps * (height - 1)).astype(int)
    rightwards = np.rint(steps * (width - 1)).astype(int)
    for tile, channel in zip(result, shown, strict=True):
        bar = round((width + 2) * stats.norm_shares[channel])
        tile[height + 4 : height + 7, :bar] = style.BAR_RGB
        if stats.is_dead[channel]:
            tile[[0, height + 1]] = style.RED_RGB
            tile[: height + 2, [0, width + 1]] = style.RED_RGB
            tile[1 + downwards, 1 + rightwards] = style.RED_RGB
            tile[1 + downwards, width - rightwards] = style.RED_RGB
    return result


def _grid_figure(
    weight: np.ndarray, stats: KernelStats, *, look: KernelLook, **words: Any
) -> Figure:
    """Draw the strongest outputs by the strongest inputs large, and the whole layer small; of a
    layer with too many kernels its spectrum in place of the whole.

    Of a small layer only the whole is drawn.
    """
    has_spectrum = shows_spectrum(weight, look)
    panels = _panels(weight, stats, look, has_whole=not has_spectrum)
    tallest = max(panel.height for panel in panels)
    width = sum(panel.width + _BETWEEN for panel in panels) - _BETWEEN
    if has_spectrum:
        tallest, width = max(tallest, SPECTRUM_HEIGHT), width + _BETWEEN + SPECTRUM_WIDTH
    how = "Grey is 0." if look.has_channels and look.scale == "layer" else "Signed."
    notes = kernel_notes(weight, stats, how=how, bar="right of an output")
    page = style.new_page(width, tallest + _LEGEND, notes=notes, **words)
    left = 0
    for panel in panels:
        _draw_panel(page.inset(left, 0), panel, stats)
        left += panel.width + _BETWEEN
    if has_spectrum:
        draw_spectrum(page.inset(left, 0), weight)
    # Below the strongest, next to a taller whole layer, is room for the norms of all outputs.
    space = tallest - panels[0].height
    if space > 150:
        _draw_norms(page, stats, panels[0], height=min(space, 420))
    draw_legend(page, tallest + 8, stats, scale=look.scale, is_grey=look.has_channels)
    return page.figure


@dataclass(frozen=True)
class _Panel:
    """One grid.

    rows, columns: outputs, and inputs with a number. pitch: from output to output and from input to
    input in pixels.
    """

    name: str
    picture: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    pitch: tuple[int, int]

    @property
    def labels(self) -> int:
        return 10 + 7 * len(str(self.rows.max()))

    @property
    def width(self) -> int:
        return max(self.labels + int(self.picture.shape[1]) + _BARS, 350)

    @property
    def height(self) -> int:
        return _HEAD + int(self.picture.shape[0])


def _panels(
    weight: np.ndarray, stats: KernelStats, look: KernelLook, *, has_whole: bool
) -> list[_Panel]:
    outputs, inputs, height, width = weight.shape
    is_matrix = height * width == 1
    known = np.nan_to_num(weight.astype(np.float64), nan=0, posinf=0, neginf=0)
    outputs_by_norm = np.argsort(-stats.norms, kind="stable")
    inputs_by_norm = np.argsort(-(known**2).sum(axis=(0, 2, 3)), kind="stable")
    total, panels = outputs * inputs, []
    if has_whole:
        gap = 0 if is_matrix else 1
        rows = np.sort(outputs_by_norm[: _MAX_SIDE // (height + gap)])
        columns = np.sort(inputs_by_norm[: _MAX_SIDE // (width + gap)])
        shown = len(rows) * len(columns)
        noun = "weights" if is_matrix else "kernels"
        name = f"In order: {shown:,} of {total:,} {noun} shown, the strongest"
        if shown == total:
            name = f"Whole layer: {total:,} {noun}"
        # Alone it may be larger.
        side = _MAX_SIDE if look.has_channels else 640
        panels.append(_panel(weight, stats, look, name=name, chosen=(rows, columns), side=side))
    is_large = not is_matrix and not look.has_channels and max(outputs, inputs) > _STRONGEST
    if is_large or not has_whole:
        rows, columns = outputs_by_norm[:_STRONGEST], inputs_by_norm[:_STRONGEST]
        side = 640 if panels and panels[0].height >= 800 else 420
        name = f"Strongest outputs × inputs: {len(rows) * len(columns):,} of {total:,} shown"
        strongest = _panel(weight, stats, look, name=name, chosen=(rows, columns), side=side)
        panels.insert(0, strongest)
    return panels


def _panel(
    weight: np.ndarray,
    stats: KernelStats,
    look: KernelLook,
    *,
    name: str,
    chosen: tuple[np.ndarray, np.ndarray],
    side: int,
) -> _Panel:
    """Lay the kernels of some outputs and inputs out, `side` pixels wide or high if they fit."""
    rows, columns = chosen
    kernels = weight[np.ix_(rows, columns)]
    height, width = kernels.shape[2:]
    in_line = min(look.grid.columns or len(columns), len(columns))
    lines = math.ceil(len(columns) / in_line)
    room = min(side // (len(rows) * lines * height), side // (in_line * width))
    zoom = max(1, min(room, max(36 // max(height, width), 1)))
    # A large kernel may have a wide frame; where a weight is one pixel, frames would hide it.
    gap = 3 if zoom >= 5 and height * width > 1 else 1 if zoom >= 4 or height * width > 1 else 0
    gaps = _gaps(look.grid, gap, fill=style.FRAME_RGB if zoom > 1 else style.FAINT_RGB)
    paint = partial(kernel_colors, limit=stats.limit, scale=look.scale, colormap=look.colormap)
    colors = enlarged(paint(kernels.reshape(-1, 1, height, width)), zoom)
    shape = (len(rows), lines * in_line, *colors.shape[1:])
    tiles = np.full(shape, gaps["fill"], np.uint8)
    tiles[:, : len(columns)] = colors.reshape(len(rows), len(columns), *colors.shape[1:])
    picture = mosaic(tiles.reshape(-1, *colors.shape[1:]), in_line, **gaps)
    pitch = (lines * (colors.shape[1] + gaps["gap"]), colors.shape[2] + gaps["gap"])
    # Of several lines an output no number above a column says which input it is.
    return _Panel(name, picture, rows, columns if lines == 1 else columns[:0], pitch)


def _draw_panel(page: style.Page, panel: _Panel, stats: KernelStats) -> None:
    page.text(panel.name, 0, 0, weight="bold")
    grid = page.inset(panel.labels, _HEAD)
    grid.image(panel.picture, 0, 0)
    grid.image(_bars(panel, stats), panel.picture.shape[1] + 6, 0)
    high, wide = panel.pitch
    # A number needs 14 pixels: of narrower rows and columns only some get one.
    for k in range(0, len(panel.rows), math.ceil(14 / high)):
        row, color = panel.rows[k], style.RED if stats.is_dead[panel.rows[k]] else style.MUTED
        grid.text(str(row), -5, (k + 0.5) * high, ha="right", va="center", size=7, color=color)
    how = {"ha": "center", "va": "bottom", "rotation": 90, "size": 7, "color": style.MUTED}
    for k in range(0, len(panel.columns), math.ceil(14 / wide)):
        grid.text(str(panel.columns[k]), (k + 0.5) * wide, -3, **how)


def _bars(panel: _Panel, stats: KernelStats) -> np.ndarray:
    """Return the norm of each row as a bar; a dead one gets a red stub, as its bar is too short."""
    bars = np.full((panel.picture.shape[0], _BARS - 6, 3), 255, np.uint8)
    thickness = max(1, min(panel.pitch[0] - 2, 12))
    for k, row in enumerate(panel.rows):
        top = k * panel.pitch[0] + (panel.pitch[0] - thickness + 1) // 2
        bars[top : top + thickness, : round(bars.shape[1] * stats.norm_shares[row])] = style.BAR_RGB
        if stats.is_dead[row]:
            bars[top : top + thickness, :12] = style.RED_RGB
    return bars


def _draw_norms(page: style.Page, stats: KernelStats, panel: _Panel, *, height: int) -> None:
    """Draw all norms in falling order in the space below a panel."""
    axes = page.axes(panel.labels + 12, panel.height + 34, panel.picture.shape[1] - 12, height - 74)
    norms = np.sort(stats.norms)[::-1]
    ranks = np.arange(1, len(norms) + 1)
    axes.fill_between(ranks, norms, step="mid", color=style.BLUE, alpha=0.25, linewidth=0)
    axes.step(ranks, norms, where="mid", color=style.BLUE, linewidth=1.2)
    axes.axhline(stats.median_norm, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    median = f"median {style.number(stats.median_norm)}"
    how: dict[str, Any] = {"size": 7, "color": style.MUTED, "va": "bottom", "ha": "right"}
    axes.text(1, stats.median_norm, median, transform=axes.get_yaxis_transform(), **how)
    axes.set(xlim=(0.5, len(norms) + 0.5), ylim=(0, None))
    axes.set_xlabel("output channels by norm", size=8)
    axes.tick_params(labelsize=7, length=3)
    dead = f", {stats.num_dead:,} dead" if stats.num_dead else ""
    page.text(f"Norm of every output channel{dead}", 0, panel.height + 12, weight="bold")
