"""Mirrored images: one (C, H, W), whole uint8 batches (n, H, W, C), also on the device, and floats
(n, C, H, W).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.geometry import at_random
from ptkit.core.data.transforms.spec import CROPS_NEED_TENSOR, Draws, Spec, has_p_0, has_p_1
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import SHARE

# Images of more bytes are mirrored one by one in place: a copy of the batch would not stay in
# a core's cache.
_LARGE = 1 << 14


class AlternatingFlip(nn.Module):
    """Mirror a random half of the images left to right in one epoch, the other half in the next,
    and so on.

    Two epochs then show each image both ways (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
    GPU", 2024, section 3.6).
    """

    p = 0.5


class WithHorizontalFlip(nn.Module):
    """Make two of each image, itself and its mirror image: the model's outputs are averaged over
    both.
    """


def horizontal_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Mirror some images of a batch left to right, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    if images[0].nbytes > _LARGE:
        for image in (images[number] for number in chosen.tolist()):
            cv2.flip(image, 1, image)
    elif len(chosen):
        # All rows as one tall image: one call instead of n.
        rows = images[chosen].reshape(-1, *images.shape[2:])
        cv2.flip(rows, 1, rows)
        images[chosen] = rows.reshape(-1, *images.shape[1:])
    return images


def vertical_flip_batch(t: Any, images: Pixels, draws: Draws) -> Pixels:
    """Turn some images of a batch upside down, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    images[chosen] = images[chosen, ::-1]
    return images


def flip_device(t: Any, images: Tensor, draws: Tensor, *, dim: int) -> Tensor:
    """Flip some images of a batch along a dimension."""
    # All images and a mask: taking some out would wait for the device.
    return torch.where((draws[:, 0] < t.p)[:, None, None, None], images.flip(dim), images)


def flip_floats(t: Any, images: Tensor, draws: Draws, *, dim: int) -> Tensor:
    """Flip some images of a float batch along a dimension, in place on a CPU."""
    is_chosen = draws[:, 0] < t.p
    if images.device.type != "cpu":
        mask = sent(is_chosen, images.device).view(-1, 1, 1, 1)
        return torch.where(mask, images.flip(dim), images)
    # numpy gathers whole images; torch would look at every value on its own.
    values, chosen = images.numpy(), np.flatnonzero(is_chosen)
    values[chosen] = np.flip(values[chosen], dim)
    return images


def with_flip_batch(_t: Any, images: Pixels, _draws: Draws) -> Pixels:
    """Return all images and mirror images, (2 * n, H, W, C), image by image."""
    return np.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])


def with_flip_tensors(_t: Any, images: Tensor, _draws: Any, *, dim: int) -> Tensor:
    """Return all images of a batch and their mirror images along a dimension, image by image; or
    one image (C, H, W) and its mirror image.
    """
    return torch.stack([images, images.flip(dim)], dim=-4).flatten(0, -4)


# The width is dimension 2 of uint8 (n, H, W, C) and -1 of floats (n, C, H, W).
_HORIZONTAL_FLIP = Spec(
    v2.RandomHorizontalFlip,
    "mirror left to right with probability p",
    arguments={"p": SHARE},
    draws=1,
    apply=partial(at_random, change=F.horizontal_flip),
    batch=horizontal_flip_batch,
    device=partial(flip_device, dim=2),
    floats=partial(flip_floats, dim=-1),
    is_certain=has_p_1,
    changes_nothing=has_p_0,
    mirrors=True,
    moves_pixels=True,
)
SPECS = (
    _HORIZONTAL_FLIP,
    replace(
        _HORIZONTAL_FLIP,
        target=v2.RandomVerticalFlip,
        summary="mirror top to bottom with probability p",
        apply=partial(at_random, change=F.vertical_flip),
        batch=vertical_flip_batch,
        device=partial(flip_device, dim=1),
        floats=partial(flip_floats, dim=-2),
        mirrors=False,
    ),
    replace(
        _HORIZONTAL_FLIP,
        target=AlternatingFlip,
        summary="mirror a random half of the images in one epoch, the other half in the next",
        arguments={},
        is_certain=lambda _t: False,
        changes_nothing=lambda _t, _size: False,
        alternates=True,
        moves_pixels=False,
    ),
    Spec(
        WithHorizontalFlip,
        "each image and its mirror image: the mean of both answers counts",
        apply=partial(with_flip_tensors, dim=-1),
        batch=with_flip_batch,
        device=partial(with_flip_tensors, dim=2),
        floats=partial(with_flip_tensors, dim=-1),
        refuses=CROPS_NEED_TENSOR,
        num_crops=2,
        mirrors=True,
    ),
)
