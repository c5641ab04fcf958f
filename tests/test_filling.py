"""Photographs put into a batch one by one, without tensors: the same pixels as step by step."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list

from ptkit.core.data.keyed import Selection
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.decoding import decode_all
from ptkit.core.data.loading.streaming import BatchMaker, in_threads
from ptkit.core.data.transforms.filling import filled, filled_shape
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import Pipeline, apply_steps
from ptkit.core.device import thread_pool


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
    if filled_shape(pipeline.plan) is None:
        pytest.skip("torchvision resizes floats here, so images go step by step")
    expected = pipeline.stack(
        [
            pipeline.apply_to_image(image, own, reduction=reduction)
            for image, own, reduction in zip(images, draws, reductions, strict=True)
        ]
    )
    got = filled(pipeline.plan, zip(images, reductions, strict=True), draws)
    np.testing.assert_array_equal(got, expected)


LISTS = [
    ["Resize((24, 20))"],
    ["Resize(30)", "CenterCrop(24)"],
    ["Resize(30, max_size=60)", "Resize((7, 9))"],
    ["CenterCrop((25, 26))"],
    ["Resize((24, 20), antialias=False)", "CenterCrop(11)"],
    ["Resize((24, 20), interpolation=InterpolationMode.NEAREST)"],
    ["Grayscale()", "Resize((9, 9))"],
    ["Pad(3)", "Resize(9)", "RandomCrop(9)", "RandomHorizontalFlip()"],
    ["Resize((9, 9))", "RandomCrop(9, padding=2)", "RandomHorizontalFlip()"],
    ["Resize(40)", "RandomResizedCrop(24)"],
]


@pytest.mark.parametrize("calls", LISTS)
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_list_gives_the_pixels_of_torchvision_image_by_image(calls, is_kept, tmp_path):
    for number, image in enumerate(photos()):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    write_list(tmp_path / "list.txt", [(f"{number}.png", 0) for number in range(5)])
    images = read_list(tmp_path / "list.txt")
    pipeline = Pipeline.parse([*calls, "ToTensor()"])
    # Of some versions torchvision resizes floats, and crops go step by step.
    assert filled_shape(pipeline.plan) is not None or calls == LISTS[-1]
    kept = decode_all(images, pipeline) if is_kept else None
    maker = BatchMaker(images, pipeline, kept, torch.zeros(5, dtype=torch.int64))
    draws = pipeline.draws(0, epoch=0, keys=np.arange(5))
    batch = maker.make(Selection(np.arange(5), draws))
    steps = pipeline.plan.prefix + pipeline.plan.image_steps + pipeline.plan.batch_steps
    for pixels, own, got in zip(photos(), draws, batch, strict=True):
        expected = apply_steps(steps, torch.from_numpy(pixels).permute(2, 0, 1), own)
        np.testing.assert_array_equal(got, expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_made_in_its_own_memory_has_the_pixels_of_its_parts(tmp_path, workers):
    for number, image in enumerate(photos()):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    write_list(tmp_path / "list.txt", [(f"{number}.png", 0) for number in range(5)])
    images = read_list(tmp_path / "list.txt")
    # As for a GPU, where flips and Normalize run.
    pipeline = Pipeline.parse(
        ["RandomResizedCrop(24)", "RandomHorizontalFlip()", "ToTensor()"]
    ).for_device(torch.device("cuda"))
    maker = BatchMaker(images, pipeline, None, torch.zeros(5, dtype=torch.int64))
    indices = np.array([4, 0, 3, 1, 2, 0, 1])
    whole = Selection(indices, pipeline.draws(0, epoch=0, keys=np.arange(7)))
    with thread_pool(workers) as pool:
        made = in_threads(maker, [whole], pool=pool, workers=workers, ahead=2, pinned=False)
        ((_, batch),) = made
    assert batch.shape == (7, 24, 24, 3)
    np.testing.assert_array_equal(batch.numpy(), np.asarray(maker.make(whole)))


@pytest.mark.parametrize(
    "calls",
    [
        ["RandomResizedCrop(24, antialias=False)", "ToTensor()"],
        ["RandomResizedCrop(24, interpolation=InterpolationMode.BICUBIC)", "ToTensor()"],
        ["Grayscale()", "RandomResizedCrop(24)", "ToTensor()"],
        ["RandomResizedCrop(24)", "ToPILImage()", "ToTensor()"],
        ["Resize(24)", "ToTensor()"],
    ],
)
def test_other_lists_go_step_by_step(calls):
    assert filled_shape(Pipeline.parse(calls).plan) is None
