"""Resize for images of any size inside a graph, with the pixels that evaluation gets.

torch resizes uint8 in two passes, columns first. The weights of a pass are rounded to whole numbers
of a common power of two, and each pass ends in whole pixels. Here a pass is a product with a matrix
of those numbers, which float32 holds exactly. Where torchvision resizes floats and rounds them, a
pass is a product with the weights, and a pixel in 10,000 may be a level off.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from ptkit.core.data.transforms.geometry import is_rounded_in_each_pass
from ptkit.core.data.transforms.spec import mode_of
from ptkit.core.errors import UsageError

_SMOOTH = {InterpolationMode.BILINEAR: 1.0, InterpolationMode.BICUBIC: 2.0}


class ResizeAnySize(nn.Module):
    """Resize whole pixels, float32 (n, C, H, W), as torchvision's Resize does uint8; or values that
    are not whole, as it does floats.

    Written for TorchScript as well as for torch.export.

    Raises:
        UsageError: an interpolation without a form here.
    """

    # TorchScript knows no constants of a module. Weights lie below 2^15, and have at most so many
    # bits after the point; they are split, so that the sums of either half stay below 2^24.
    most_bits: Final[int] = 22
    below: Final[int] = 1 << 15
    lower_part: Final[int] = 1 << 7

    def __init__(self, t: v2.Resize, *, is_whole: bool = True) -> None:
        super().__init__()
        mode = mode_of(t.interpolation)
        if mode not in _SMOOTH or t.antialias is not True:
            raise UsageError(f"only BILINEAR and BICUBIC with antialias, found {mode.name}")
        size = list(t.size or [])
        # 0 for a side that follows from the image.
        self.height: int = size[0] if len(size) == 2 else 0
        self.width: int = size[-1] if len(size) == 2 else 0
        self.shorter = size[0] if len(size) == 1 else 0
        self.longest: int = t.max_size or 0
        self.reach: float = _SMOOTH[mode]
        self.is_whole: bool = is_whole
        self.is_rounded_twice: bool = is_whole and is_rounded_in_each_pass(mode)

    def forward(self, images: Tensor) -> Tensor:
        height, width = self._size(images.shape[2], images.shape[3])
        columns = self._weights(images.shape[3], width, images.device)
        rows = self._weights(images.shape[2], height, images.device)
        if not self.is_rounded_twice:
            images = torch.matmul(images, columns.t()).transpose(2, 3)
            images = torch.matmul(images, rows.t()).transpose(2, 3)
            return images.clamp(0.0, 255.0).round() if self.is_whole else images
        images = self._passed(images, columns)
        return self._passed(images.transpose(2, 3), rows).transpose(2, 3)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width afterwards, as torchvision computes them."""
        if self.height > 0:
            return self.height, self.width
        short = lesser(height, width)
        long = height + width - short
        if self.shorter == 0:
            return height * self.longest // long, width * self.longest // long
        new_height, new_width = height * self.shorter // short, width * self.shorter // short
        if self.longest == 0:
            return new_height, new_width
        long = long * self.shorter // short
        new_height = lesser(new_height, self.longest * new_height // long)
        new_width = lesser(new_width, self.longest * new_width // long)
        return new_height, new_width

    def _weights(self, before: int, after: int, device: torch.device) -> Tensor:
        """Return how much each pixel of a side counts in each new one, floats (after, before)."""
        # Rounded later, they must be exact; else as torch computes them for floats.
        kind = torch.float64 if self.is_rounded_twice else torch.float32
        places = torch.arange(before, dtype=kind, device=device)
        scale = places.new_full((1,), before) / places.new_full((1,), after)
        stretch = scale.clamp(min=1.0)
        centres = scale * (torch.arange(after, dtype=kind, device=device)[:, None] + 0.5)
        reach = self.reach * stretch
        # Below 0 there is no pixel; above 0 this cuts off as a conversion to a whole number does.
        starts, ends = (centres - reach + 0.5).floor(), (centres + reach + 0.5).floor()
        x = ((places - centres + 0.5) * (1.0 / stretch)).abs()
        if self.reach < 1.5:
            curve = (1.0 - x).clamp(min=0.0)
        else:
            # The cubic convolution of Keys (1981) with a = -0.5, as Pillow has it.
            inner = (1.5 * x - 2.5) * x * x + 1.0
            outer = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
            curve = torch.where(x < 1.0, inner, torch.where(x < 2.0, outer, torch.zeros_like(x)))
        curve = torch.where((places >= starts) & (places < ends), curve, torch.zeros_like(curve))
        return curve / curve.sum(dim=1, keepdim=True)

    def _passed(self, images: Tensor, weights: Tensor) -> Tensor:
        """Resize the last side: (n, C, H, W) to (n, C, H, after)."""
        bits = torch.arange(1, self.most_bits + 1, dtype=torch.float64, device=images.device)
        powers = 2.0**bits
        fits = (0.5 + weights.max() * powers).floor() < self.below
        unit = 2.0 ** fits.to(torch.float64).sum()
        # Halves are rounded away from zero.
        whole = (weights.abs() * unit + 0.5).floor() * weights.sign()
        upper = (whole / self.lower_part).floor()
        lower = whole - upper * self.lower_part
        upper_sums = torch.matmul(images, upper.float().t()).double()
        lower_sums = torch.matmul(images, lower.float().t()).double()
        # Doubles hold the sum of both exactly; a division of whole numbers would go through float32
        # in some exporters.
        sums = upper_sums * self.lower_part + lower_sums
        return (sums / unit + 0.5).floor().clamp(0.0, 255.0).float()


def lesser(a: int, b: int) -> int:
    """Return the lesser of two numbers above 0, by arithmetic alone: a comparison of sizes would be
    settled for good where a graph is exported.
    """
    times = a // (b + 1)
    is_more = 2 * times // (times + 1)
    return a + is_more * (b - a)
