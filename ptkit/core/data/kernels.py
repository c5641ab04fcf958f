"""How each random transform is drawn from keyed numbers and applied with torchvision's own functional kernels.

torchvision's classes draw from torch's global generator, which threads and the model's dropout share. So of a class
only the arguments are used: the parameters are drawn here, with its distributions, from `keyed.uniforms`.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms import ToTensor

Draws = npt.NDArray[np.float64]
Size = tuple[int, int]

_TRIES = 10  # torchvision's number of tries for a box that fits
_BOX_DRAWS = 2 * _TRIES + 2


@dataclass(frozen=True)
class Kernel:
    """One transform class.

    draws: how many uniform numbers one image takes.
    apply: (transform, image (3, H, W), draws (k,)) -> image.
    batch: the same on uint8 (n, H, W, 3) with draws (n, k), where there is such a form; it may change its input.
    size: (transform, (h, w) or None where unknown) -> the size afterwards.
    """

    draws: Callable[[Any], int]
    apply: Callable[[Any, Any, Draws], Any]
    batch: Callable[[Any, Pixels, Draws], Pixels] | None = None
    size: Callable[[Any, Size | None], Size | None] = lambda _transform, size: size


def kernel_of(transform: Any) -> Kernel:
    """Return the kernel of a transform; a foreign one (a user's own, AutoAugment) is seeded anew for each image."""
    return KERNELS.get(type(transform), _FOREIGN)


def is_foreign(transform: Any) -> bool:
    """Say whether the transform, or one inside it, draws from global generators: it must run in a worker process."""
    if type(transform) in _CONTAINERS:
        return any(is_foreign(inner) for inner in transform.transforms)
    return type(transform) not in KERNELS


# -------------------------------------------------------------------------------------------------------- geometry


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


def _random_crop(t: v2.RandomCrop, image: Tensor, draws: Draws) -> Tensor:
    height, width = F.get_size(image)
    padding = _crop_padding(t, height, width)
    if any(padding):
        image = F.pad(image, padding, fill=t.fill, padding_mode=t.padding_mode)
    top, left = _crop_corners(t, tuple(F.get_size(image)), draws)
    return F.crop(image, int(top), int(left), *t.size)


def _random_crop_batch(t: v2.RandomCrop, images: Pixels, draws: Draws) -> Pixels:
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


def _flip(axis: int) -> Kernel:
    """Return the kernel of a flip with probability `p`; axis: cv2's code, 1 horizontal, 0 vertical."""
    flip_image = F.horizontal_flip if axis == 1 else F.vertical_flip

    def apply(t: Any, image: Tensor, draws: Draws) -> Tensor:
        return flip_image(image) if draws[0] < t.p else image

    def batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
        chosen = np.flatnonzero(draws[:, 0] < t.p)
        if len(chosen):
            images[chosen] = _flipped(images[chosen], axis)
        return images

    return Kernel(lambda _t: 1, apply, batch)


def _flipped(images: Pixels, axis: int) -> Pixels:
    if axis == 0:
        return images[:, ::-1]
    n, height, width, channels = images.shape
    # All rows as one tall image: one call instead of n.
    flipped: Pixels = np.asarray(cv2.flip(images.reshape(n * height, width, channels), 1), np.uint8)
    return flipped.reshape(images.shape)


def _random_resized_crop(t: v2.RandomResizedCrop, image: Tensor, draws: Draws) -> Tensor:
    height, width = F.get_size(image)
    box = _box_that_fits(height, width, t.scale, t.ratio, draws) or _central_box(height, width, t.ratio)
    return F.resized_crop(image, *box, size=t.size, interpolation=t.interpolation, antialias=t.antialias)


def _box_that_fits(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: Draws
) -> tuple[int, int, int, int] | None:
    """Return (top, left, height, width) of torchvision's random box, or None if ten tries found none."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(_TRIES):
        area = height * width * _between(draws[2 * k], *scale)
        aspect = math.exp(_between(draws[2 * k + 1], low, high))
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


def _random_rotation(t: v2.RandomRotation, image: Tensor, draws: Draws) -> Tensor:
    angle = _between(draws[0], *t.degrees)
    return F.rotate(image, angle, interpolation=t.interpolation, expand=t.expand, center=t.center, fill=t.fill)


def _random_affine(t: v2.RandomAffine, image: Tensor, draws: Draws) -> Tensor:
    height, width = F.get_size(image)
    reach_x, reach_y = (t.translate[0] * width, t.translate[1] * height) if t.translate else (0.0, 0.0)
    shear_x = _between(draws[4], t.shear[0], t.shear[1]) if t.shear else 0.0
    shear_y = _between(draws[5], t.shear[2], t.shear[3]) if t.shear and len(t.shear) == 4 else 0.0
    return F.affine(
        image,
        angle=_between(draws[0], *t.degrees),
        translate=[round(_between(draws[1], -reach_x, reach_x)), round(_between(draws[2], -reach_y, reach_y))],
        scale=_between(draws[3], *t.scale) if t.scale else 1.0,
        shear=[shear_x, shear_y],
        interpolation=t.interpolation,
        fill=t.fill,
        center=t.center,
    )


# ---------------------------------------------------------------------------------------------------------- colour


def _color_jitter(t: v2.ColorJitter, image: Tensor, draws: Draws) -> Tensor:
    steps = (
        (F.adjust_brightness, t.brightness),
        (F.adjust_contrast, t.contrast),
        (F.adjust_saturation, t.saturation),
        (F.adjust_hue, t.hue),
    )
    for k in np.argsort(draws[:4], kind="stable"):
        adjust, span = steps[k]
        if span is not None:
            image = adjust(image, _between(draws[4 + k], *span))
    return image


def _random_grayscale(t: v2.RandomGrayscale, image: Tensor, draws: Draws) -> Tensor:
    return F.rgb_to_grayscale(image, num_output_channels=3) if draws[0] < t.p else image


def _random_erasing(t: v2.RandomErasing, image: Tensor, draws: Draws) -> Tensor:
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
        area = height * width * _between(draws[2 * k], *t.scale)
        aspect = math.exp(_between(draws[2 * k + 1], low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    return None


# ------------------------------------------------------------------------------------------------------ containers


def _sum_of_draws(transforms: Sequence[Any]) -> int:
    return sum(kernel_of(inner).draws(inner) for inner in transforms)


def _random_apply(t: v2.RandomApply, image: Tensor, draws: Draws) -> Tensor:
    if draws[0] >= t.p:
        return image
    for inner, some in zip(t.transforms, _shares(t.transforms, draws[1:]), strict=True):
        image = kernel_of(inner).apply(inner, image, some)
    return image


def _random_choice(t: v2.RandomChoice, image: Tensor, draws: Draws) -> Tensor:
    k = min(int(np.searchsorted(np.cumsum(t.p), draws[0], side="right")), len(t.transforms) - 1)
    inner = t.transforms[k]
    return kernel_of(inner).apply(inner, image, _shares(t.transforms, draws[1:])[k])


def _random_order(t: v2.RandomOrder, image: Tensor, draws: Draws) -> Tensor:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[count:])
    for k in np.argsort(draws[:count], kind="stable"):
        image = kernel_of(t.transforms[k]).apply(t.transforms[k], image, shares[k])
    return image


def _shares(transforms: Sequence[Any], draws: Draws) -> list[Draws]:
    """Return each transform's own part of the draws."""
    ends = np.cumsum([kernel_of(inner).draws(inner) for inner in transforms])
    return np.split(draws, ends[:-1])


# ----------------------------------------------------------------------------------------------------------- tables


def _foreign(transform: Any, image: Any, draws: Draws) -> Any:
    """Apply a transform that draws from global generators, after seeding all of them for this one image."""
    key = int(draws[0] * (1 << 53))
    torch.default_generator.manual_seed(key)
    np.random.seed(key % (1 << 32))
    random.seed(key)
    result = transform(image)
    if not isinstance(result, Tensor | Image):
        raise TypeError(f"it must return a tensor or a PIL image, found {type(result).__name__}")
    return result


def _between(draw: float, low: float, high: float) -> float:
    return low + float(draw) * (high - low)


def _fixed(transform: Any, image: Any, _draws: Draws) -> Any:
    return transform(image)


def _nothing(_transform: Any) -> int:
    return 0


def _resized(t: v2.Resize, size: Size | None) -> Size | None:
    wanted = t.size
    if wanted is not None and len(wanted) == 2:
        return wanted[0], wanted[1]
    return None if size is None or size[0] != size[1] or wanted is None else (wanted[0], wanted[0])


def _padded(t: v2.Pad, size: Size | None) -> Size | None:
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


def _own_size(t: Any, _size: Size | None) -> Size | None:
    return t.size[0], t.size[1]


def _rotated(t: v2.RandomRotation, size: Size | None) -> Size | None:
    return None if t.expand else size


_CONTAINERS = (v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_FOREIGN = Kernel(lambda _t: 1, _foreign, size=lambda _t, _size: None)


def _contained_size(t: Any, size: Size | None) -> Size | None:
    """Return the size if no inner transform can change it."""
    sizes = {kernel_of(inner).size(inner, size) for inner in t.transforms}
    return size if sizes == {size} else None


KERNELS: dict[type, Kernel] = {
    v2.Resize: Kernel(_nothing, _fixed, size=_resized),
    v2.CenterCrop: Kernel(_nothing, _fixed, size=_own_size),
    v2.Pad: Kernel(_nothing, _fixed, size=_padded),
    v2.Grayscale: Kernel(_nothing, _fixed),
    v2.ToPILImage: Kernel(_nothing, _fixed),
    ToTensor: Kernel(_nothing, _fixed),
    v2.Normalize: Kernel(_nothing, _fixed),
    v2.RandomCrop: Kernel(lambda _t: 2, _random_crop, _random_crop_batch, _own_size),
    v2.RandomResizedCrop: Kernel(lambda _t: _BOX_DRAWS, _random_resized_crop, size=_own_size),
    v2.RandomHorizontalFlip: _flip(1),
    v2.RandomVerticalFlip: _flip(0),
    v2.RandomRotation: Kernel(lambda _t: 1, _random_rotation, size=_rotated),
    v2.RandomAffine: Kernel(lambda _t: 6, _random_affine),
    v2.ColorJitter: Kernel(lambda _t: 8, _color_jitter),
    v2.RandomGrayscale: Kernel(lambda _t: 1, _random_grayscale),
    v2.RandomErasing: Kernel(lambda _t: 2 + _BOX_DRAWS, _random_erasing),
    v2.RandomApply: Kernel(lambda t: 1 + _sum_of_draws(t.transforms), _random_apply, size=_contained_size),
    v2.RandomChoice: Kernel(lambda t: 1 + _sum_of_draws(t.transforms), _random_choice, size=_contained_size),
    v2.RandomOrder: Kernel(
        lambda t: len(t.transforms) + _sum_of_draws(t.transforms), _random_order, size=_contained_size
    ),
}
