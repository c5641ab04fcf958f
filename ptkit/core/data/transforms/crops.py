"""Windows cut out of images: at a random place, or five and ten at fixed ones.

Parameters come from keyed draws, pixels are those of torchvision's functional kernels. Each
function takes the torchvision transform (its arguments are used, not its random draws), one image
(C, H, W) and the image's own draws; those called `..._batch` take uint8 (n, H, W, C) and draws (n,
k), `..._floats` float (n, C, H, W), and give the same; `..._device` too, for uint8 and draws that
are tensors on the training device.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.spec import (
    CROPS_NEED_TENSOR,
    FILL,
    PADDING,
    PADDING_MODE,
    SIZE,
    Draws,
    Size,
    Spec,
    own_size,
)
from ptkit.core.device import constant
from ptkit.core.parts.argument_rules import flag
from ptkit.core.parts.calls import Call

# Of borders that mirror the image, how many of its last pixels are not in the mirror: "reflect" is
# 2 1 0 1 2, "symmetric" is 1 0 0 1.
_SPARE = {"reflect": 1, "symmetric": 0}


def random_crop(t: v2.RandomCrop, image: Tensor, draws: Draws) -> Tensor:
    """Pad, and cut a window at a random place."""
    height, width = F.get_size(image)
    padding = _crop_padding(t, height, width)
    if any(padding):
        image = F.pad(image, padding, fill=t.fill, padding_mode=t.padding_mode)
    top, left = _crop_corners(t, tuple(F.get_size(image)), draws)
    window: Tensor = F.crop(image, int(top), int(left), *t.size)
    return window


def can_cut_into(t: v2.RandomCrop) -> bool:
    """Say whether `window_into` can do what `random_crop` does."""
    return t.padding is None and not t.pad_if_needed


def window_into(
    t: v2.RandomCrop, pixels: Pixels, draws: Draws, *, out: Pixels, reduction: None
) -> None:
    """Cut a window of an image (H, W, C) at a random place, into `out` (1, h, w, C)."""
    top, left = _crop_corners(t, pixels.shape[:2], draws)
    out[0] = pixels[top : top + t.size[0], left : left + t.size[1]]


def central_window(t: v2.CenterCrop, pixels: Pixels) -> Pixels | None:
    """Return the central window of an image (H, W, C), a view; None where it needs a border."""
    height, width = t.size
    if pixels.shape[0] < height or pixels.shape[1] < width:
        return None
    # As torchvision rounds.
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def random_crop_batch(t: v2.RandomCrop, images: Pixels, draws: Draws) -> Pixels:
    """Pad a batch, and cut a window of each image at a random place of its own."""
    padding = _crop_padding(t, images.shape[1], images.shape[2])
    padded = _pad_batch(t, images, padding) if any(padding) else images
    top, left = _crop_corners(t, padded.shape[1:3], draws)
    return _windows(padded, top, left, t.size)


def random_crop_device(t: v2.RandomCrop, images: Tensor, draws: Tensor) -> Tensor:
    """Cut a window of each padded image, by its rows and columns: no padded copy is made."""
    n, height, width, _ = images.shape
    left, top, right, bottom = _crop_padding(t, height, width)
    spare = _SPARE.get(t.padding_mode, -math.inf)
    # As torch does, refuse a border that mirrors more of the image than there is.
    if max(top, bottom) > height - spare or max(left, right) > width - spare:
        raise ValueError(
            f"padding of {max(left, top, right, bottom)} pixels, {t.padding_mode}, around an image"
            f" of {height}×{width}"
        )
    tops, lefts = _crop_corners(t, (height + top + bottom, width + left + right), draws)
    rows, is_row = _sources(tops - top, t.size[0], height, mode=t.padding_mode)
    columns, is_column = _sources(lefts - left, t.size[1], width, mode=t.padding_mode)
    number = torch.arange(n, device=images.device)
    windows = images[number[:, None, None], rows[:, :, None], columns[:, None, :]]
    if t.padding_mode != "constant" or not any((left, top, right, bottom)):
        return windows
    fill = constant(t.fill or 0, images.device, dtype=torch.uint8)
    return torch.where((is_row[:, :, None] & is_column[:, None, :])[..., None], windows, fill)


def central_crop(t: v2.RandomCrop, size: Size | None) -> tuple[Call, ...]:
    """Return the calls that cut a window of that size out of the centre; none where it is all."""
    height, width = t.size
    if size == (height, width):
        return ()
    centre = Call("CenterCrop", (height if height == width else (height, width),))
    fits = size is not None and size[0] >= height and size[1] >= width
    padding = _crop_padding(t, *(size or t.size))
    # CenterCrop pads too, but always with black.
    if fits or not any(padding) or (t.padding_mode == "constant" and not t.fill):
        return (centre,)
    how = {"padding_mode": t.padding_mode} if t.padding_mode != "constant" else {"fill": t.fill}
    return Call("Pad", (padding,), how), centre


def is_whole(t: v2.RandomCrop, size: Size | None) -> bool:
    """Say whether the only window of that size is the image itself."""
    return size == tuple(t.size) and not any(_crop_padding(t, *size))


def several_crops(t: Any, images: Tensor, _draws: Draws) -> Tensor:
    """Return the crops of one image, (count, C, h, w), in torchvision's order; or of float images
    (n, C, H, W), as (n * count, C, h, w), image by image.
    """
    return torch.stack(_crops_of(t, images), dim=-4).flatten(0, -4)


def several_crops_batch(t: Any, images: Pixels, _draws: Draws) -> Pixels:
    """Return all crops, (n * count, h, w, C), image by image."""
    wholes = [images]
    if isinstance(t, v2.TenCrop):
        # torch's flip would move byte by byte.
        mirrored = [cv2.flip(image, 0 if t.vertical_flip else 1) for image in images]
        # Of a single channel OpenCV drops the dimension.
        wholes.append(np.stack(mirrored).reshape(images.shape))
    tensors = (torch.from_numpy(whole).permute(0, 3, 1, 2) for whole in wholes)
    views = [view for tensor in tensors for view in F.five_crop(tensor, t.size)]
    crops = np.empty((len(images), len(views), *t.size, images.shape[-1]), np.uint8)
    for number, view in enumerate(views):
        crops[:, number] = view.permute(0, 2, 3, 1).numpy()
    return crops.reshape(-1, *crops.shape[2:])


def several_crops_device(t: Any, images: Tensor, _draws: Tensor) -> Tensor:
    """Return all crops, (n * count, h, w, C), image by image."""
    views = [view.permute(0, 2, 3, 1) for view in _crops_of(t, images.permute(0, 3, 1, 2))]
    return torch.stack(views, dim=1).flatten(0, 1)


def _crops_of(t: Any, images: Tensor) -> tuple[Tensor, ...]:
    if isinstance(t, v2.TenCrop):
        return tuple(F.ten_crop(images, t.size, vertical_flip=t.vertical_flip))
    return tuple(F.five_crop(images, t.size))


def _crop_padding(t: v2.RandomCrop, height: int, width: int) -> list[int]:
    """Return [left, top, right, bottom], with what `pad_if_needed` adds."""
    left, right, top, bottom = t.padding or (0, 0, 0, 0)
    if t.pad_if_needed:
        more_h = max(t.size[0] - height - top - bottom, 0)
        more_w = max(t.size[1] - width - left - right, 0)
        left, right, top, bottom = left + more_w, right + more_w, top + more_h, bottom + more_h
    return [left, top, right, bottom]


def _crop_corners(t: v2.RandomCrop, size: Size, draws: Draws | Tensor) -> tuple[Any, Any]:
    """Return top and left of the window in the padded image, for draws (2,) or (n, 2)."""
    height, width = size
    if height < t.size[0] or width < t.size[1]:
        raise ValueError(
            f"RandomCrop of {t.size[0]}×{t.size[1]} from an image of {height}×{width} (with"
            " padding)"
        )
    top, left = draws[..., 0] * (height - t.size[0] + 1), draws[..., 1] * (width - t.size[1] + 1)
    if isinstance(draws, Tensor):
        return top.long(), left.long()
    return top.astype(np.int64), left.astype(np.int64)


def _sources(starts: Tensor, count: int, length: int, *, mode: str) -> tuple[Tensor, Tensor]:
    """Return which pixels of a side of `length` lie in windows of `count` that begin at `starts`
    (n,).

    Both results are (n, count): places inside the image, and whether that pixel is the image's own.
    """
    places = starts[:, None] + torch.arange(count, device=starts.device)
    is_own = (places >= 0) & (places < length)
    if mode in _SPARE:
        period = max(2 * (length - _SPARE[mode]), 1)
        places = places.remainder(period)
        places = torch.minimum(places, period - 1 + _SPARE[mode] - places)
    return places.clamp(0, length - 1), is_own


def _pad_batch(t: v2.RandomCrop, images: Pixels, padding: list[int]) -> Pixels:
    left, top, right, bottom = padding
    if t.padding_mode != "constant" or t.fill != 0:
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
        padded = F.pad(tensor, padding, fill=t.fill, padding_mode=t.padding_mode)
        return np.ascontiguousarray(padded.permute(0, 2, 3, 1).numpy())
    n, height, width, channels = images.shape
    # Zeros are the usual case: whole rows are copied, where F.pad would go through planes.
    padded = np.zeros((n, height + top + bottom, width + left + right, channels), np.uint8)
    rows = padded.reshape(n, padded.shape[1], padded.shape[2] * channels)
    inside = rows[:, top : top + height, left * channels : (left + width) * channels]
    row = _row(width * channels)
    whole = np.ascontiguousarray(images).reshape(n, height, width * channels)
    inside.view(row)[:] = whole.view(row)
    return padded


def _windows(
    images: Pixels, top: npt.NDArray[np.int64], left: npt.NDArray[np.int64], size: Size
) -> Pixels:
    """Cut one window out of each image of a batch."""
    n, height, width, channels = images.shape
    # A view of the rows of every possible window, which overlap in memory. One numpy index copies
    # those of each image's window: 4 times faster than torch's strided windows, which move every
    # byte on its own.
    shape = (n, height - size[0] + 1, width - size[1] + 1, size[0])
    whole, across = height * width * channels, width * channels
    strides = (whole, across, channels, across)
    rows = np.ndarray(shape, _row(size[1] * channels), np.ascontiguousarray(images), 0, strides)
    windows: Pixels = rows[np.arange(n), top, left].view(np.uint8)
    return windows.reshape(n, *size, channels)


def _row(num_bytes: int) -> np.dtype[np.void]:
    """Return the type of a row of pixels, which numpy moves as one piece."""
    return np.dtype((np.void, num_bytes))


_FIVE_CROP = Spec(
    v2.FiveCrop,
    "the four corners and the centre: five images of each",
    arguments={"size": SIZE},
    example="12",
    apply=several_crops,
    batch=several_crops_batch,
    device=several_crops_device,
    floats=several_crops,
    size=own_size,
    refuses=CROPS_NEED_TENSOR,
    is_crop=True,
    num_crops=5,
    moves_pixels=True,
)
SPECS = (
    Spec(
        v2.CenterCrop,
        "cut the centre",
        arguments={"size": SIZE},
        example="14",
        size=own_size,
        is_crop=True,
        can_keep=True,
        of_pixels=central_window,
    ),
    _FIVE_CROP,
    replace(
        _FIVE_CROP,
        target=v2.TenCrop,
        summary="the five crops and their mirror images: ten images of each",
        arguments={"size": SIZE, "vertical_flip": flag()},
        num_crops=10,
        mirrors=True,
    ),
    Spec(
        v2.RandomCrop,
        "cut at a random place, after padding",
        arguments={
            "size": SIZE,
            "padding": PADDING,
            "pad_if_needed": flag(),
            "fill": FILL,
            "padding_mode": PADDING_MODE,
        },
        example="16, padding=2",
        draws=2,
        apply=random_crop,
        batch=random_crop_batch,
        device=random_crop_device,
        into=window_into,
        can_into=can_cut_into,
        size=own_size,
        in_evaluation=central_crop,
        changes_nothing=is_whole,
        is_crop=True,
        moves_pixels=True,
    ),
)
