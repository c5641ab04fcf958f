"""RandomErasing: boxes from keyed draws, for one float image and for whole float batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.transforms.geometry import BOX_DRAWS, Box, box_mask, random_sides
from ptkit.core.data.transforms.spec import NEEDS_FLOATS, Draws, Spec, has_p_0
from ptkit.core.device import constant, sent
from ptkit.core.parts.argument_rules import ABOVE_0, ANY, SHARE, either, flag, list_of, one_of


def random_erasing(t: v2.RandomErasing, image: Tensor, draws: Draws) -> Tensor:
    """Blot out a random box with probability p."""
    height, width = F.get_size(image)
    box = _erased_box(height, width, t, draws)
    return image if box is None else F.erase(image, *box, _value(t, image, box, draws))


def random_erasing_floats(t: v2.RandomErasing, images: Tensor, draws: Draws) -> Tensor:
    """Blot out a random box of some images of a float batch (n, C, H, W), in place."""
    height, width = images.shape[-2:]
    boxes = [_erased_box(height, width, t, row) for row in draws]
    # On a GPU each assignment is a kernel to start; on a CPU a mask would touch every pixel.
    if images.device.type != "cpu" and t.value is not None:
        return _erased_by_mask(t, images, boxes)
    erased = [(number, box) for number, box in enumerate(boxes) if box is not None]
    drawn = [_value(t, images[k], box, draws[k]) for k, box in erased]
    values = _sent_together(drawn, images.device)
    for (number, (top, left, h, w)), value in zip(erased, values, strict=True):
        images[number, :, top : top + h, left : left + w] = value
    return images


def _sent_together(values: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Return tensors on a device, all in one copy."""
    if device.type == "cpu" or not values:
        return values
    flat = sent(torch.cat([value.flatten() for value in values]), device)
    parts = flat.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def _erased_by_mask(t: v2.RandomErasing, images: Tensor, boxes: list[Box | None]) -> Tensor:
    corners = [(x, y, x + w, y + h) for y, x, h, w in (box or (0, 0, 0, 0) for box in boxes)]
    value = constant(t.value, images.device).view(1, -1, 1, 1)
    return torch.where(box_mask(np.array(corners), images), value, images)


def _value(t: v2.RandomErasing, image: Tensor, box: Box, draws: Draws) -> Tensor:
    """Return what fills a box of an image (C, H, W): (1 or C, 1, 1), or normal numbers (C, h, w)
    where the value is random.
    """
    if t.value is not None:
        return torch.tensor(t.value)[:, None, None]
    # Seeded by a draw: the noise of an image does not depend on its batch.
    generator = torch.Generator().manual_seed(int(draws[1] * (1 << 53)))
    return torch.randn((image.shape[-3], box[2], box[3]), generator=generator)


def _erased_box(height: int, width: int, t: v2.RandomErasing, draws: Draws) -> Box | None:
    """Return (top, left, height, width) of torchvision's random box; None: not drawn, or ten tries
    found none.
    """
    if draws[0] >= t.p:
        return None
    # The other way round than RandomResizedCrop: here the aspect is height by width.
    most = height - 1, width - 1
    sides = random_sides(t, height * width, draws[2:], least=0, most=most)
    if sides is None:
        return None
    h, w = sides
    return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w


SPECS = (
    Spec(
        v2.RandomErasing,
        "blot out a random box with probability p",
        arguments={
            "p": SHARE,
            "scale": list_of(SHARE, 2, is_rising=True),
            "ratio": list_of(ABOVE_0, 2, is_rising=True),
            "value": either(ANY, list_of(ANY, 1, 3), one_of("random")),
            "inplace": flag(),
        },
        # Whether to erase, the seed of random values, and the box.
        draws=2 + BOX_DRAWS,
        apply=random_erasing,
        floats=random_erasing_floats,
        changes_nothing=has_p_0,
        refuses=NEEDS_FLOATS,
    ),
)
