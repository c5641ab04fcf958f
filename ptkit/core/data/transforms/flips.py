"""Mirrored images: one (3, H, W), whole uint8 batches (n, H, W, 3), also on the device, and floats
(n, 3, H, W).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.spec import CROPS_NEED_TENSOR, Draws, Spec
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import SHARE

# Images of more bytes are mirrored one by one in place: a copy of the batch would not stay in
# a core's cache.
_LARGE = 1 << 14


class AlternatingFlip(nn.Module):
    """Mirror a random half of the images left to right in one epoch, the other half in the next,
    and so on.

    Two epochs then show each image both ways (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
    GPU", 2024,
    section 3.6).
    """

    p = 0.5

    def __init__(self) -> None:
        super().__init__()


class WithHorizontalFlip(nn.Module):
    """Make two of each image, itself and its mirror image: the model's outputs are averaged over
    both.
    """

    def __init__(self) -> None:
        super().__init__()


def horizontal_flip(t: Any, image: Tensor, draws: Draws) -> Tensor:
    """Mirror left to right with probability p."""
    return F.horizontal_flip(image) if draws[0] < t.p else image


def vertical_flip(t: Any, image: Tensor, draws: Draws) -> Tensor:
    """Mirror top to bottom with probability p."""
    return F.vertical_flip(image) if draws[0] < t.p else image


def horizontal_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Mirror some images of a batch, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    if images[0].nbytes > _LARGE:
        for image in (images[number] for number in chosen.tolist()):
            cv2.flip(image, 1, image)
    elif len(chosen):
        images[chosen] = _mirrored(images[chosen])
    return images


def vertical_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Turn some images of a batch upside down, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    images[chosen] = images[chosen, ::-1]
    return images


def horizontal_flip_device(t: Any, images: Tensor, draws: Tensor) -> Tensor:
    """Mirror some images of a batch."""
    return torch.where((draws[:, 0] < t.p)[:, None, None, None], images.flip(2), images)


def vertical_flip_device(t: Any, images: Tensor, draws: Tensor) -> Tensor:
    """Turn some images of a batch upside down."""
    return torch.where((draws[:, 0] < t.p)[:, None, None, None], images.flip(1), images)


def horizontal_flip_floats(t: Any, images: Tensor, draws: Draws) -> Tensor:
    """Mirror some images of a float batch, in place on a CPU."""
    return _flipped(images, draws[:, 0] < t.p, dim=-1)


def vertical_flip_floats(t: Any, images: Tensor, draws: Draws) -> Tensor:
    """Turn some images of a float batch upside down, in place on a CPU."""
    return _flipped(images, draws[:, 0] < t.p, dim=-2)


def _flipped(images: Tensor, is_chosen: npt.NDArray[np.bool_], *, dim: int) -> Tensor:
    if images.device.type != "cpu":
        mask = sent(is_chosen, images.device).view(-1, 1, 1, 1)
        return torch.where(mask, images.flip(dim), images)
    # numpy gathers whole images; torch would look at every value on its own.
    values, chosen = images.numpy(), np.flatnonzero(is_chosen)
    values[chosen] = np.flip(values[chosen], dim)
    return images


def _mirrored(images: Pixels) -> Pixels:
    n, height, width, channels = images.shape
    # All rows as one tall image: one call instead of n.
    flipped: Pixels = np.asarray(cv2.flip(images.reshape(n * height, width, channels), 1), np.uint8)
    return flipped.reshape(images.shape)


def with_flip(_t: Any, image: Tensor, _draws: Draws) -> Tensor:
    """Return an image and its mirror image, (2, 3, H, W)."""
    return torch.stack([image, F.horizontal_flip(image)])


def with_flip_batch(_t: Any, images: Pixels, _draws: Draws) -> Pixels:
    """Return all images and mirror images, (2 * n, H, W, 3), image by image."""
    return np.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])


def with_flip_device(_t: Any, images: Tensor, _draws: Tensor) -> Tensor:
    """Return all images and mirror images, (2 * n, H, W, 3), image by image."""
    return torch.stack([images, images.flip(2)], dim=1).flatten(0, 1)


def with_flip_floats(_t: Any, images: Tensor, _draws: Draws) -> Tensor:
    """Return all images and mirror images, (2 * n, 3, H, W), image by image."""
    return torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)


_HORIZONTAL_FLIP = Spec(
    v2.RandomHorizontalFlip,
    "mirror left to right with probability p",
    arguments={"p": SHARE},
    draws=1,
    apply=horizontal_flip,
    batch=horizontal_flip_batch,
    device=horizontal_flip_device,
    floats=horizontal_flip_floats,
    mirrors=True,
    moves_pixels=True,
)
SPECS = (
    _HORIZONTAL_FLIP,
    Spec(
        v2.RandomVerticalFlip,
        "mirror top to bottom with probability p",
        arguments={"p": SHARE},
        draws=1,
        apply=vertical_flip,
        batch=vertical_flip_batch,
        device=vertical_flip_device,
        floats=vertical_flip_floats,
        moves_pixels=True,
    ),
    replace(
        _HORIZONTAL_FLIP,
        target=AlternatingFlip,
        summary="mirror a random half of the images in one epoch, the other half in the next",
        arguments={},
        alternates=True,
        moves_pixels=False,
    ),
    Spec(
        WithHorizontalFlip,
        "each image and its mirror image: the mean of both answers counts",
        apply=with_flip,
        batch=with_flip_batch,
        device=with_flip_device,
        floats=with_flip_floats,
        refuses=CROPS_NEED_TENSOR,
        num_crops=2,
        mirrors=True,
    ),
)
