"""Photographs put into a batch one by one, without tensors: the same pixels as step by step."""

import numpy as np
import pytest

from ptkit.core.data.transforms.filling import can_fill, filled
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import Pipeline


def photos() -> list[np.ndarray]:
    shapes = [(60, 80, 3), (90, 31, 3), (24, 24, 3), (1, 50, 3), (300, 200, 3)]
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]


@pytest.mark.parametrize("crop", ["24", "(20, 37)", "24, scale=(1, 1), ratio=(1, 1)"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_filled_batch_has_the_pixels_of_single_images(crop, times):
    pipeline = Pipeline.parse([f"RandomResizedCrop({crop})", "ToTensor()"])
    images = photos()
    draws = pipeline.draws(0, epoch=0, keys=np.arange(len(images)))
    reductions = [
        None if times == 1 else Reduction((image.shape[0] * 2, image.shape[1] * 2), 2)
        for image in images
    ]
    if not can_fill(pipeline.plan):
        pytest.skip("torchvision resizes floats here, so images go step by step")
    expected = pipeline.stack(
        [
            pipeline.apply_to_image(image, own, reduction=reduction)
            for image, own, reduction in zip(images, draws, reductions, strict=True)
        ]
    )
    got = filled(pipeline.plan, zip(images, reductions, strict=True), draws)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "calls",
    [
        ["RandomResizedCrop(24, antialias=False)", "ToTensor()"],
        ["RandomResizedCrop(24, interpolation=InterpolationMode.BICUBIC)", "ToTensor()"],
        ["Grayscale()", "RandomResizedCrop(24)", "ToTensor()"],
        ["RandomResizedCrop(24)", "ToPILImage()", "ToTensor()"],
        ["Resize((24, 24))", "ToTensor()"],
    ],
)
def test_other_lists_go_step_by_step(calls):
    assert not can_fill(Pipeline.parse(calls).plan)
