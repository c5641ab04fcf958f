"""Borders around images: of a given width, or as wide as a square needs.

Each function takes the transform and one image (C, H, W), a batch of uint8 (n, H, W, C), or floats
(n, C, H, W), as its name says; nothing here is random.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.spec import FILL, PADDING, PADDING_MODE, Draws, Size, Spec
from ptkit.core.device import constant


class PadToSquare(nn.Module):
    """Put an image into the centre of a square as wide as its longer side.

    fill: of the border, 0..255, a number for all channels or one for each.
    """

    def __init__(self, fill: float | Sequence[float] = 0) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, image: Any) -> Any:
        border = _border(*F.get_size(image))
        # A list of one number is no colour to Pillow.
        fill = _numbers(self.fill)
        return F.pad(image, border, fill=fill if len(fill) > 1 else fill[0])


def pad_pixels(t: PadToSquare, pixels: Pixels) -> Pixels:
    """Return an image (H, W, C) in its square, without a tensor; itself if it is one."""
    left, top, right, bottom = _border(*pixels.shape[:2])
    if not any((left, top, right, bottom)):
        return pixels
    square: Pixels = pad_batch(t, pixels[None], None)[0]
    return square


def pad_batch(t: PadToSquare, images: Pixels, _draws: Draws | None) -> Pixels:
    """Return a batch in its squares."""
    n, height, width, channels = images.shape
    left, top, _, _ = _border(height, width)
    side = max(height, width)
    squares = np.empty((n, side, side, channels), np.uint8)
    # A cast cuts fractions off, as torchvision does.
    fill = np.array(_numbers(t.fill)).astype(np.uint8)
    for border in (np.s_[:, :top], np.s_[:, top + height :]):
        squares[border] = fill
    rows = squares[:, top : top + height]
    rows[:, :, :left], rows[:, :, left + width :] = fill, fill
    rows[:, :, left : left + width] = images
    return squares


def pad_device(t: PadToSquare, images: Tensor, _draws: Tensor) -> Tensor:
    """Return uint8 (n, H, W, C) in its squares, on the device."""
    n, height, width, channels = images.shape
    left, top, _, _ = _border(height, width)
    side = max(height, width)
    fill = constant(t.fill, images.device, dtype=torch.uint8)
    squares = fill.expand(n, side, side, channels).clone(memory_format=torch.contiguous_format)
    squares[:, top : top + height, left : left + width] = images
    return squares


def _numbers(fill: float | Sequence[float]) -> list[float]:
    return list(fill) if isinstance(fill, Sequence) else [fill]


def _border(height: int, width: int) -> list[int]:
    """Return [left, top, right, bottom]; of an odd number the last pixel is right or below."""
    more_h, more_w = max(width - height, 0), max(height - width, 0)
    return [more_w // 2, more_h // 2, more_w - more_w // 2, more_h - more_h // 2]


def _square(_t: PadToSquare, size: Size | None) -> Size | None:
    return None if size is None else (max(size), max(size))


def _size_of_pad(t: v2.Pad, size: Size | None) -> Size | None:
    if size is None:
        return None
    sides = [t.padding] if isinstance(t.padding, int) else list(t.padding)
    # One number is for all sides, two are for left and right, and for top and bottom.
    left, top, right, bottom = (sides * 4)[:4]
    return size[0] + top + bottom, size[1] + left + right


SPECS = (
    Spec(
        v2.Pad,
        "add a border",
        arguments={"padding": PADDING, "fill": FILL, "padding_mode": PADDING_MODE},
        example="2",
        size=_size_of_pad,
        can_keep=True,
    ),
    Spec(
        PadToSquare,
        "centre the whole image in a square; then `Resize((S, S))` keeps its shape",
        arguments={"fill": FILL},
        batch=pad_batch,
        device=pad_device,
        floats=lambda t, images, _draws: t(images),
        size=_square,
        can_keep=True,
        of_pixels=pad_pixels,
    ),
)
