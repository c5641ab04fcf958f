"""Crops, flips, rotations and boxes: parameters from keyed draws, pixels by torchvision's functional kernels.

Each function takes the torchvision transform (its arguments are used, not its random draws), one image (3, H, W) and
the image's own draws; those called `..._batch` take uint8 (n, H, W, 3) and draws (n, k), and give the same pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2

Draws = npt.NDArray[np.float64]
Size = tuple[int, int]

_TRIES = 10  # torchvision's number of tries for a box that fits
BOX_DRAWS = 2 * _TRIES + 2


def _crop_padding(t: v2.RandomCrop, height: int, width: int) -> list[int]:
    """Return [left, top, right, bottom], with what `pad_if_needed` adds."""
    left, right, top, bottom = t.padding or (0, 0, 0, 0)
    if t.pad_if_needed:
        more_h = max(t.size[0] - height - top - bottom, 0)
        more_w = max(t.size[1] - width - left - right, 0)
        left, right, top, bottom = left + more_w, right + more_w, top + more_h, bottom + more_h
    return [left, top, right, bottom]


def _crop_corners(t: v2.RandomCrop, size: Size, draws: Draws) -> tuple[Any, Any]:
    """Return top and left of the window in the padded image, for draws (2,) or (n, 2)."""
    height, width = size
    if height < t.size[0] or width < t.size[1]:
        raise ValueError(f"RandomCrop of {t.size[0]}×{t.size[1]} from an image of {height}×{width} (with padding)")
    top = (draws[..., 0] * (height - t.size[0] + 1)).astype(np.int64)
    left = (draws[..., 1] * (width - t.size[1] + 1)).astype(np.int64)
    return top, left


def random_crop(t: v2.RandomCrop, image: Tensor, draws: Draws) -> Tensor:
    """Pad, and cut a window at a random place."""
    height, width = F.get_size(image)
    padding = _crop_padding(t, height, width)
    if any(padding):
        image = F.pad(image, padding, fill=t.fill, padding_mode=t.padding_mode)
    top, left = _crop_corners(t, tuple(F.get_size(image)), draws)
    return F.crop(image, int(top), int(left), *t.size)


def random_crop_batch(t: v2.RandomCrop, images: Pixels, draws: Draws) -> Pixels:
    """Pad a batch, and cut a window of each image at a random place of its own."""
    padding = _crop_padding(t, images.shape[1], images.shape[2])
    padded = _pad_batch(t, images, padding) if any(padding) else images
    top, left = _crop_corners(t, padded.shape[1:3], draws)
    return _windows(padded, top, left, t.size)


def _pad_batch(t: v2.RandomCrop, images: Pixels, padding: list[int]) -> Pixels:
    left, top, right, bottom = padding
    if t.padding_mode != "constant" or t.fill != 0:
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
        padded = F.pad(tensor, padding, fill=t.fill, padding_mode=t.padding_mode)
        return np.ascontiguousarray(padded.permute(0, 2, 3, 1).numpy())
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + top + bottom, width + left + right, channels), np.uint8)
    padded[:, top : top + height, left : left + width] = images
    return padded


def _windows(images: Pixels, top: npt.NDArray[np.int64], left: npt.NDArray[np.int64], size: Size) -> Pixels:
    """Cut one window out of each image of a contiguous batch.

    The rows of all windows are gathered by one numpy index over opaque elements of a row's length: 3 times faster
    than torch's strided windows, which move every byte on its own.
    """
    n, height, width, channels = images.shape
    row = np.dtype((np.void, size[1] * channels))
    flat = np.ascontiguousarray(images).reshape(-1)
    every_start = np.ndarray((flat.size - row.itemsize + 1,), row, flat, 0, (1,))
    corner = (np.arange(n) * height + top) * (width * channels) + left * channels
    starts = corner[:, None] + np.arange(size[0]) * (width * channels)
    return every_start[starts.reshape(-1)].view(np.uint8).reshape(n, *size, channels)


def horizontal_flip(t: Any, image: Tensor, draws: Draws) -> Tensor:
    """Mirror left to right with probability p."""
    return F.horizontal_flip(image) if draws[0] < t.p else image


def vertical_flip(t: Any, image: Tensor, draws: Draws) -> Tensor:
    """Mirror top to bottom with probability p."""
    return F.vertical_flip(image) if draws[0] < t.p else image


def horizontal_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Mirror some images of a batch, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    if len(chosen):
        images[chosen] = _mirrored(images[chosen])
    return images


def vertical_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Turn some images of a batch upside down, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    images[chosen] = images[chosen, ::-1]
    return images


def _mirrored(images: Pixels) -> Pixels:
    n, height, width, channels = images.shape
    # All rows as one tall image: one call instead of n.
    flipped: Pixels = np.asarray(cv2.flip(images.reshape(n * height, width, channels), 1), np.uint8)
    return flipped.reshape(images.shape)


def random_resized_crop(t: v2.RandomResizedCrop, image: Tensor, draws: Draws) -> Tensor:
    """Cut a box of random area and aspect and resize it."""
    height, width = F.get_size(image)
    box = _box_that_fits(height, width, t.scale, t.ratio, draws) or _central_box(height, width, t.ratio)
    return F.resized_crop(image, *box, size=t.size, interpolation=t.interpolation, antialias=t.antialias)


def _box_that_fits(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: Draws
) -> tuple[int, int, int, int] | None:
    """Return (top, left, height, width) of torchvision's random box, or None if ten tries found none."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(_TRIES):
        area = height * width * between(draws[2 * k], *scale)
        aspect = math.exp(between(draws[2 * k + 1], low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    return None


def _central_box(height: int, width: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    h, w = height, width
    if width / height < min(ratio):
        h = round(width / min(ratio))
    elif width / height > max(ratio):
        w = round(height * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def random_rotation(t: v2.RandomRotation, image: Tensor, draws: Draws) -> Tensor:
    """Rotate by a random angle."""
    angle = between(draws[0], *t.degrees)
    return F.rotate(image, angle, interpolation=t.interpolation, expand=t.expand, center=t.center, fill=t.fill)


def random_affine(t: v2.RandomAffine, image: Tensor, draws: Draws) -> Tensor:
    """Rotate, shift, scale and shear at random."""
    height, width = F.get_size(image)
    reach_x, reach_y = (t.translate[0] * width, t.translate[1] * height) if t.translate else (0.0, 0.0)
    shear_x = between(draws[4], t.shear[0], t.shear[1]) if t.shear else 0.0
    shear_y = between(draws[5], t.shear[2], t.shear[3]) if t.shear and len(t.shear) == 4 else 0.0
    return F.affine(
        image,
        angle=between(draws[0], *t.degrees),
        translate=[round(between(draws[1], -reach_x, reach_x)), round(between(draws[2], -reach_y, reach_y))],
        scale=between(draws[3], *t.scale) if t.scale else 1.0,
        shear=[shear_x, shear_y],
        interpolation=t.interpolation,
        fill=t.fill,
        center=t.center,
    )


def random_erasing(t: v2.RandomErasing, image: Tensor, draws: Draws) -> Tensor:
    """Blot out a random box with probability p."""
    if draws[0] >= t.p:
        return image
    _, height, width = image.shape
    box = _erased_box(height, width, t, draws[2:])
    if box is None:
        return image
    top, left, h, w = box
    if t.value is None:
        generator = torch.Generator().manual_seed(int(draws[1] * (1 << 53)))
        value = torch.randn((3, h, w), generator=generator)
    else:
        value = torch.tensor(t.value)[:, None, None]
    return F.erase(image, top, left, h, w, value)


def _erased_box(height: int, width: int, t: v2.RandomErasing, draws: Draws) -> tuple[int, int, int, int] | None:
    low, high = math.log(t.ratio[0]), math.log(t.ratio[1])
    for k in range(_TRIES):
        area = height * width * between(draws[2 * k], *t.scale)
        aspect = math.exp(between(draws[2 * k + 1], low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    return None


def size_of_resize(t: v2.Resize, size: Size | None) -> Size | None:
    """Return the size after Resize; None where it depends on the image."""
    wanted = t.size
    if wanted is not None and len(wanted) == 2:
        return wanted[0], wanted[1]
    return None if size is None or size[0] != size[1] or wanted is None else (wanted[0], wanted[0])


def size_of_pad(t: v2.Pad, size: Size | None) -> Size | None:
    """Return the size after Pad."""
    if size is None:
        return None
    left, top, right, bottom = _four_sides(t.padding)
    return size[0] + top + bottom, size[1] + left + right


def _four_sides(padding: Any) -> tuple[int, int, int, int]:
    values = [padding] if isinstance(padding, int) else list(padding)
    match values:
        case [a]:
            return a, a, a, a
        case [a, b]:
            return a, b, a, b
        case [a, b, c, d]:
            return a, b, c, d
    raise ValueError(f"padding must be 1, 2 or 4 numbers, found {padding}")


def own_size(t: Any, _size: Size | None) -> Size | None:
    """Return the size that the transform itself names."""
    return t.size[0], t.size[1]


def size_of_rotation(t: v2.RandomRotation, size: Size | None) -> Size | None:
    """Return the size after RandomRotation; None where it expands."""
    return None if t.expand else size


def between(draw: float, low: float, high: float) -> float:
    """Return the value that a draw in [0, 1) means between low and high."""
    return low + float(draw) * (high - low)
