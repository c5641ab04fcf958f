"""What runs on the training device makes the batches that the CPU makes; here that device is the
CPU, too.
"""

import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from ptkit.core.data.keyed import uniforms
from ptkit.core.data.transforms.catalogue import BY_CLASS, build_transform, num_draws, spec_of
from ptkit.core.data.transforms.mixing import _pasted, _pasted_by_mask
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.parts.calls import parse

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 7, 9, 3), dtype=np.uint8)
# Grey, dark, in strong colours: where hue and saturation are special.
PIXELS[0] = 128
PIXELS[1, :, :, 1:] = PIXELS[1, :, :, :1]
PIXELS[2] //= 100
PIXELS[3] = PIXELS[3] // 128 * 255

MOVING = [
    "RandomCrop((4, 6))",
    "RandomCrop((7, 9), padding=2)",
    "RandomCrop(7, padding=[3, 1])",
    "RandomCrop((8, 10), padding=[1, 2, 3, 4], fill=77)",
    "RandomCrop(7, padding=2, fill=[9, 99, 199])",
    "RandomCrop(7, padding=12, padding_mode='edge')",
    "RandomCrop(7, padding=[8, 6], padding_mode='reflect')",
    "RandomCrop(7, padding=7, padding_mode='symmetric')",
    "RandomCrop((14, 20), padding=1, pad_if_needed=True)",
    "RandomHorizontalFlip(p=0.3)",
    "RandomVerticalFlip(p=0.3)",
    "PadToSquare(fill=77.3)",
    "PadToSquare(fill=[9, 99, 199])",
    "FiveCrop((3, 4))",
    "TenCrop(5)",
    "TenCrop((4, 5), vertical_flip=True)",
    "RandomApply([RandomVerticalFlip(), RandomHorizontalFlip()], p=0.6)",
    "RandomChoice([RandomVerticalFlip(p=0.9), RandomHorizontalFlip(p=1.0)], p=[1, 3])",
    "RandomChoice([RandomCrop((7, 9), padding=2)])",
    "RandomOrder([RandomCrop((7, 9), padding=2), RandomHorizontalFlip(), RandomVerticalFlip()])",
]
COLORS = [
    "Grayscale()",
    "Grayscale(num_output_channels=3)",
    "RandomGrayscale(p=0.4)",
    "ColorJitter(brightness=0.7)",
    "ColorJitter(contrast=(0, 2))",
    "ColorJitter(saturation=[0.1, 3])",
    "ColorJitter(hue=0.5)",
    "ColorJitter(0.4, 0.4, 0.4, 0.2)",
    "ColorJitter()",
    "RandomApply([ColorJitter(0.4, 0.4)], p=0.6)",
    "RandomChoice([RandomGrayscale(p=0.8), ColorJitter(0.9)])",
    "RandomOrder([ColorJitter(0.5), RandomHorizontalFlip(), RandomGrayscale(p=0.5)])",
]
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
)


def draws_for(transform):
    columns = num_draws(transform)
    return uniforms(0, "test", epoch=0, indices=np.arange(40), columns=columns)


def on_cpu_and_on(device, call, pixels=PIXELS):
    """Return the pixels of the numpy form and of the device form for the same draws."""
    transform = build_transform(parse(call))
    kernel, draws = spec_of(transform), draws_for(transform)
    there = kernel.device(
        transform, torch.from_numpy(pixels).to(device), torch.from_numpy(draws).to(device)
    )
    return torch.from_numpy(kernel.batch(transform, pixels.copy(), draws)), there


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("call", MOVING)
def test_pixels_move_on_the_device_as_on_the_cpu(call, device):
    expected, found = on_cpu_and_on(device, call)
    assert torch.equal(found.cpu(), expected)
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("device", "levels"), [("cpu", 0), pytest.param("cuda", 1, marks=GPU.marks)]
)
@pytest.mark.parametrize("call", COLORS)
def test_colors_on_the_device_are_those_of_the_cpu(call, device, levels):
    expected, found = on_cpu_and_on(device, call)
    torch.testing.assert_close(found.cpu().int(), expected.int(), rtol=0, atol=levels)
    assert (found.dtype, found.is_contiguous()) == (torch.uint8, True)


@pytest.mark.parametrize("device", ["cpu", GPU])
# A fill of three numbers is for three channels.
@pytest.mark.parametrize("call", [call for call in [*MOVING, *COLORS] if "fill=[" not in call])
def test_grey_pixels_on_the_device_are_those_of_the_cpu(call, device):
    expected, found = on_cpu_and_on(device, call, np.ascontiguousarray(PIXELS[..., :1]))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=int(device == "cuda"))
    assert found.is_contiguous()


@pytest.mark.parametrize("call", [*MOVING, *COLORS])
def test_device_form_leaves_its_input_alone(call):
    transform, images = build_transform(parse(call)), torch.from_numpy(PIXELS.copy())
    spec_of(transform).device(transform, images, torch.from_numpy(draws_for(transform)))
    assert torch.equal(images, torch.from_numpy(PIXELS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("RandomCrop((8, 9))", "RandomCrop of 8×9 from an image of 7×9"),
        (
            "RandomCrop(7, padding=7, padding_mode='reflect')",
            "padding of 7 pixels, reflect, around an image of 7×9",
        ),
        (
            "RandomCrop(7, padding=8, padding_mode='symmetric')",
            "padding of 8 pixels, symmetric, around an image",
        ),
    ],
)
def test_crop_that_does_not_fit_is_refused_on_the_device_too(call, message):
    with pytest.raises(ValueError, match=message):
        on_cpu_and_on("cpu", call)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_boxes_of_cutmix_are_pasted_by_a_mask_as_one_by_one(memory_format):
    images = torch.rand(40, 3, 7, 9, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=memory_format
    )
    left, top = RANDOM.integers(0, 9, 40), RANDOM.integers(0, 7, 40)
    boxes = np.stack([left, top, np.minimum(left + 4, 9), np.minimum(top + 3, 7)], axis=1)
    expected = _pasted(images, boxes)
    assert torch.equal(_pasted_by_mask(images, boxes), expected)
    assert not torch.equal(expected, images)


# --------------------------------------------------------------------------------------------- plan

CROP, FLIP, JITTER = "RandomCrop(8, padding=1)", "RandomHorizontalFlip()", "ColorJitter(0.4)"
CUDA = torch.device("cuda")


def names(steps):
    return [type(step.transform).__name__ for step in steps]


@pytest.mark.parametrize(
    ("calls", "batched", "on_device"),
    [
        ([CROP, FLIP, JITTER], [], ["RandomCrop", "RandomHorizontalFlip", "ColorJitter"]),
        # A rotation has no form for the device, and what was there does not come back.
        (
            [CROP, "RandomRotation(9)", FLIP],
            ["RandomCrop", "RandomRotation"],
            ["RandomHorizontalFlip"],
        ),
        (
            [FLIP, f"RandomApply([{FLIP}, RandomRotation(9)])"],
            ["RandomHorizontalFlip", "RandomApply"],
            [],
        ),
        ([f"RandomApply([{FLIP}, {JITTER}])"], [], ["RandomApply"]),
        (["RandomResizedCrop(8)", FLIP], [], ["RandomHorizontalFlip"]),
        ([], [], []),
    ],
)
def test_plan_for_a_gpu_moves_the_last_steps_there(calls, batched, on_device):
    pipeline = Pipeline.parse(["Resize((8, 8))", *calls, "ToTensor()"])
    there = pipeline.for_device(CUDA)
    assert (names(there.plan.batch_steps), names(there.plan.device_steps)) == (batched, on_device)
    assert (there.plan.prefix, there.plan.image_steps, there.plan.float_steps) == (
        pipeline.plan.prefix,
        pipeline.plan.image_steps,
        pipeline.plan.float_steps,
    )
    assert pipeline.for_device(torch.device("cpu")) is pipeline


CALLS = [CROP, "RandomRotation(9)", "TenCrop(6)", FLIP, "ColorJitter(0.4, 0.4, 0.4, 0.1)"]


def test_plan_for_a_gpu_gives_the_same_batches():
    pipeline = Pipeline.parse(
        ["Resize((8, 8))", *CALLS, "ToTensor()", "Normalize([0.5], [0.2])", "RandomErasing()"]
    )
    there = pipeline.for_device(CUDA)
    pixels = RANDOM.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    draws = uniforms(0, "test", epoch=1, indices=np.arange(5), columns=pipeline.num_draws)
    expected = pipeline.finish_on_device(
        torch.from_numpy(pipeline.apply_to_batch(pixels.copy(), draws)), draws
    )
    assert expected.shape == (50, 3, 6, 6)
    half_way = torch.from_numpy(there.apply_to_batch(pixels.copy(), draws))
    assert torch.equal(there.finish_on_device(half_way, draws), expected)
    assert torch.equal(
        there.finish_on_device(half_way, draws, device_draws=torch.from_numpy(draws)), expected
    )


def test_plan_for_a_gpu_goes_to_worker_processes_as_it_is():
    pipeline = Pipeline.parse(["Resize((8, 8))", "AutoAugment()", *CALLS, "ToTensor()"]).for_device(
        CUDA
    )
    copy = pickle.loads(pickle.dumps(pipeline))
    assert (names(copy.plan.batch_steps), names(copy.plan.device_steps)) == (
        names(pipeline.plan.batch_steps),
        names(pipeline.plan.device_steps),
    )


@pytest.mark.parametrize(
    "call", ["RandomErasing(p=0.7, value='random')", "RandomErasing(p=0.7, value=[1, 2, 3])"]
)
@pytest.mark.parametrize("device", [GPU])
def test_erasing_on_a_gpu_is_that_of_the_cpu(call, device):
    transform = build_transform(parse(call))
    images, draws = torch.rand(40, 3, 7, 9), draws_for(transform)
    expected = spec_of(transform).floats(transform, images.clone(), draws)
    assert torch.equal(
        spec_of(transform).floats(transform, images.to(device), draws).cpu(), expected
    )


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("call", [*MOVING, *COLORS])
def test_device_forms_never_wait_for_the_gpu(call, device, nothing_waits):
    transform = build_transform(parse(call))
    images = torch.from_numpy(PIXELS).to(device)
    draws = torch.from_numpy(draws_for(transform)).to(device)
    spec_of(transform).device(transform, images, draws)
    with nothing_waits():
        spec_of(transform).device(transform, images, draws)


def test_every_batch_form_for_pixels_but_rotations_has_a_device_form():
    without = {
        kind
        for kind, kernel in BY_CLASS.items()
        if kernel.batch is not None and kernel.device is None
    }
    assert without == {v2.RandomRotation, v2.RandomAffine}
