import random as random_module

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import _geometry

from ptkit.core.data.transforms.geometry import is_rounded_in_each_pass
from ptkit.core.exporting.resizing import ResizeAnySize

MODES = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]


def check(step, pixels):
    """Compare with torchvision: bit for bit, or nearly where this machine resizes floats."""
    found, expected = ResizeAnySize(step)(pixels.float()), step(pixels).float()
    exact = is_rounded_in_each_pass(step.interpolation)
    torch.testing.assert_close(found, expected, atol=0 if exact else 1, rtol=0)
    assert (found != expected).float().mean() <= (0 if exact else 0.05)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_pixels_are_those_of_torchvision_bit_for_bit(mode):
    draw, random = random_module.Random(0), torch.Generator().manual_seed(0)
    for _ in range(60):
        before, after = ([draw.randint(2, draw.choice([20, 200])) for _ in "hw"] for _ in "ba")
        image = torch.randint(0, 256, (1, 3, *before), dtype=torch.uint8, generator=random)
        check(v2.Resize(after, mode), image)
        # Values at both ends bring out what goes beyond them.
        check(v2.Resize(after, mode), (image > 127).to(torch.uint8) * 255)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_photograph_of_many_pixels_keeps_exact_sums(mode):
    # Far more than 2^24, up to which float32 has every whole number.
    image = torch.full((1, 3, 3000, 5), 255, dtype=torch.uint8)
    image[..., ::2] = 254
    check(v2.Resize((3, 3), mode), image)


def test_without_a_kernel_for_bytes_pixels_are_rounded_once(monkeypatch):
    monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda _mode: False)
    for before in ((50, 90), (20, 7)):
        image = torch.randint(0, 256, (1, 3, *before), dtype=torch.uint8)
        check(v2.Resize((33, 21)), image)
