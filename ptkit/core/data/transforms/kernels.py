"""How each random transform is drawn from keyed numbers and applied with torchvision's own
functional kernels.

torchvision's classes draw from torch's global generator, which threads and the model's dropout
share. So of a class
only the arguments are used: the parameters are drawn here, with its distributions, from
`keyed.uniforms`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms import color, crops, erasing, flips, geometry, rotation
from ptkit.core.data.transforms.catalogue import ToTensor
from ptkit.core.data.transforms.geometry import BOX_DRAWS, Draws, Size
from ptkit.core.data.transforms.whitening import LinearTransformation, linear_floats
from ptkit.core.device import sent

_LARGE = 1 << 16

# A function of (transform, images, draws (n, k)) that gives the images afterwards.
Form = Callable[[Any, Any, Any], Any]


def _same_size(_transform: Any, size: Size | None) -> Size | None:
    return size


@dataclass(frozen=True)
class Kernel:
    """One transform class: how it is drawn, and each form in which it is applied, all with the same
    result.

    draws: how many uniform numbers one image takes.
    apply: (transform, image (3, H, W), draws (k,)) -> image; crops of an image, (C, 3, H, W), share
    their draws.
    batch: whole batches on a CPU, numpy uint8 (n, H, W, 3), where there is such a form; it may
    change its input.
    device: whole batches on the training device, uint8 tensors (n, H, W, 3) with draws (n, k) that
        lie there too; nothing in it waits for the device, and it leaves its input alone.
    floats: float batches (n, 3, H, W), on the device where they lie, draws in numpy; it may change
    its input.
    size: (transform, (h, w) or None where unknown) -> the size afterwards.
    alternates: its draws are the same in every epoch, but for a half that is added in every other
    one.
    """

    draws: Callable[[Any], int]
    apply: Form
    batch: Form | None = None
    device: Form | None = None
    floats: Form | None = None
    size: Callable[[Any, Size | None], Size | None] = _same_size
    alternates: bool = False


def kernel_of(transform: Any) -> Kernel:
    """Return the kernel of a transform; a foreign one (a user's own, AutoAugment) is seeded anew
    for each image.
    """
    return KERNELS.get(type(transform), _FOREIGN)


def is_foreign(transform: Any) -> bool:
    """Say whether the transform, or one inside it, draws from global generators: it must run in a
    worker process.
    """
    if type(transform) in CONTAINERS:
        return any(is_foreign(inner) for inner in transform.transforms)
    return type(transform) not in KERNELS


def has_form(transform: Any, size: Size | None, form: str) -> bool:
    """Say whether a transform can run on whole batches of images of a size (None: any).

    form: "batch", "device" or "floats", as `Kernel` has them.
    """
    if getattr(kernel_of(transform), form) is None:
        return False
    if isinstance(transform, v2.RandomRotation | v2.RandomAffine):
        return rotation.can_rotate_batch(transform, size)
    if type(transform) not in CONTAINERS:
        return True
    # Some images of a batch go through an inner transform and others do not: all must keep their
    # size.
    inner = transform.transforms
    return all(has_form(t, size, form) and kernel_of(t).size(t, size) == size for t in inner)


# --------------------------------------------------------------------------------------- containers


def _sum_of_draws(transforms: Sequence[Any]) -> int:
    return sum(kernel_of(inner).draws(inner) for inner in transforms)


def _random_apply(t: v2.RandomApply, image: Tensor, draws: Draws) -> Tensor:
    if draws[0] >= t.p:
        return image
    for inner, some in zip(t.transforms, _shares(t.transforms, draws[1:]), strict=True):
        image = kernel_of(inner).apply(inner, image, some)
    return image


def _random_apply_batch(t: v2.RandomApply, images: Any, draws: Any) -> Any:
    for inner, some in zip(t.transforms, _shares(t.transforms, draws[:, 1:]), strict=True):
        images = _on_some(inner, images, draws[:, 0] < t.p, some)
    return images


def _random_choice(t: v2.RandomChoice, image: Tensor, draws: Draws) -> Tensor:
    k = int(_chosen(t, draws[0]))
    inner = t.transforms[k]
    return kernel_of(inner).apply(inner, image, _shares(t.transforms, draws[1:])[k])


def _random_choice_batch(t: v2.RandomChoice, images: Any, draws: Any) -> Any:
    choices = _chosen(t, draws[:, 0])
    for k, (inner, some) in enumerate(
        zip(t.transforms, _shares(t.transforms, draws[:, 1:]), strict=True)
    ):
        images = _on_some(inner, images, choices == k, some)
    return images


def _random_order(t: v2.RandomOrder, image: Tensor, draws: Draws) -> Tensor:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[count:])
    for k in np.argsort(draws[:count], kind="stable"):
        image = kernel_of(t.transforms[k]).apply(t.transforms[k], image, shares[k])
    return image


def _random_order_batch(t: v2.RandomOrder, images: Any, draws: Any) -> Any:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[:, count:])
    order = draws[:, :count].argsort(stable=True)
    for place in range(count):
        for k, inner in enumerate(t.transforms):
            images = _on_some(inner, images, order[:, place] == k, shares[k])
    return images


def _chosen(t: v2.RandomChoice, draws: Any) -> Any:
    """Return which transform each draw means, for a number, an array or a tensor: how many limits
    it has passed.
    """
    return sum((draws >= limit for limit in np.cumsum(t.p)[:-1].tolist()), draws * 0)


def _shares(transforms: Sequence[Any], draws: Any) -> list[Any]:
    """Return each transform's own columns of the draws, (k,) or (n, k), an array or a tensor."""
    shares, start = [], 0
    for inner in transforms:
        end = start + kernel_of(inner).draws(inner)
        shares.append(draws[..., start:end])
        start = end
    return shares


def _on_some(inner: Any, images: Any, is_chosen: Any, draws: Any) -> Any:
    """Apply a transform to some images of a batch: pixels on the CPU, pixels on the device, or
    floats.
    """
    kernel = kernel_of(inner)
    if not isinstance(images, Tensor):
        assert kernel.batch is not None
        return _on_some_pixels(
            kernel.batch, inner, images, chosen=np.flatnonzero(is_chosen), draws=draws
        )
    if images.dtype == torch.uint8:
        assert kernel.device is not None
        return torch.where(
            is_chosen[:, None, None, None], kernel.device(inner, images, draws), images
        )
    assert kernel.floats is not None
    if is_chosen.all():
        return kernel.floats(inner, images, draws)
    chosen = np.flatnonzero(is_chosen)
    if len(chosen):
        index = sent(chosen, images.device)
        images[index] = kernel.floats(inner, images[index], draws[chosen])
    return images


def _on_some_pixels(
    form: Form, inner: Any, images: Pixels, *, chosen: npt.NDArray[np.int64], draws: Draws
) -> Pixels:
    if len(chosen) == len(images):
        changed: Pixels = form(inner, images, draws)
        return changed
    # Large images one by one where they lie: copies of some of them would not stay in a core's
    # cache.
    if images[0].nbytes > _LARGE:
        for some in (slice(k, k + 1) for k in chosen.tolist()):
            changed = form(inner, images[some], draws[some])
            if not np.may_share_memory(changed, images):
                images[some] = changed
    elif len(chosen):
        images[chosen] = form(inner, images[chosen], draws[chosen])
    return images


# ------------------------------------------------------------------------------------------- tables


def _foreign(transform: Any, image: Any, draws: Draws) -> Any:
    """Apply a transform that draws from global generators, after seeding all of them for this one
    image.
    """
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
    _nothing,
    crops.several_crops,
    batch=crops.several_crops_batch,
    device=crops.several_crops_device,
    floats=crops.several_crops_floats,
    size=geometry.own_size,
)
_HORIZONTAL_FLIP = Kernel(
    _one,
    flips.horizontal_flip,
    batch=flips.horizontal_flip_batch,
    device=flips.horizontal_flip_device,
    floats=flips.horizontal_flip_floats,
)
KERNELS: dict[type, Kernel] = {
    v2.Resize: Kernel(_nothing, _fixed, size=geometry.size_of_resize),
    v2.CenterCrop: Kernel(_nothing, _fixed, size=geometry.own_size),
    v2.Pad: Kernel(_nothing, _fixed, size=geometry.size_of_pad),
    v2.Grayscale: Kernel(
        _nothing,
        _fixed,
        batch=color.grayscale_batch,
        device=color.grayscale_device,
        floats=color.grayscale_floats,
    ),
    v2.ToPILImage: Kernel(_nothing, _fixed),
    ToTensor: Kernel(_nothing, _fixed),
    v2.Normalize: Kernel(_nothing, _fixed, floats=color.normalize_floats),
    LinearTransformation: Kernel(_nothing, _fixed, floats=linear_floats),
    v2.FiveCrop: _SEVERAL_CROPS,
    v2.TenCrop: _SEVERAL_CROPS,
    flips.WithHorizontalFlip: replace(_SEVERAL_CROPS, size=_same_size),
    v2.RandomCrop: Kernel(
        lambda _t: 2,
        crops.random_crop,
        batch=crops.random_crop_batch,
        device=crops.random_crop_device,
        size=geometry.own_size,
    ),
    v2.RandomResizedCrop: Kernel(
        lambda _t: BOX_DRAWS, geometry.random_resized_crop, size=geometry.own_size
    ),
    v2.RandomHorizontalFlip: _HORIZONTAL_FLIP,
    flips.AlternatingFlip: replace(_HORIZONTAL_FLIP, alternates=True),
    v2.RandomVerticalFlip: Kernel(
        _one,
        flips.vertical_flip,
        batch=flips.vertical_flip_batch,
        device=flips.vertical_flip_device,
        floats=flips.vertical_flip_floats,
    ),
    v2.RandomRotation: Kernel(
        _one,
        rotation.random_rotation,
        batch=rotation.random_rotation_batch,
        size=geometry.size_of_rotation,
    ),
    v2.RandomAffine: Kernel(
        lambda _t: rotation.AFFINE_DRAWS, rotation.random_affine, batch=rotation.random_affine_batch
    ),
    v2.ColorJitter: Kernel(
        lambda _t: color.JITTER_DRAWS,
        color.color_jitter,
        batch=color.color_jitter_batch,
        device=color.color_jitter_device,
    ),
    v2.RandomGrayscale: Kernel(
        _one,
        color.random_grayscale,
        batch=color.random_grayscale_batch,
        device=color.random_grayscale_device,
        floats=color.random_grayscale_floats,
    ),
    v2.RandomErasing: Kernel(
        lambda _t: erasing.ERASING_DRAWS,
        erasing.random_erasing,
        floats=erasing.random_erasing_floats,
    ),
    v2.RandomApply: Kernel(
        lambda t: 1 + _sum_of_draws(t.transforms),
        _random_apply,
        batch=_random_apply_batch,
        device=_random_apply_batch,
        floats=_random_apply_batch,
        size=_contained_size,
    ),
    v2.RandomChoice: Kernel(
        lambda t: 1 + _sum_of_draws(t.transforms),
        _random_choice,
        batch=_random_choice_batch,
        device=_random_choice_batch,
        floats=_random_choice_batch,
        size=_contained_size,
    ),
    v2.RandomOrder: Kernel(
        lambda t: len(t.transforms) + _sum_of_draws(t.transforms),
        _random_order,
        batch=_random_order_batch,
        device=_random_order_batch,
        floats=_random_order_batch,
        size=_contained_size,
    ),
}
