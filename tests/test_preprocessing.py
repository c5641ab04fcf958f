import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from ptkit.core.data.transforms.geometry import is_rounded_in_each_pass
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.exporting.preprocessing import Grey, preprocessing_of
from ptkit.core.exporting.quiet import quietly

NORMALIZE = "Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])"
# Where this machine resizes floats, a few pixels are a level off.
SHARE_OFF = 0 if is_rounded_in_each_pass(InterpolationMode.BILINEAR) else 0.01
SIDES = (5, 16, 31, 64, 99)


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "calls",
    [
        ["Resize((16, 16))", "ToTensor()", NORMALIZE],
        ["Resize((11, 40), interpolation=InterpolationMode.BICUBIC)", "ToTensor()", NORMALIZE],
        ["Resize(37)", "CenterCrop(32)", "ToTensor()", NORMALIZE],
        ["Resize(20, max_size=25)", "CenterCrop((24, 19))", "Pad(3, fill=[1, 2, 3])", "ToTensor()"],
        ["PadToSquare(fill=[9, 99, 199])", "Resize((21, 21))", "ToTensor()", NORMALIZE],
        ["CenterCrop(30)", "Grayscale()", "ToTensor()", "Normalize(mean=[0.5], std=[0.25])"],
        ["Grayscale(num_output_channels=3)", "Resize((31, 33))", "ToTensor()", NORMALIZE],
        ["Resize((20, 20))", "Pad([1, 2], padding_mode='reflect')", "ToTensor()"],
        ["Resize((8, 9))", "RandomHorizontalFlip(p=1)", "RandomVerticalFlip(p=1)", "ToTensor()"],
        ["Resize((8, 9))", "ToTensor()", "Pad(2)", "RandomHorizontalFlip(p=1)", NORMALIZE],
    ],
    ids=str,
)
def test_a_graph_makes_of_every_size_what_evaluation_makes(calls):
    pipeline = Pipeline.parse(calls)
    graph = preprocessing_of(pipeline)
    with quietly():
        compiled = torch.jit.script(graph)
    for height, width in itertools.product(SIDES, SIDES):
        image = pixels(height, width)
        expected = pipeline.view(image)
        for form in (graph, compiled):
            found = form(torch.from_numpy(image)[None])[0]
            assert found.shape == expected.shape
            # Normalize may round the last bit of a float otherwise; a level of a pixel is 0.004.
            assert ((found - expected).abs() > 1e-6).float().mean() <= SHARE_OFF


@pytest.mark.parametrize(
    "calls",
    [
        ["Resize((16, 16))", "ToTensor()", "Grayscale()", "Normalize([0.5], [0.2])"],
        ["ToTensor()", "Resize((16, 21))", NORMALIZE],
        ["ToTensor()", "Resize(20, interpolation=InterpolationMode.BICUBIC)", "CenterCrop(16)"],
        ["Resize((8, 9))", "ToTensor()", "PadToSquare(fill=[0.1, 0.5, 0.9])", NORMALIZE],
        ["Resize((8, 9))", "ToTensor()", NORMALIZE, "Pad(2, fill=0.5)", "Resize((11, 11))"],
    ],
    ids=str,
)
def test_after_to_tensor_nothing_is_rounded(calls):
    pipeline = Pipeline.parse(calls)
    graph = preprocessing_of(pipeline)
    with quietly():
        compiled = torch.jit.script(graph)
    for height, width in itertools.product((5, 31, 64), (16, 40)):
        image = pixels(height, width)
        for form in (graph, compiled):
            found = form(torch.from_numpy(image)[None])[0]
            # A level of a pixel, normalised, is 0.02.
            torch.testing.assert_close(found, pipeline.view(image), atol=2e-5, rtol=0)


def test_every_grey_is_that_of_torchvision():
    levels = torch.arange(0, 256, 3, dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 86)
    step = v2.Grayscale()
    assert torch.equal(Grey(step)(colours.float()), step(colours).float())


def test_whitening_is_in_the_graph():
    matrix = torch.randn(28, 27, generator=torch.Generator().manual_seed(0)) * 0.1
    calls = ["Resize((3, 3))", "ToTensor()", "LinearTransformation('whitening.npz')"]
    pipeline = Pipeline.parse(calls, tensors={"whitening.npz": matrix})
    image = pixels(7, 5)
    found = preprocessing_of(pipeline)(torch.from_numpy(image)[None])[0]
    torch.testing.assert_close(found, pipeline.view(image))


@pytest.mark.parametrize(
    "call",
    [
        "FiveCrop(8)",
        "RandomRotation((5, 5))",
        "Resize((8, 8), interpolation=InterpolationMode.NEAREST)",
        "Resize((8, 8), antialias=False)",
        "Pad(2, padding_mode='symmetric')",
        "RandomHorizontalFlip()",
        "Lambda('torch:relu')",
    ],
)
def test_a_step_without_a_form_is_named_with_what_leaves_it_out(call):
    pipeline = Pipeline.parse(["Resize((9, 9))", call, "ToTensor()"])
    with pytest.raises(
        UsageError, match=r"cannot be put into a graph.*--without-preprocessing"
    ) as e:
        preprocessing_of(pipeline)
    assert call.partition("(")[0] in str(e.value)
