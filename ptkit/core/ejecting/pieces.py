"""Functions that stand in an ejected script as they stand here: randomness, and what it decides.

Their source is taken over, so they use nothing of ptkit. SEED is a setting of the script. Draws are
those of data/keyed.py in whole numbers of Python; a test compares them.
"""

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

SEED = 0

# Every random number is a hash of what it is for (splitmix64; Steele, Lea and Flood 2014).
GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def mix(z: int) -> int:
    """Scramble 64 bits."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def stream(purpose: str, number: int) -> int:
    """Return where the random numbers for a purpose begin, such as the order of epoch 3."""
    start = mix(mix(SEED + GOLDEN) ^ zlib.crc32(purpose.encode()))
    return mix(start + (number + 1) * GOLDEN)


def uniforms(purpose: str, epoch: int, index: int, count: int) -> list[float]:
    """Return an image's random numbers in an epoch, each 0 <= u < 1."""
    start = mix(index * GOLDEN + stream(purpose, epoch))
    return [(mix(start + k * GOLDEN) >> 11) / 2**53 for k in range(1, count + 1)]


def epoch_order(num_images: int, epoch: int) -> list[int]:
    """Return the images of an epoch in random order."""
    start = stream("order", epoch)
    return sorted(range(num_images), key=lambda index: mix((index + 1) * GOLDEN + start))


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


def color_jitter(
    image: Tensor, u: list[float], ranges: Sequence[tuple[float, float] | None]
) -> Tensor:
    """Change brightness, contrast, saturation and hue, each by a factor of its range, in random
    order.
    """
    changes = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue
    for k in sorted(range(4), key=lambda k: u[k]):
        limits = ranges[k]
        if limits is not None:
            image = changes[k](image, limits[0] + u[4 + k] * (limits[1] - limits[0]))
    return image


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


def fitted_head(
    features: Tensor, labels: Tensor, *, num_classes: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the head with the smallest loss on features (n, D)."""
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    scaled = (features - mean) / std
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(scaled, weight, bias), labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # The scaling becomes part of the head, which then takes features as they are.
    plain = weight.detach() / std
    return plain, bias.detach() - plain @ mean
