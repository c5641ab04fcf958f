"""How each random transform is drawn from keyed numbers and applied with torchvision's own functional kernels.

torchvision's classes draw from torch's global generator, which threads and the model's dropout share. So of a class
only the arguments are used: the parameters are drawn here, with its distributions, from `keyed.uniforms`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data import geometry
from ptkit.core.data.geometry import BOX_DRAWS, Draws, Size, between
from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms import ToTensor


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
            image = adjust(image, between(draws[4 + k], *span))
    return image


def _random_grayscale(t: v2.RandomGrayscale, image: Tensor, draws: Draws) -> Tensor:
    return F.rgb_to_grayscale(image, num_output_channels=3) if draws[0] < t.p else image


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


def _fixed(transform: Any, image: Any, _draws: Draws) -> Any:
    return transform(image)


def _nothing(_transform: Any) -> int:
    return 0


_CONTAINERS = (v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_FOREIGN = Kernel(lambda _t: 1, _foreign, size=lambda _t, _size: None)


def _contained_size(t: Any, size: Size | None) -> Size | None:
    """Return the size if no inner transform can change it."""
    sizes = {kernel_of(inner).size(inner, size) for inner in t.transforms}
    return size if sizes == {size} else None


KERNELS: dict[type, Kernel] = {
    v2.Resize: Kernel(_nothing, _fixed, size=geometry.size_of_resize),
    v2.CenterCrop: Kernel(_nothing, _fixed, size=geometry.own_size),
    v2.Pad: Kernel(_nothing, _fixed, size=geometry.size_of_pad),
    v2.Grayscale: Kernel(_nothing, _fixed),
    v2.ToPILImage: Kernel(_nothing, _fixed),
    ToTensor: Kernel(_nothing, _fixed),
    v2.Normalize: Kernel(_nothing, _fixed),
    v2.RandomCrop: Kernel(lambda _t: 2, geometry.random_crop, geometry.random_crop_batch, geometry.own_size),
    v2.RandomResizedCrop: Kernel(lambda _t: BOX_DRAWS, geometry.random_resized_crop, size=geometry.own_size),
    v2.RandomHorizontalFlip: Kernel(lambda _t: 1, geometry.horizontal_flip, geometry.horizontal_flip_batch),
    v2.RandomVerticalFlip: Kernel(lambda _t: 1, geometry.vertical_flip, geometry.vertical_flip_batch),
    v2.RandomRotation: Kernel(lambda _t: 1, geometry.random_rotation, size=geometry.size_of_rotation),
    v2.RandomAffine: Kernel(lambda _t: 6, geometry.random_affine),
    v2.ColorJitter: Kernel(lambda _t: 8, _color_jitter),
    v2.RandomGrayscale: Kernel(lambda _t: 1, _random_grayscale),
    v2.RandomErasing: Kernel(lambda _t: 2 + BOX_DRAWS, geometry.random_erasing),
    v2.RandomApply: Kernel(lambda t: 1 + _sum_of_draws(t.transforms), _random_apply, size=_contained_size),
    v2.RandomChoice: Kernel(lambda t: 1 + _sum_of_draws(t.transforms), _random_choice, size=_contained_size),
    v2.RandomOrder: Kernel(
        lambda t: len(t.transforms) + _sum_of_draws(t.transforms), _random_order, size=_contained_size
    ),
}
