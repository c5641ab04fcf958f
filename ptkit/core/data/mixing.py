"""MixUp and CutMix: a batch mixed with itself, on the device, with torchvision's pairing and distributions.

Each image is paired with the one before it in the batch, and one share is drawn a batch, as torchvision's v2 does.
A loss of mixed targets is the same mix of two losses, so every loss can be trained with them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.calls import Call
from ptkit.core.data.keyed import stream_key

_MIXES = ("MixUp", "CutMix")


@dataclass(frozen=True)
class Mixed:
    """What the images of a batch were mixed with: labels of the partners, int64 (n,), and the own image's share."""

    partner_labels: Tensor
    share: float


def is_mix(call: Call) -> bool:
    """Say whether a call mixes whole batches: MixUp, CutMix, or RandomChoice of them."""
    if call.name != "RandomChoice":
        return call.name in _MIXES
    given = call.args[0] if call.args else call.kwargs.get("transforms")
    return bool(given) and isinstance(given, list) and all(isinstance(c, Call) and c.name in _MIXES for c in given)


def mix(transform: Any, images: Tensor, labels: Tensor, *, seed: int, epoch: int, batch: int) -> tuple[Tensor, Mixed]:
    """Mix float images (n, 3, H, W) with themselves; the draw is keyed by seed, epoch and the batch's number."""
    draws = np.random.Generator(np.random.Philox(key=stream_key(seed, f"mix {epoch}", batch)))
    if isinstance(transform, v2.RandomChoice):
        transform = transform.transforms[draws.choice(len(transform.transforms), p=transform.p)]
    share = float(draws.beta(transform.alpha, transform.alpha))
    if isinstance(transform, v2.CutMix):
        mixed, share = _cut(images, share, draws)
    else:
        mixed = images.roll(1, 0).mul_(1.0 - share).add_(images * share)
    return mixed, Mixed(labels.roll(1, 0), share)


def _cut(images: Tensor, share: float, draws: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of the partner; the share becomes what the box, cut at the border, leaves (Yun et al. 2019, A.1)."""
    height, width = images.shape[-2:]
    x, y = int(draws.integers(width)), int(draws.integers(height))
    half = 0.5 * math.sqrt(1.0 - share)
    x1, x2 = max(x - int(half * width), 0), min(x + int(half * width), width)
    y1, y2 = max(y - int(half * height), 0), min(y + int(half * height), height)
    mixed = images.clone()
    mixed[..., y1:y2, x1:x2] = images.roll(1, 0)[..., y1:y2, x1:x2]
    return mixed, 1.0 - (x2 - x1) * (y2 - y1) / (width * height)
