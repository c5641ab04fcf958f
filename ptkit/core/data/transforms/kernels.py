"""How each random transform is drawn from keyed numbers and applied with torchvision's own functional kernels.

torchvision's classes draw from torch's global generator, which threads and the model's dropout share. So of a class
only the arguments are used: the parameters are drawn here, with its distributions, from `keyed.uniforms`.
"""

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

from ptkit.core.data.transforms import color, crops, erasing, flips, geometry, rotation
from ptkit.core.data.transforms.catalogue import ToTensor
from ptkit.core.data.transforms.geometry import BOX_DRAWS, Draws, Size
from ptkit.core.data.transforms.whitening import LinearTransformation, linear_floats

_LARGE = 1 << 16

# A function of (transform, images, draws (n, k)) that gives the images afterwards.
Form = Callable[[Any, Any, Draws], Any]


@dataclass(frozen=True)
class Kernel:
    """One transform class.

    draws: how many uniform numbers one image takes.
    apply: (transform, image (3, H, W), draws (k,)) -> image; crops of an image, (C, 3, H, W), share their draws.
    batch: the same on whole batches, uint8 (n, H, W, 3), where there is such a form; it may change its input.
    floats: the same on float batches (n, 3, H, W), on the device where they lie; it may change its input.
    size: (transform, (h, w) or None where unknown) -> the size afterwards.
    """

    draws: Callable[[Any], int]
    apply: Form
    batch: Form | None = None
    floats: Form | None = None
    size: Callable[[Any, Size | None], Size | None] = lambda _transform, size: size


def kernel_of(transform: Any) -> Kernel:
    """Return the kernel of a transform; a foreign one (a user's own, AutoAugment) is seeded anew for each image."""
    return KERNELS.get(type(transform), _FOREIGN)


def is_foreign(transform: Any) -> bool:
    """Say whether the transform, or one inside it, draws from global generators: it must run in a worker process."""
    if type(transform) in CONTAINERS:
        return any(is_foreign(inner) for inner in transform.transforms)
    return type(transform) not in KERNELS


def has_form(transform: Any, size: Size | None, *, of_floats: bool) -> bool:
    """Say whether a transform can run on whole batches of images of a size (None: any)."""
    kernel = kernel_of(transform)
    if (kernel.floats if of_floats else kernel.batch) is None:
        return False
    if isinstance(transform, v2.RandomRotation | v2.RandomAffine):
        return rotation.can_rotate_batch(transform, size)
    if type(transform) not in CONTAINERS:
        return True
    # Some images of a batch go through an inner transform and others do not: all must keep their size.
    inner = transform.transforms
    return all(has_form(t, size, of_floats=of_floats) and kernel_of(t).size(t, size) == size for t in inner)


# ------------------------------------------------------------------------------------------------------ containers


def _sum_of_draws(transforms: Sequence[Any]) -> int:
    return sum(kernel_of(inner).draws(inner) for inner in transforms)


def _random_apply(t: v2.RandomApply, image: Tensor, draws: Draws) -> Tensor:
    if draws[0] >= t.p:
        return image
    for inner, some in zip(t.transforms, _shares(t.transforms, draws[1:]), strict=True):
        image = kernel_of(inner).apply(inner, image, some)
    return image


def _random_apply_batch(t: v2.RandomApply, images: Any, draws: Draws) -> Any:
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    for inner, some in zip(t.transforms, _shares(t.transforms, draws[:, 1:]), strict=True):
        images = _on_some(inner, images, chosen, some)
    return images


def _random_choice(t: v2.RandomChoice, image: Tensor, draws: Draws) -> Tensor:
    k = int(_chosen(t, draws[0]))
    inner = t.transforms[k]
    return kernel_of(inner).apply(inner, image, _shares(t.transforms, draws[1:])[k])


def _random_choice_batch(t: v2.RandomChoice, images: Any, draws: Draws) -> Any:
    choices = _chosen(t, draws[:, 0])
    for k, (inner, some) in enumerate(zip(t.transforms, _shares(t.transforms, draws[:, 1:]), strict=True)):
        images = _on_some(inner, images, np.flatnonzero(choices == k), some)
    return images


def _random_order(t: v2.RandomOrder, image: Tensor, draws: Draws) -> Tensor:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[count:])
    for k in np.argsort(draws[:count], kind="stable"):
        image = kernel_of(t.transforms[k]).apply(t.transforms[k], image, shares[k])
    return image


def _random_order_batch(t: v2.RandomOrder, images: Any, draws: Draws) -> Any:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[:, count:])
    order = np.argsort(draws[:, :count], axis=1, kind="stable")
    for place in range(count):
        for k, inner in enumerate(t.transforms):
            images = _on_some(inner, images, np.flatnonzero(order[:, place] == k), shares[k])
    return images


def _chosen(t: v2.RandomChoice, draws: Any) -> Any:
    return np.minimum(np.searchsorted(np.cumsum(t.p), draws, side="right"), len(t.transforms) - 1)


def _shares(transforms: Sequence[Any], draws: Draws) -> list[Draws]:
    """Return each transform's own columns of the draws, (k,) or (n, k)."""
    ends = np.cumsum([kernel_of(inner).draws(inner) for inner in transforms])
    return np.split(draws, ends[:-1], axis=-1)


def _on_some(inner: Any, images: Any, chosen: npt.NDArray[np.int64], draws: Draws) -> Any:
    """Apply a transform to some images of a batch, pixels or floats."""
    kernel = kernel_of(inner)
    form = kernel.floats if isinstance(images, Tensor) else kernel.batch
    assert form is not None
    if len(chosen) == len(images):
        return form(inner, images, draws)
    if isinstance(images, Tensor):
        index = torch.from_numpy(chosen).to(images.device)
        if len(chosen):
            images[index] = form(inner, images[index], draws[chosen])
    # Large images one by one where they lie: copies of some of them would not stay in a core's cache.
    elif images[0].nbytes > _LARGE:
        for some in (slice(k, k + 1) for k in chosen.tolist()):
            changed = form(inner, images[some], draws[some])
            if not np.may_share_memory(changed, images):
                images[some] = changed
    elif len(chosen):
        images[chosen] = form(inner, images[chosen], draws[chosen])
    return images


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


def _one(_transform: Any) -> int:
    return 1


CONTAINERS = (v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_FOREIGN = Kernel(_one, _foreign, size=lambda _t, _size: None)


def _contained_size(t: Any, size: Size | None) -> Size | None:
    """Return the size if no inner transform can change it."""
    sizes = {kernel_of(inner).size(inner, size) for inner in t.transforms}
    return size if sizes == {size} else None


_SEVERAL_CROPS = Kernel(
    _nothing, crops.several_crops, crops.several_crops_batch, crops.several_crops_floats, geometry.own_size
)
KERNELS: dict[type, Kernel] = {
    v2.Resize: Kernel(_nothing, _fixed, size=geometry.size_of_resize),
    v2.CenterCrop: Kernel(_nothing, _fixed, size=geometry.own_size),
    v2.Pad: Kernel(_nothing, _fixed, size=geometry.size_of_pad),
    v2.Grayscale: Kernel(_nothing, _fixed, color.grayscale_batch, color.grayscale_floats),
    v2.ToPILImage: Kernel(_nothing, _fixed),
    ToTensor: Kernel(_nothing, _fixed),
    v2.Normalize: Kernel(_nothing, _fixed, floats=color.normalize_floats),
    LinearTransformation: Kernel(_nothing, _fixed, floats=linear_floats),
    v2.FiveCrop: _SEVERAL_CROPS,
    v2.TenCrop: _SEVERAL_CROPS,
    v2.RandomCrop: Kernel(lambda _t: 2, crops.random_crop, crops.random_crop_batch, size=geometry.own_size),
    v2.RandomResizedCrop: Kernel(lambda _t: BOX_DRAWS, geometry.random_resized_crop, size=geometry.own_size),
    v2.RandomHorizontalFlip: Kernel(
        _one, flips.horizontal_flip, flips.horizontal_flip_batch, flips.horizontal_flip_floats
    ),
    v2.RandomVerticalFlip: Kernel(_one, flips.vertical_flip, flips.vertical_flip_batch, flips.vertical_flip_floats),
    v2.RandomRotation: Kernel(
        _one, rotation.random_rotation, rotation.random_rotation_batch, size=geometry.size_of_rotation
    ),
    v2.RandomAffine: Kernel(lambda _t: rotation.AFFINE_DRAWS, rotation.random_affine, rotation.random_affine_batch),
    v2.ColorJitter: Kernel(lambda _t: color.JITTER_DRAWS, color.color_jitter, color.color_jitter_batch),
    v2.RandomGrayscale: Kernel(
        _one, color.random_grayscale, color.random_grayscale_batch, color.random_grayscale_floats
    ),
    v2.RandomErasing: Kernel(
        lambda _t: erasing.ERASING_DRAWS, erasing.random_erasing, floats=erasing.random_erasing_floats
    ),
    v2.RandomApply: Kernel(
        lambda t: 1 + _sum_of_draws(t.transforms),
        _random_apply,
        _random_apply_batch,
        _random_apply_batch,
        _contained_size,
    ),
    v2.RandomChoice: Kernel(
        lambda t: 1 + _sum_of_draws(t.transforms),
        _random_choice,
        _random_choice_batch,
        _random_choice_batch,
        _contained_size,
    ),
    v2.RandomOrder: Kernel(
        lambda t: len(t.transforms) + _sum_of_draws(t.transforms),
        _random_order,
        _random_order_batch,
        _random_order_batch,
        _contained_size,
    ),
}
