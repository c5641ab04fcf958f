"""MixUp and CutMix: a batch mixed with itself, on the device, with torchvision's pairing and
distributions.

Each image is paired with the one before it in the batch, as torchvision's v2 does; the share (and
CutMix's box) is drawn for each image, where v2 draws one for all. A loss of mixed targets is the
same mix of two losses, image by image, so every loss can be trained with them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.data.keyed import stream_key
from ptkit.core.data.transforms.geometry import box_mask
from ptkit.core.data.transforms.spec import Spec
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import ABOVE_0


@dataclass(frozen=True)
class Mixed:
    """What the images of a batch were mixed with.

    partner_labels: labels of the partners, as the batch's own, (n, ...). share: each image's own
    share, float32 (n,).
    """

    partner_labels: Tensor
    share: Tensor


@dataclass(frozen=True)
class MixedPart:
    """Which images of a batch are mixed: the part [start, stop) of `size`.

    has_partner: the first image given is not one of them, but the partner of their first.
    """

    start: int
    stop: int
    size: int
    has_partner: bool = False


def mix(
    transform: Any,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epoch: int,
    batch: int,
    part: MixedPart | None = None,
) -> tuple[Tensor, Mixed]:
    """Mix float images (n, C, H, W) with themselves; the draws are keyed by seed, epoch and the
    batch's number.

    part: of the batch that is given; None for the whole. Each image is mixed as in the whole one.
    """
    part = part or MixedPart(0, len(images), len(images))
    draws = np.random.Generator(np.random.Philox(key=stream_key(seed, f"mix {epoch}", batch)))
    if isinstance(transform, v2.RandomChoice):
        transform = transform.transforms[draws.choice(len(transform.transforms), p=transform.p)]
    # Rounded first: then share and 1 - share are what torchvision makes of this share.
    shares = draws.beta(transform.alpha, transform.alpha, part.size).astype(np.float32)
    boxes = None
    if isinstance(transform, v2.CutMix):
        height, width = images.shape[2:]
        boxes, shares = _boxes(shares, draws, height=height, width=width)
    shares = shares[part.start : part.stop]
    own = slice(int(part.has_partner), None)
    if boxes is not None:
        boxes = boxes[part.start : part.stop]
        # A partner that is only pasted from gets an empty box.
        whole = np.concatenate([np.zeros((int(part.has_partner), 4), np.int64), boxes])
        # On a GPU each assignment is a kernel to start; on a CPU a mask would touch every pixel.
        pasted = _pasted if images.device.type == "cpu" else _pasted_by_mask
        mixed = pasted(images, whole)[own]
    else:
        partner = (1.0 - shares.astype(np.float64)).astype(np.float32)
        before = images.roll(1, 0)[own]
        mixed = before.mul_(_on(partner, images)).add_(images[own] * _on(shares, images))
    share = sent(shares, images.device)
    mixed = mixed.contiguous(memory_format=torch.channels_last)
    return mixed, Mixed(labels.roll(1, 0)[own], share)


def _on(values: npt.NDArray[Any], images: Tensor) -> Tensor:
    """Return one value an image on its device, (n, 1, 1, 1)."""
    return sent(values, images.device).view(-1, 1, 1, 1)


def _boxes(
    shares: npt.NDArray[np.float32], draws: np.random.Generator, *, height: int, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the box of each partner that is pasted, (n, 4), left, top, right, bottom; a share
    becomes what its box, cut at the border, leaves (Yun et al. 2019, A.1).
    """
    n = len(shares)
    x, y = draws.integers(width, size=n), draws.integers(height, size=n)
    half = 0.5 * np.sqrt(1.0 - shares.astype(np.float64))
    half_w, half_h = (half * width).astype(np.int64), (half * height).astype(np.int64)
    x1, x2 = np.maximum(x - half_w, 0), np.minimum(x + half_w, width)
    y1, y2 = np.maximum(y - half_h, 0), np.minimum(y + half_h, height)
    boxes = np.stack([x1, y1, x2, y2], axis=1)
    return boxes, (1.0 - (x2 - x1) * (y2 - y1) / (width * height)).astype(np.float32)


def _pasted(images: Tensor, boxes: npt.NDArray[np.int64]) -> Tensor:
    """Return images with a box of each one's partner, on a CPU; boxes: (n, 4), left, top, right,
    bottom.
    """
    # numpy writes into the memory of the tensors.
    mixed = images.clone()
    source, target = images.numpy(), mixed.numpy()
    for k, (left, top, right, bottom) in enumerate(boxes.tolist()):
        target[k, :, top:bottom, left:right] = source[k - 1, :, top:bottom, left:right]
    return mixed


def _pasted_by_mask(images: Tensor, boxes: npt.NDArray[np.int64]) -> Tensor:
    """Do the same in a few operations on whole batches, on any device."""
    return torch.where(box_mask(boxes, images), images.roll(1, 0), images)


# The loop knows the labels and mixes losses, not targets.
_GIVEN = frozenset({"num_classes", "labels_getter"})
SPECS = tuple(
    Spec(target, summary, _GIVEN, arguments={"alpha": ABOVE_0}, mixes=True)
    for target, summary in (
        (v2.MixUp, "blend each image with another of its batch (Zhang et al. 2018)"),
        (v2.CutMix, "paste a box of another image of the batch (Yun et al. 2019)"),
    )
)
