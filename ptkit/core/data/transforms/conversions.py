"""How pixels are stored and scaled: ToTensor, ToPILImage, Normalize, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.transforms.spec import (
    FLOAT,
    NEEDS_FLOATS,
    NORMALISED,
    PIL,
    WHITENED,
    Draws,
    Spec,
    refused,
)
from ptkit.core.device import constant
from ptkit.core.parts.argument_rules import ABOVE_0, ANY, flag, list_of, one_of


class ToTensor(nn.Module):
    """Turn uint8 (C, H, W) or a PIL image into float32 (C, H, W) with values 0..1."""

    # Not v2's own, which leaves tensors unscaled.

    def forward(self, image: Any) -> Tensor:
        tensor: Tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        tensor = F.to_dtype(tensor, torch.float32, scale=True)
        return tensor


def normalize_floats(t: v2.Normalize, images: Tensor, _draws: Draws) -> Tensor:
    """Normalise a float batch (n, C, H, W), in place; in rows where channels are last.

    A broadcast over three channels takes ten times longer than one over a row.
    """
    n, channels, height, width = images.shape
    mean, std = (
        constant(v, images.device, dtype=images.dtype).expand(channels) for v in (t.mean, t.std)
    )
    if not images.is_contiguous(memory_format=torch.channels_last):
        return images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
    rows = images.permute(0, 2, 3, 1).view(n, height, width * channels)
    rows.sub_(mean.repeat(width)).div_(std.repeat(width))
    return images


SPECS = (
    Spec(
        ToTensor,
        "to float, values 0..1",
        refuses=refused(
            "{} appears twice; the image is a float tensor already", FLOAT, WHITENED, NORMALISED
        ),
        gives=FLOAT,
        is_conversion=True,
    ),
    Spec(
        v2.ToPILImage,
        "hand a PIL image to the transform that follows",
        arguments={"mode": one_of("RGB", "YCbCr", "HSV")},
        refuses=refused("{} must come before ToTensor", FLOAT, WHITENED, NORMALISED)
        | refused("{} appears twice", PIL),
        gives=PIL,
        is_conversion=True,
    ),
    Spec(
        v2.Normalize,
        "subtract the mean, divide by the standard deviation, per channel",
        arguments={"mean": list_of(ANY, 1, 3), "std": list_of(ABOVE_0, 1, 3), "inplace": flag()},
        example="mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]",
        floats=normalize_floats,
        refuses=NEEDS_FLOATS | refused("{} appears twice", NORMALISED),
        gives=NORMALISED,
        is_conversion=True,
    ),
)


def denormalise(
    tensor: Tensor, mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Turn normalised (..., C, H, W) back into uint8 RGB pixels (..., H, W, 3); one channel becomes
    grey.

    mean, std: a number each, or one a channel.
    """
    spread = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
    # Rounded: a cast alone cuts off, and many values would come back a level darker.
    pixels = (tensor.detach().cpu().float() * spread + centre).mul(255).round().clamp(0, 255)
    rgb = pixels.to(torch.uint8).movedim(-3, -1)
    return rgb.expand(*rgb.shape[:-1], 3).contiguous().numpy()
