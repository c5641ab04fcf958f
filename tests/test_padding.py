"""Images in the centre of a square: the pixels, in every form."""

import numpy as np
import pytest
import torch
from PIL import Image

from ptkit.core.data.transforms.catalogue import build_transform, spec_of
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse, parse_all

WIDE = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)


def padded(call, pixels):
    return Pipeline.parse([call, "ToTensor()"]).apply_prefix(pixels)


def test_image_is_in_the_centre_of_a_square_of_its_longer_side():
    square = padded("PadToSquare(fill=[7, 8, 9])", WIDE)
    assert square.shape == (5, 5, 3)
    # Of three rows one is above and two are below.
    np.testing.assert_array_equal(square[1:3], WIDE)
    assert {tuple(pixel) for row in (0, 3, 4) for pixel in square[row]} == {(7, 8, 9)}
    high = padded("PadToSquare(fill=[7, 8, 9])", WIDE.transpose(1, 0, 2))
    np.testing.assert_array_equal(high, square.transpose(1, 0, 2))


@pytest.mark.parametrize("call", ["PadToSquare()", "PadToSquare(200)", "PadToSquare([1, 2, 250])"])
@pytest.mark.parametrize("size", [(2, 5), (6, 3), (4, 4), (1, 9)])
def test_every_form_gives_the_same_pixels(call, size):
    t, pixels = (
        build_transform(parse(call)),
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8),
    )
    expected = t(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(spec_of(t).of_pixels(t, pixels), expected)
    np.testing.assert_array_equal(np.asarray(t(Image.fromarray(pixels))), expected)
    np.testing.assert_array_equal(padded(call, pixels), expected)


def test_grey_images_are_padded_with_one_number():
    grey = Pipeline.parse(["Grayscale()", "PadToSquare(fill=50)", "ToTensor()"])
    assert grey.apply_prefix(WIDE)[..., 0].tolist()[0] == [50] * 5
    with pytest.raises(UsageError, match="PadToSquare has 3 numbers as fill"):
        Pipeline.parse(["Grayscale()", "PadToSquare(fill=[1, 2, 3])", "ToTensor()"])


def test_size_is_known_after_a_resize_and_evaluation_keeps_both():
    calls = parse_all(["PadToSquare(fill=9)", "Resize((4, 4))", "RandomHorizontalFlip()"])
    pipeline = Pipeline.of([*calls, parse("ToTensor()")])
    assert pipeline.plan.prefix_size == (4, 4)
    assert pipeline.size_after_prefix((30, 20)) == (4, 4)
    assert evaluation_of(calls) == calls[:2]
