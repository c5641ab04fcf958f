"""Convolution kernels of one layer as a picture, from the bare weight tensor.

The shape (outputs, inputs, height, width) alone decides what is drawn: three inputs are
colours; one input (greyscale images, depthwise layers) is a sheet of signed maps; 1×1 is a matrix;
anything else is a grid with a row per output channel.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots.kernel_grid import grid_figure
from ptkit.plots.kernel_stats import (
    KernelStats,
    draw_legend,
    kernel_colors,
    kernel_notes,
    kernel_stats,
)
from ptkit.plots.style import (
    BAR_RGB,
    FRAME_RGB,
    MUTED,
    RED,
    RED_RGB,
    dead_text,
    house_style,
    new_page,
)
from ptkit.plots.tiles import enlarged, mosaic, num_columns

SCALES = ("layer", "kernel")
MAX_TILES = 256

# Below each kernel: a bar of three pixels and the channel's number.
_CAPTION = 17


@house_style()
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
    draw = _sheet_figure if inputs in (1, 3) and height * width > 1 else grid_figure
    title = dead_text(f"kernels of {layer} are dead", stats.is_dead)
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
        yield channel, mosaic(tiles, min(len(tiles), 16), fill=FRAME_RGB)


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
    page = new_page(picture.shape[1], picture.shape[0] + 40, notes=notes, **words)
    page.image(picture, 0, 0)
    height, width = tiles.shape[1] + 6, tiles.shape[2] + 6
    for k, channel in enumerate(shown):
        left, bottom = (k % columns) * width, (k // columns + 1) * height - 6
        color = RED if stats.is_dead[channel] else MUTED
        page.text(str(channel), left, bottom, va="bottom", size=6.5, color=color)
    draw_legend(page, picture.shape[0] + 8, stats, scale=scale, is_rgb=is_rgb)
    return page.figure


def _captioned(tiles: np.ndarray, stats: KernelStats, shown: np.ndarray) -> np.ndarray:
    """Add a frame, room for a caption with a norm bar, and a red cross over each dead kernel."""
    number, height, width, _ = tiles.shape
    result = np.full((number, height + 2 + _CAPTION, width + 2, 3), 255, np.uint8)
    result[:, : height + 2] = FRAME_RGB
    result[:, 1 : height + 1, 1 : width + 1] = tiles
    steps = np.linspace(0, 1, 2 * max(height, width))
    downwards = np.rint(steps * (height - 1)).astype(int)
    rightwards = np.rint(steps * (width - 1)).astype(int)
    for tile, channel in zip(result, shown, strict=True):
        tile[height + 4 : height + 7, : round((width + 2) * stats.norm_shares[channel])] = BAR_RGB
        if stats.is_dead[channel]:
            tile[[0, height + 1]] = RED_RGB
            tile[: height + 2, [0, width + 1]] = RED_RGB
            tile[1 + downwards, 1 + rightwards] = RED_RGB
            tile[1 + downwards, width - rightwards] = RED_RGB
    return result
