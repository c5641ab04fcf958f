"""Resized boxes, the size of an image after each transform, and what the kernels share.

Parameters come from keyed draws, pixels from torchvision's functional kernels. Each function takes
the torchvision transform (its arguments are used, not its random draws), one image (C, H, W) and
the image's own draws.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import _geometry

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.spec import (
    INTERPOLATION,
    MOST_MODES,
    SIZE,
    Draws,
    Size,
    Spec,
    mode_of,
    own_size,
)
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import ABOVE_0, SIDE, Together, flag, list_of, number, or_none
from ptkit.core.parts.calls import Call, Symbol

# Top, left, height and width.
Box = tuple[int, int, int, int]

# torchvision's number of tries for a box that fits.
_TRIES = 10
BOX_DRAWS = 2 * _TRIES + 2

_PIXELS_IN_CACHE = 1 << 16


def random_resized_crop(t: v2.RandomResizedCrop, image: Tensor, draws: Draws) -> Tensor:
    """Cut a box of random area and aspect and resize it."""
    return _resized_box(t, image, random_box(t, F.get_size(image), draws))


def central_of_resized(t: v2.RandomResizedCrop, _size: Size | None) -> tuple[Call, ...]:
    """Return the calls that resize to 8/7 of the crop's size and cut out the centre."""
    height, width = t.size
    larger = round(height * 8 / 7), round(width * 8 / 7)
    how: dict[str, Any] = {}
    if (mode := mode_of(t.interpolation)) != InterpolationMode.BILINEAR:
        how["interpolation"] = Symbol("InterpolationMode", mode.name)
    if not t.antialias:
        how["antialias"] = t.antialias
    # One number keeps the shape of the image.
    if height == width:
        return Call("Resize", (larger[0],), how), Call("CenterCrop", (height,))
    return Call("Resize", (larger,), how), Call("CenterCrop", ((height, width),))


class Reduction(NamedTuple):
    """An image of a size (height, width) comes `times` times smaller, its sides rounded up."""

    size: Size
    times: int


def crop_of_reduced(
    t: v2.RandomResizedCrop, image: Tensor, draws: Draws, reduction: Reduction
) -> Tensor:
    """Do what `random_resized_crop` does to the whole image when it comes smaller."""
    return _resized_box(t, image, _box_of_reduced(t, draws, reduction))


def _box_of_reduced(t: v2.RandomResizedCrop, draws: Draws, reduction: Reduction) -> Box:
    (top, left, height, width), times = random_box(t, reduction.size, draws), reduction.times
    bottom, right = -(-(top + height) // times), -(-(left + width) // times)
    top, left = top // times, left // times
    return top, left, bottom - top, right - left


def resized_pixels(t: v2.Resize, pixels: Pixels) -> Pixels | None:
    """Return an image (H, W, C) resized; None where `_resize_into` gives other pixels."""
    before = pixels.shape[0], pixels.shape[1]
    size = _geometry._compute_resized_output_size(before, t.size, t.max_size)
    if tuple(size) == before:
        return pixels
    # Where no pixel is left, torchvision says so.
    if pixels.shape[2] != 3 or min(size) < 1 or not can_crop_into(t):
        return None
    resized: Pixels = np.empty((*size, 3), np.uint8)
    _resize_into(pixels, resized[None])
    return resized


def can_crop_into(t: v2.RandomResizedCrop | v2.Resize) -> bool:
    """Say whether `_resize_into` gives the pixels of torchvision."""
    is_usual = mode_of(t.interpolation) == InterpolationMode.BILINEAR and t.antialias is True
    return is_usual and is_rounded_in_each_pass(InterpolationMode.BILINEAR)


def is_rounded_in_each_pass(mode: InterpolationMode) -> bool:
    """Say whether this machine resizes uint8 as such, a side after the other."""
    # Elsewhere torchvision resizes floats and rounds them; where, differs by its version.
    return bool(_geometry._do_native_uint8_resize_on_cpu(mode))


def crop_into(
    t: v2.RandomResizedCrop,
    pixels: Pixels,
    draws: Draws,
    *,
    out: Pixels,
    reduction: Reduction | None,
) -> None:
    """Do what `random_resized_crop` or `crop_of_reduced` does, into a batch.

    pixels: uint8 (H, W, C). out: uint8 (1, h, w, C), one image of a batch.
    """
    size = pixels.shape[0], pixels.shape[1]
    top, left, height, width = (
        random_box(t, size, draws) if reduction is None else _box_of_reduced(t, draws, reduction)
    )
    _resize_into(pixels[top : top + height, left : left + width], out)


def _resize_into(pixels: Pixels, out: Pixels) -> None:
    """Resize an image (H, W, 3) into `out` (1, h, w, 3)."""
    # numpy moves the axes: each operator of torch gives the interpreter's lock away, and with many
    # threads getting it back takes longer than the work.
    source, target = (torch.from_numpy(one.transpose(0, 3, 1, 2)) for one in (pixels[None], out))
    kernels: Any = torch._C._nn
    kernels._upsample_bilinear2d_aa(source, out.shape[1:3], False, None, None, out=target)


def _times_smaller(size: Size, wanted: Sequence[int]) -> int:
    """Return how many times smaller (1, 2, 4 or 8) what is resized may come.

    It still has at least the height and width that it is resized to.
    """
    # A single number is of the shorter side.
    most = min(size[0] // wanted[0], size[1] // wanted[-1])
    return next((times for times in (8, 4, 2) if times <= most), 1)


def random_box(t: v2.RandomResizedCrop, size: Sequence[int], draws: Draws) -> Box:
    """Return the box that is cut out of an image of a size."""
    height, width = size
    sides = random_sides(t, height * width, draws, least=1, most=(width, height))
    if sides is not None:
        w, h = sides
        return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    # None fits: the central one, whose aspect is as near to the image's as the ratio allows.
    low, high = min(t.ratio), max(t.ratio)
    h = round(width / low) if width / height < low else height
    w = round(height * high) if width / height > high else width
    return (height - h) // 2, (width - w) // 2, h, w


def random_sides(
    t: Any, area: int, draws: Draws, *, least: int, most: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the sides of torchvision's random box in an image of `area` pixels, by scale and ratio
    of the transform: first the one that grows with the aspect. None if no try fits.

    least: of both sides. most: of each.
    """
    low, high = math.log(t.ratio[0]), math.log(t.ratio[1])
    for k in range(_TRIES):
        part = area * between(draws[2 * k], *t.scale)
        aspect = math.exp(between(draws[2 * k + 1], low, high))
        first, second = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
        if least <= first <= most[0] and least <= second <= most[1]:
            return first, second
    return None


def _resized_box(t: v2.RandomResizedCrop, image: Tensor, box: Box) -> Tensor:
    cropped = F.crop(image, *box)
    if isinstance(cropped, Tensor):
        # Each pixel's colours side by side, as decoded: torch gives such too then, not planes,
        # costly to turn back.
        cropped = cropped.movedim(-3, -1).contiguous().movedim(-1, -3)
    resized: Tensor = F.resize(cropped, t.size, t.interpolation, antialias=t.antialias)
    return resized


def _size_of_resize(t: v2.Resize, size: Size | None) -> Size | None:
    """Return the size after Resize; None where it depends on the image."""
    match t.size:
        case [height, width]:
            return height, width
        case [side] if size is not None and size[0] == size[1]:
            return side, side
    return None


def box_mask(boxes: npt.NDArray[np.int64], images: Tensor) -> Tensor:
    """Return which pixels of images (n, C, H, W) lie in each one's box, (n, 1, H, W), on their
    device.

    boxes: (n, 4), left, top, right, bottom.
    """
    height, width = images.shape[-2:]
    left, top, right, bottom = sent(boxes, images.device).T[:, :, None].unbind()
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows[:, None, :, None] & columns[:, None, None, :]


def at_random(t: Any, image: Tensor, draws: Draws, *, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change an image with probability p."""
    return change(image) if draws[0] < t.p else image


def between(draw: float, low: float, high: float) -> float:
    """Return the value that a draw in [0, 1) means between low and high."""
    return low + float(draw) * (high - low)


def in_cache(images: npt.NDArray[np.uint8]) -> Iterator[slice]:
    """Yield parts of a batch (n, H, W, C) whose float planes stay in a core's cache."""
    step = max(_PIXELS_IN_CACHE // max(images.shape[1] * images.shape[2], 1), 1)
    return (slice(start, start + step) for start in range(0, len(images), step))


def _is_below_max_size(given: Mapping[str, Any]) -> bool:
    size, most = given["size"], given["max_size"]
    sides = [size] if isinstance(size, int) else size
    return most is None or size is None or (len(sides) == 1 and sides[0] < most)


SPECS = (
    Spec(
        v2.Resize,
        "resize with antialiasing; one number is the shorter side",
        arguments={
            "size": or_none(SIZE),
            "max_size": SIDE,
            "interpolation": INTERPOLATION,
            "antialias": or_none(flag()),
        },
        together=Together(
            _is_below_max_size, "max_size must be larger than size, which is then one number"
        ),
        example="(16, 16)",
        size=_size_of_resize,
        tensor_modes=MOST_MODES,
        # No size: only max_size, for the longer side.
        times_smaller=lambda t, size, _draws: _times_smaller(size, t.size or [max(size)]),
        can_keep=True,
        of_pixels=resized_pixels,
    ),
    Spec(
        v2.RandomResizedCrop,
        "cut a random area and aspect, resize it",
        arguments={
            "size": SIZE,
            "scale": list_of(number(above=0, high=1), 2, is_rising=True),
            "ratio": list_of(ABOVE_0, 2, is_rising=True),
            "interpolation": INTERPOLATION,
            "antialias": or_none(flag()),
        },
        example="16",
        draws=BOX_DRAWS,
        apply=random_resized_crop,
        size=own_size,
        in_evaluation=central_of_resized,
        tensor_modes=MOST_MODES,
        times_smaller=lambda t, size, draws: _times_smaller(random_box(t, size, draws)[2:], t.size),
        apply_reduced=crop_of_reduced,
        into=crop_into,
        can_into=can_crop_into,
    ),
)
