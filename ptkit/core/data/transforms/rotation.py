"""RandomRotation and RandomAffine: for one image by torchvision's kernels, for whole batches with
the same pixels.

A batch, uint8 (n, H, W, C), gets a matrix for each image. Nearest-neighbour sampling asks torch's
`grid_sample` only where each pixel comes from, and lets OpenCV move whole pixels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.geometry import between, in_cache
from ptkit.core.data.transforms.spec import (
    FEW_MODES,
    FILL,
    ROTATION_MODES,
    Draws,
    Size,
    Spec,
    is_one_value,
    mode_of,
)
from ptkit.core.parts.argument_rules import ABOVE_0, ANY, AT_LEAST_0, SHARE, either, flag, list_of

# OpenCV's maps hold places as int16.
_LARGEST_SIDE = (1 << 15) - 1
# Above, sampling itself takes all the time.
_LARGEST_BILINEAR = 96
_NO_MAP = np.empty((0, 0), np.int16)


def random_rotation(t: v2.RandomRotation, image: Tensor, draws: Draws) -> Tensor:
    """Rotate by a random angle."""
    angle = between(draws[0], *t.degrees)
    image = F.rotate(image, angle, t.interpolation, t.expand, t.center, t.fill)
    return image


def random_affine(t: v2.RandomAffine, image: Tensor, draws: Draws) -> Tensor:
    """Rotate, shift, scale and shear at random."""
    some = _affine_parameters(t, F.get_size(image), draws)
    image = F.affine(image, **some, interpolation=t.interpolation, fill=t.fill, center=t.center)
    return image


def can_rotate_batch(t: Any, size: Size | None, _form: str) -> bool:
    """Say whether there is a form for whole batches that is faster: not where it changes the size
    of images.
    """
    if size is None or getattr(t, "expand", False):
        return False
    largest = {
        InterpolationMode.NEAREST: _LARGEST_SIDE,
        InterpolationMode.BILINEAR: _LARGEST_BILINEAR,
    }
    return max(size) <= largest.get(mode_of(t.interpolation), 0)


def random_rotation_batch(t: v2.RandomRotation, images: Pixels, draws: Draws) -> Pixels:
    """Rotate each image of a batch by an angle of its own."""
    size = images.shape[1:3]
    angles = np.array([between(row[0], *t.degrees) % 360 for row in draws])
    # torchvision turns by right angles without sampling.
    right = [] if t.center is not None else [0, 180, 90, 270] if size[0] == size[1] else [0, 180]
    is_right = np.isin(angles, right)
    rest = np.flatnonzero(~is_right)
    warped = np.empty_like(images)
    for number in np.flatnonzero(is_right).tolist():
        image = torch.from_numpy(images[number]).permute(2, 0, 1)
        warped[number] = random_rotation(t, image, draws[number]).permute(1, 2, 0).numpy()
    if len(rest):
        matrices = [_inverse_matrix(t, size, angle=-angle) for angle in angles[rest].tolist()]
        warped[rest] = _warped(t, images[rest], matrices)
    return warped


def random_affine_batch(t: v2.RandomAffine, images: Pixels, draws: Draws) -> Pixels:
    """Rotate, shift, scale and shear each image of a batch in its own way."""
    size = images.shape[1:3]
    parameters = (_affine_parameters(t, size, row) for row in draws)
    return _warped(t, images, [_inverse_matrix(t, size, **some) for some in parameters])


def _affine_parameters(t: v2.RandomAffine, size: Sequence[int], draws: Draws) -> dict[str, Any]:
    share_x, share_y = t.translate or (0.0, 0.0)
    reach_x, reach_y = share_x * size[1], share_y * size[0]
    move_x, move_y = between(draws[1], -reach_x, reach_x), between(draws[2], -reach_y, reach_y)
    # Shear may be None, of x alone, or of x and y.
    shear = [*(t.shear or ()), 0.0, 0.0, 0.0, 0.0]
    return {
        "angle": between(draws[0], *t.degrees),
        "translate": [round(move_x), round(move_y)],
        "scale": between(draws[3], *(t.scale or (1.0, 1.0))),
        "shear": [between(draws[4], *shear[:2]), between(draws[5], *shear[2:4])],
    }


def _inverse_matrix(
    t: Any,
    size: Sequence[int],
    *,
    angle: float,
    translate: Sequence[float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: Sequence[float] = (0.0, 0.0),
) -> list[float]:
    """Return the 2×3 matrix from places in the result to places in the image, both from its centre,
    row by row.

    The formulas are those of torchvision's `_get_inverse_affine_matrix`, term by term.
    """
    rotation, shear_x, shear_y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    half_x, half_y = size[1] * 0.5, size[0] * 0.5
    x, y = t.center or (half_x, half_y)
    center_x, center_y = x - half_x, y - half_y
    moved_x, moved_y = center_x + float(translate[0]), center_y + float(translate[1])
    a = math.cos(rotation - shear_y) / math.cos(shear_y)
    b = -(a * math.tan(shear_x) + math.sin(rotation))
    c = math.sin(rotation - shear_y) / math.cos(shear_y)
    d = math.cos(rotation) - c * math.tan(shear_x)
    x_from_x, x_from_y = d / scale, -b / scale
    y_from_x, y_from_y = -c / scale, a / scale
    shift_x = center_x - x_from_x * moved_x - x_from_y * moved_y
    shift_y = center_y - y_from_x * moved_x - y_from_y * moved_y
    return [x_from_x, x_from_y, shift_x, y_from_x, y_from_y, shift_y]


def _warped(t: Any, images: Pixels, matrices: Sequence[Sequence[float]]) -> Pixels:
    """Sample each image through its own matrix."""
    height, width = images.shape[1:3]
    halves = torch.tensor([0.5 * width, 0.5 * height])
    thetas = torch.tensor(matrices).view(-1, 2, 3).transpose(1, 2).div_(halves)
    is_nearest = mode_of(t.interpolation) == InterpolationMode.NEAREST
    base, sample = _base_grid(height, width), _nearest if is_nearest else _bilinear
    warped = np.empty_like(images)
    for part in in_cache(images):
        # One by one, as torchvision does: the product of a batch may round differently.
        grid = torch.cat([base.bmm(theta[None]) for theta in thetas[part]])
        warped[part] = sample(images[part], grid.view(-1, height, width, 2), t.fill)
    return warped


@functools.lru_cache(maxsize=8)
def _base_grid(height: int, width: int) -> Tensor:
    """Return (x, y, 1) of each pixel, from the centre, (1, H * W, 3)."""
    x, y = (torch.linspace((1.0 - n) * 0.5, (n - 1.0) * 0.5, steps=n) for n in (width, height))
    places = torch.meshgrid(x, y, indexing="xy")
    return torch.stack([*places, torch.ones(height, width)], dim=-1).view(1, height * width, 3)


def _nearest(images: Pixels, grid: Tensor, fill: Any) -> Pixels:
    n, height, width, _ = images.shape
    # Places count from 1: 0 is what grid_sample gives outside.
    x, y = torch.arange(1.0, width + 1), torch.arange(1.0, height + 1)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(n, 2, height, width)
    sources = grid_sample(places, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    maps = sources.numpy().astype(np.int16) - np.int16(1)
    # OpenCV takes as many as it needs.
    border = [float(np.rint(value)) for value in _per_channel(fill, 3)]
    warped = np.empty_like(images)
    for number, image in enumerate(images):
        where = cv2.merge(list(maps[number]))
        moved = cv2.remap(
            image, where, _NO_MAP, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, border
        )
        # Of a single channel OpenCV drops the dimension.
        warped[number] = np.reshape(moved, image.shape)
    return warped


def _bilinear(images: Pixels, grid: Tensor, fill: Any) -> Pixels:
    """Sample as torchvision's `_apply_grid_transform`: one more channel says how much of a pixel
    lies inside.
    """
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if fill is not None:
        floats = torch.cat([floats, torch.ones_like(floats[:, :1])], dim=1)
    sampled = grid_sample(floats, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if fill is not None:
        values = torch.tensor(_per_channel(fill, images.shape[-1])).view(1, -1, 1, 1)
        sampled = sampled[:, :-1].sub_(values).mul_(sampled[:, -1:]).add_(values)
    return sampled.round_().permute(0, 2, 3, 1).numpy().astype(np.uint8)


def _per_channel(fill: Any, channels: int) -> list[float]:
    """Return a fill value for each channel."""
    values: list[float] = np.broadcast_to(np.ravel(fill or 0), channels).astype(float).tolist()
    return values


_ARGUMENTS = {
    "degrees": either(AT_LEAST_0, list_of(ANY, 2, is_rising=True)),
    "interpolation": ROTATION_MODES,
    "center": list_of(ANY, 2),
    "fill": FILL,
}


def _is_one_affine(t: v2.RandomAffine) -> bool:
    shear = t.shear or (0, 0)
    return is_one_value(t.degrees, t.scale, shear[:2], shear[2:] or None) and not any(
        t.translate or ()
    )


SPECS = (
    Spec(
        v2.RandomRotation,
        "rotate by a random angle",
        arguments={**_ARGUMENTS, "expand": flag()},
        example="10",
        draws=1,
        is_certain=lambda t: is_one_value(t.degrees),
        apply=random_rotation,
        batch=random_rotation_batch,
        can_batch=can_rotate_batch,
        size=lambda t, size: None if t.expand else size,
        tensor_modes=FEW_MODES,
    ),
    Spec(
        v2.RandomAffine,
        "rotate, shift, scale and shear at random",
        arguments={
            **_ARGUMENTS,
            "translate": list_of(SHARE, 2),
            "scale": list_of(ABOVE_0, 2, is_rising=True),
            "shear": either(AT_LEAST_0, list_of(ANY, 2, 4)),
        },
        example="10",
        draws=6,
        is_certain=_is_one_affine,
        apply=random_affine,
        batch=random_affine_batch,
        can_batch=can_rotate_batch,
        tensor_modes=FEW_MODES,
    ),
)
