import random

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from ptkit.core.exporting.resizing import ResizeAnySize

MODES = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_pixels_are_those_of_torchvision_bit_for_bit(mode):
    draw = random.Random(0)
    for _ in range(60):
        before, after = ([draw.randint(1, draw.choice([20, 200])) for _ in "hw"] for _ in "ba")
        step = v2.Resize(after, mode)
        image = torch.randint(0, 256, (1, 3, *before), dtype=torch.uint8)
        # Values at both ends bring out what goes beyond them.
        for pixels in (image, (image > 127).to(torch.uint8) * 255):
            found = ResizeAnySize(step)(pixels.float())
            assert torch.equal(found, step(pixels).float()), (before, after)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_photograph_of_many_pixels_keeps_exact_sums(mode):
    # Far more than 2^24, up to which float32 has every whole number.
    image = torch.full((1, 3, 3000, 5), 255, dtype=torch.uint8)
    image[..., ::2] = 254
    step = v2.Resize((3, 3), mode)
    assert torch.equal(ResizeAnySize(step)(image.float()), step(image).float())


@pytest.mark.parametrize("where", ["torchvision", "elsewhere"])
def test_without_a_kernel_for_bytes_pixels_are_rounded_once(where, monkeypatch):
    from torchvision.transforms.v2.functional import _geometry

    def has_kernel(_mode):
        return where == "torchvision"

    monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", has_kernel)
    step = v2.Resize((33, 21))
    image = torch.randint(0, 256, (1, 3, 50, 90), dtype=torch.uint8)
    expected = step(image).float()
    assert torch.equal(ResizeAnySize(step)(image.float()), expected)
