"""The kernels of one layer from epoch to epoch, as the frames of a film and as an animated GIF."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ptkit.plots.fonts import font_families
from ptkit.plots.kernel_stats import draw_legend, kernel_colors, kernel_stats
from ptkit.plots.saving import pixels
from ptkit.plots.style import BLUE_RGB, FAINT_RGB, FRAME_RGB, INK, house_style, new_page
from ptkit.plots.tiles import enlarged, mosaic

MAX_TILES = 64

# Heights of the line with the epoch above the kernels, the time bar below them, and the legend.
_HEAD, _BAR, _LEGEND = 24, 5, 34
_SECONDS, _LAST_MS = 8, 2000


def film_frames(
    kernels: np.ndarray, epochs: Sequence[int], *, layer: str, num_outputs: int, footer: str = ""
) -> list[np.ndarray]:
    """Return a picture, uint8 (H, W, 3), for each epoch, all of one size and on one scale.

    kernels: (epochs, outputs, inputs, H, W). Three inputs are colours, of others each output's
    strongest input is shown. num_outputs: of the layer, of which the film may have fewer.
    """
    outputs = min(kernels.shape[1], MAX_TILES)
    maps, stats = _maps(kernels[:, :outputs]), kernel_stats(kernels.reshape(-1, *kernels.shape[2:]))
    columns = _num_columns(outputs)
    zoom = max(1, min(420 // columns, 96) // max(kernels.shape[3:]))
    colors = [kernel_colors(one, limit=stats.limit, scale="layer") for one in maps]
    mosaics = [mosaic(enlarged(c, zoom), columns, gap=3, fill=FRAME_RGB) for c in colors]
    first, last = (kernels[k].astype(np.float64) for k in (0, -1))
    moved = float(np.linalg.norm(last - first) / (np.linalg.norm(first) or 1))
    height, width = mosaics[0].shape[:2]
    is_rgb = kernels.shape[2] == 3
    end = _HEAD + height + _BAR
    answer = f"by {moved:.0%} of their norm at epoch {epochs[0]}"
    with house_style():
        page = new_page(
            width,
            end + 12 + _LEGEND,
            title=f"How do the kernels of {layer} move? {answer}",
            notes=[_note(kernels.shape, outputs, num_outputs)],
            footer=footer,
        )
        meaning = "each colour" if is_rgb else "weight"
        draw_legend(page, end + 14, stats, scale="layer", is_rgb=is_rgb, meaning=meaning)
        empty = pixels(page.figure)
    top, left = page.top + _HEAD, page.left
    return [
        _frame(empty, picture, epoch=epoch, last=epochs[-1], top=top, left=left)
        for picture, epoch in zip(mosaics, epochs, strict=True)
    ]


def gif_bytes(frames: Sequence[np.ndarray]) -> bytes:
    """Return frames, uint8 (H, W, 3), as an endless GIF of eight seconds that rests on the last."""
    # One palette for all frames, or still parts flicker.
    sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = Image.fromarray(sample).quantize(
        256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    colors = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    # The median of nearly white colours is not white, as a page is; and Pillow's search for the
    # nearest colour is coarse.
    colors[colors.min(axis=1) > 240] = 255
    palette.putpalette(colors.ravel().tolist())
    first, *others = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    each = min(500, max(60, 1000 * _SECONDS // len(frames)))
    durations = [each] * len(others) + [_LAST_MS]
    content = io.BytesIO()
    film: dict[str, Any] = {"save_all": True, "loop": 0, "optimize": False}
    first.save(content, "GIF", append_images=others, duration=durations, **film)
    return content.getvalue()


def _num_columns(count: int) -> int:
    """Return how many of `count` tiles make a row: few holes in the last row, wider than high."""
    wide = math.sqrt(1.6 * count)
    widths = range(math.ceil(wide * 0.75), math.ceil(wide * 1.6) + 1)
    return min(widths, key=lambda width: (-count % width, abs(width - wide)))


def _maps(kernels: np.ndarray) -> np.ndarray:
    """Return the parts of kernels that are drawn: (epochs, outputs, 1 or 3, H, W).

    kernels: (epochs, outputs, inputs, H, W).
    """
    if kernels.shape[2] in (1, 3):
        return kernels
    strongest = (kernels[-1] ** 2).sum(axis=(2, 3)).argmax(axis=1)
    return kernels[:, np.arange(kernels.shape[1]), strongest][:, :, None]


def _frame(
    empty: np.ndarray, picture: np.ndarray, *, epoch: int, last: int, top: int, left: int
) -> np.ndarray:
    frame = empty.copy()
    height, width = picture.shape[:2]
    frame[top : top + height, left : left + width] = picture
    bar = frame[top + height + 6 : top + height + 6 + _BAR, left : left + width]
    bar[:] = FAINT_RGB
    bar[:, : round(epoch / max(last, 1) * width)] = BLUE_RGB
    image, text = Image.fromarray(frame), f"epoch {epoch} of {last}"
    font = ImageFont.truetype(font_manager.findfont(font_families()[0]), 13)
    ImageDraw.Draw(image).text((left, top - _HEAD + 3), text, fill=INK, font=font)
    return np.asarray(image)


def _note(shape: tuple[int, ...], shown: int, num_outputs: int) -> str:
    _, _, inputs, height, width = shape
    how = {1: "Signed", 3: "RGB, grey is 0"}.get(inputs, "Signed, the strongest input of each")
    cap = f", the first {shown:,} shown" if shown < num_outputs else ""
    kernels = f"{num_outputs:,} output channels × {inputs:,}, kernels of {height}×{width}"
    return f"{kernels}{cap}. {how}."
