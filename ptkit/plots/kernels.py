"""Convolution kernels of one layer as a picture, from the bare weight tensor.

The shape (outputs, inputs, height, width) alone decides what is drawn: three inputs are
colours; one input (greyscale images, depthwise layers) is a sheet of signed maps; 1×1 is a matrix;
anything else is a grid with a row per output channel.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots import style
from ptkit.plots.kernel_stats import (
    KernelStats,
    draw_legend,
    kernel_colors,
    kernel_notes,
    kernel_stats,
)
from ptkit.plots.tiles import enlarged, mosaic, num_columns

SCALES = ("layer", "kernel")
MAX_TILES = 256

# Below each kernel of a sheet: a bar of three pixels and the channel's number.
_CAPTION = 17
# Of a grid: the most outputs and inputs of the strongest panel, and the most pixels a side of the
# whole layer.
_STRONGEST = 16
_MAX_SIDE = 1024
_HEAD, _BARS, _BETWEEN, _LEGEND = 46, 52, 36, 40

_Paint = Callable[[np.ndarray], np.ndarray]


@style.house_style()
def kernel_figure(
    weight: np.ndarray, *, layer: str, scale: str = "layer", footer: str = ""
) -> Figure:
    """Draw the kernels of one layer.

    weight: float (outputs, inputs, height, width). scale: "layer" (all kernels alike, so that they
    compare) or "kernel" (each stretched from its minimum to its maximum, the textbook way, which
    shows dead kernels at full contrast).
    """
    _, inputs, height, width = weight.shape
    stats = kernel_stats(weight)
    draw = _sheet_figure if inputs in (1, 3) and height * width > 1 else _grid_figure
    title = style.dead_text(f"kernels of {layer} are dead", stats.is_dead)
    return draw(weight, stats, scale=scale, title=title, footer=footer)


def output_mosaics(
    weight: np.ndarray, *, scale: str = "layer", num_outputs: int = 16, num_inputs: int = 64
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the strongest output channels, each with an image of its kernels side by side.

    Images are uint8 (H, W, 3). num_inputs: at most the first so many kernels of an output.
    """
    stats = kernel_stats(weight)
    zoom = max(1, 24 // max(weight.shape[2:]))
    for channel in np.sort(np.argsort(-stats.norms, kind="stable")[:num_outputs]).tolist():
        kernels = weight[channel]
        maps = kernels[None] if len(kernels) == 3 else kernels[:num_inputs, None]
        tiles = enlarged(kernel_colors(maps, limit=stats.limit, scale=scale), zoom)
        yield channel, mosaic(tiles, min(len(tiles), 16), fill=style.FRAME_RGB)


def _sheet_figure(weight: np.ndarray, stats: KernelStats, *, scale: str, **words: Any) -> Figure:
    """Draw each output's kernel as one tile, with its norm as a bar and its number below."""
    shown = np.sort(np.argsort(-stats.norms, kind="stable")[:MAX_TILES])
    is_rgb = weight.shape[1] == 3
    columns = num_columns(len(shown), ratio=1, narrowest=1, widest=1.8)
    zoom = max(1, min(max(640 // columns, 38), 96) // max(weight.shape[2:]))
    colors = kernel_colors(weight[shown], limit=stats.limit, scale=scale)
    tiles = _captioned(enlarged(colors, zoom), stats, shown)
    picture = mosaic(tiles, columns, gap=6)[6:, 6:]
    how = f"RGB{', grey is 0' if scale == 'layer' else ''}." if is_rgb else "Signed."
    if len(shown) < len(weight):
        how += f" {len(shown):,} of {len(weight):,} shown, the strongest."
    notes = kernel_notes(weight, stats, how=how, bar="below a kernel")
    page = style.new_page(picture.shape[1], picture.shape[0] + 40, notes=notes, **words)
    page.image(picture, 0, 0)
    height, width = tiles.shape[1] + 6, tiles.shape[2] + 6
    for k, channel in enumerate(shown):
        left, bottom = (k % columns) * width, (k // columns + 1) * height - 6
        color = style.RED if stats.is_dead[channel] else style.MUTED
        page.text(str(channel), left, bottom, va="bottom", size=6.5, color=color)
    draw_legend(page, picture.shape[0] + 8, stats, scale=scale, is_rgb=is_rgb)
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


def _grid_figure(weight: np.ndarray, stats: KernelStats, *, scale: str, **words: Any) -> Figure:
    """Draw the strongest outputs by the strongest inputs large, and the whole layer small.

    Of a small layer only the whole is drawn.
    """
    panels = _panels(weight, stats, scale)
    tallest = max(panel.height for panel in panels)
    width = sum(panel.width + _BETWEEN for panel in panels) - _BETWEEN
    notes = kernel_notes(weight, stats, how="Signed.", bar="right of an output")
    page = style.new_page(width, tallest + _LEGEND, notes=notes, **words)
    left = 0
    for panel in panels:
        _draw_panel(page.inset(left, 0), panel, stats)
        left += panel.width + _BETWEEN
    # Below the strongest, next to a taller whole layer, is room for the norms of all outputs.
    space = tallest - panels[0].height
    if space > 150:
        _draw_norms(page, stats, panels[0], height=min(space, 420))
    draw_legend(page, tallest + 8, stats, scale=scale, is_rgb=False)
    return page.figure


@dataclass(frozen=True)
class _Panel:
    """One grid.

    rows, columns: outputs and inputs. pitch: height and width of a kernel and its gap in pixels.
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


def _panels(weight: np.ndarray, stats: KernelStats, scale: str) -> list[_Panel]:
    outputs, inputs, height, width = weight.shape
    is_matrix = height * width == 1
    known = np.nan_to_num(weight.astype(np.float64), nan=0, posinf=0, neginf=0)
    outputs_by_norm = np.argsort(-stats.norms, kind="stable")
    inputs_by_norm = np.argsort(-(known**2).sum(axis=(0, 2, 3)), kind="stable")
    gap = 0 if is_matrix else 1
    rows = np.sort(outputs_by_norm[: _MAX_SIDE // (height + gap)])
    columns = np.sort(inputs_by_norm[: _MAX_SIDE // (width + gap)])
    total, shown = outputs * inputs, len(rows) * len(columns)
    noun = "weights" if is_matrix else "kernels"
    name = f"In order: {shown:,} of {total:,} {noun} shown, the strongest"
    if shown == total:
        name = f"Whole layer: {total:,} {noun}"
    paint = partial(kernel_colors, limit=stats.limit, scale=scale)
    panels = [_panel(weight, name, rows=rows, columns=columns, side=640, paint=paint)]
    if not is_matrix and max(outputs, inputs) > _STRONGEST:
        rows, columns = outputs_by_norm[:_STRONGEST], inputs_by_norm[:_STRONGEST]
        side = 420 if panels[0].height < 800 else 640
        name = f"Strongest outputs × inputs: {len(rows) * len(columns):,} of {total:,} shown"
        strongest = _panel(weight, name, rows=rows, columns=columns, side=side, paint=paint)
        panels.insert(0, strongest)
    return panels


def _panel(
    weight: np.ndarray,
    name: str,
    *,
    rows: np.ndarray,
    columns: np.ndarray,
    side: int,
    paint: _Paint,
) -> _Panel:
    kernels = weight[np.ix_(rows, columns)]
    height, width = kernels.shape[2:]
    room = min(side // (len(rows) * height), side // (len(columns) * width))
    zoom = min(room, max(36 // max(height, width), 1))
    # A large kernel may have a wide frame; where a weight is one pixel, frames would hide it.
    gap = 3 if zoom >= 5 and height * width > 1 else 1 if zoom >= 4 or height * width > 1 else 0
    tiles = enlarged(paint(kernels.reshape(-1, 1, height, width)), max(zoom, 1))
    picture = mosaic(
        tiles, len(columns), gap=gap, fill=style.FRAME_RGB if zoom > 1 else style.FAINT_RGB
    )
    return _Panel(name, picture, rows, columns, (tiles.shape[1] + gap, tiles.shape[2] + gap))


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
