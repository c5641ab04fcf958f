"""Functions that an ejected script has as they are here: randomness, and what it decides.

Their source is taken over, so they use nothing of ptkit. SEED is a setting of the script. Draws are
those of data/keyed.py in whole numbers of Python; a test compares them.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SEED = 0

# Every random number is a hash of what it is for.
GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def mix(z: int) -> int:
    """Scramble 64 bits (splitmix64; Steele, Lea and Flood 2014)."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def bits(purpose: str, *numbers: int) -> int:
    """Return 64 random bits for a purpose, such as the order of image 5 in epoch 3."""
    z = mix(mix(SEED + GOLDEN) ^ zlib.crc32(purpose.encode()))
    for number in numbers:
        z = mix(z + number * GOLDEN)
    return z


def random_box(
    height: int, width: int, u: list[float], scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box of random area and aspect."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(10):
        area = height * width * (scale[0] + u[2 * k] * (scale[1] - scale[0]))
        aspect = math.exp(low + u[2 * k + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    # None of ten fits: the central one.
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def erased_box(
    height: int, width: int, u: list[float], scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int] | None:
    """Return top, left, height and width of a box inside an image; None where ten do not fit."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(10):
        area = height * width * (scale[0] + u[2 * k] * (scale[1] - scale[0]))
        aspect = math.exp(low + u[2 * k + 1] * (high - low))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    return None


def mix_up(images: Tensor, draws: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image with the one before it (Zhang et al. 2018); return its own share too."""
    share = torch.from_numpy(draws.beta(alpha, alpha, len(images))).float()
    own = share[:, None, None, None]
    return images.roll(1, 0) * (1 - own) + images * own, share


def cut_mix(images: Tensor, draws: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Paste a box of the image before it into each one (Yun et al. 2019); return its own share."""
    num_images, _, height, width = images.shape
    half = 0.5 * np.sqrt(
        1.0 - draws.beta(alpha, alpha, num_images).astype(np.float32).astype(float)
    )
    x, y = draws.integers(width, size=num_images), draws.integers(height, size=num_images)
    mixed, share = images.clone(), torch.empty(num_images)
    for k in range(num_images):
        half_w, half_h = int(half[k] * width), int(half[k] * height)
        left, right = max(x[k] - half_w, 0), min(x[k] + half_w, width)
        top, bottom = max(y[k] - half_h, 0), min(y[k] + half_h, height)
        mixed[k, :, top:bottom, left:right] = images[k - 1, :, top:bottom, left:right]
        share[k] = 1.0 - (right - left) * (bottom - top) / (width * height)
    return mixed, share


def mean_precision(truth: Tensor, chances: Tensor) -> float:
    """Return the mean average precision (n, classes) of the classes that some image has."""
    found = []
    for own, chance in zip(truth.bool().T, chances.T, strict=True):
        if own.any():
            # For each image of the class: all that are as probable, and those of the class.
            listed = chance >= chance[own][:, None]
            found.append(((listed & own).sum(1) / listed.sum(1)).mean())
    return torch.stack(found).mean().item()
