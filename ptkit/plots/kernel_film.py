"""The kernels of one layer from epoch to epoch, as the frames of a film and as an animated GIF."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ptkit.plots.fonts import font_families
from ptkit.plots.kernel_stats import draw_legend, kernel_colors, kernel_stats
from ptkit.plots.saving import pixels
from ptkit.plots.style import BLUE_RGB, FAINT_RGB, FRAME_RGB, INK, house_style, new_page
from ptkit.plots.tiles import enlarged, mosaic, num_columns

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
    _, outputs, inputs, *size = kernels.shape
    outputs, stats = min(outputs, MAX_TILES), kernel_stats(kernels.reshape(-1, inputs, *size))
    maps = kernels[:, :outputs]
    if inputs not in (1, 3):
        strongest = (maps[-1] ** 2).sum(axis=(2, 3)).argmax(axis=1)
        maps = maps[:, np.arange(outputs), strongest][:, :, None]
    columns = num_columns(outputs, ratio=1.6, narrowest=0.75, widest=1.6)
    zoom = max(1, min(420 // columns, 96) // max(size))
    colors = [kernel_colors(one, limit=stats.limit, scale="layer") for one in maps]
    mosaics = [mosaic(enlarged(c, zoom), columns, gap=3, fill=FRAME_RGB) for c in colors]
    first, last = (kernels[k].astype(np.float64) for k in (0, -1))
    moved = float(np.linalg.norm(last - first) / (np.linalg.norm(first) or 1))
    height, width = mosaics[0].shape[:2]
    is_rgb, end = inputs == 3, _HEAD + height + _BAR
    answer = f"by {moved:.0%} of their norm in {epochs[-1] - epochs[0]} epochs"
    title = f"How do the kernels of {layer} move? {answer}"
    how = {1: "Signed", 3: "RGB, grey is 0"}.get(inputs, "Signed, the strongest input of each")
    cap = f", the first {outputs:,} shown" if outputs < num_outputs else ""
    shape = f"{num_outputs:,} output channels × {inputs:,}, kernels of {size[0]}×{size[1]}"
    notes = [f"{shape}{cap}. {how}."]
    with house_style():
        page = new_page(width, end + 12 + _LEGEND, title=title, notes=notes, footer=footer)
        meaning = "each colour" if is_rgb else "weight"
        draw_legend(page, end + 14, stats, scale="layer", is_grey=is_rgb, meaning=meaning)
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
