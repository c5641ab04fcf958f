"""Whole batches give the pixels that images give one by one, each with parameters of its own."""

import re

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.keyed import uniforms
from ptkit.core.data.transforms.catalogue import build_transform, num_draws, spec_of
from ptkit.core.data.transforms.erasing import _erased_box, _erased_by_mask, random_erasing_floats
from ptkit.core.parts.calls import parse


def noise(n, height, width):
    """Return random pixels; the first images are grey, dark or of one colour, where hue and
    saturation are special.
    """
    random = np.random.default_rng(height)
    images = random.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    images[0] = 128
    images[1 % n, :, :, 1:] = images[1 % n, :, :, :1]
    images[2 % n] = random.integers(0, 3, (height, width, 3))
    images[3 % n] = images[3 % n] // 128 * 255
    return images


BATCHES = {
    "small": noise(40, 7, 9),
    "square": noise(23, 8, 8),
    "one": noise(1, 5, 6),
    "large": noise(3, 260, 257),
}

PIXELS = [
    "ColorJitter(brightness=0.7)",
    "ColorJitter(contrast=(0, 2))",
    "ColorJitter(saturation=[0.1, 3])",
    "ColorJitter(hue=0.5)",
    # Red, with hue 0, becomes hue 1.0: the end of the circle is its beginning.
    "ColorJitter(hue=[-1e-9, -1e-9])",
    "ColorJitter(0.4, 0.4)",
    "ColorJitter(0.4, 0.4, 0.4, 0.2)",
    "ColorJitter()",
    "Grayscale()",
    "Grayscale(num_output_channels=3)",
    "RandomGrayscale(p=0.4)",
    "RandomRotation(30)",
    "RandomRotation([0, 360], center=[1, 2], fill=[1, 2.6, 255])",
    "RandomRotation([90, 90])",
    "RandomRotation([-90, -90])",
    "RandomRotation([180, 180], fill=7)",
    "RandomRotation(200, interpolation=InterpolationMode.BILINEAR, fill=77.3)",
    "RandomAffine(30, translate=[0.3, 0.2], scale=[0.5, 2], shear=[-10, 10, -20, 5], fill=9)",
    "RandomAffine(20, shear=10, interpolation=InterpolationMode.BILINEAR, center=[1, 2])",
    "PadToSquare(fill=[1, 2.6, 255])",
    "PadToSquare(fill=[77.3])",
    "FiveCrop((3, 4))",
    "TenCrop(5)",
    "TenCrop((4, 5), vertical_flip=True)",
    "RandomApply([ColorJitter(0.4), RandomHorizontalFlip()], p=0.6)",
    "RandomApply([RandomVerticalFlip()], p=0.0)",
    (
        "RandomChoice([RandomRotation(90), RandomGrayscale(p=0.8),"
        " RandomApply([ColorJitter(0.9)])], p=[1, 0.5, 3])"
    ),
    "RandomOrder([ColorJitter(0.5), RandomHorizontalFlip(), RandomGrayscale(p=0.5)])",
]
# Of grey images; of RGB they are compared in test_transform_kernels.py.
MOVING = [
    "RandomCrop((4, 5))",
    "RandomCrop(6, padding=2, fill=9)",
    "RandomCrop(5, padding=2, padding_mode='reflect')",
    "RandomHorizontalFlip(p=0.5)",
    "RandomVerticalFlip(p=0.5)",
    "WithHorizontalFlip()",
]
FLOATS = [
    "RandomHorizontalFlip(p=0.6)",
    "RandomVerticalFlip(p=0.6)",
    "Grayscale()",
    "Grayscale(num_output_channels=3)",
    "RandomGrayscale(p=0.4)",
    "Normalize([0.5], [0.1])",
    "Normalize([0.5, 0.2, 0.1], [0.1, 0.2, 0.3])",
    "RandomErasing(p=0.7)",
    "RandomErasing(p=1, value=[0.1, 0.2, 0.3], scale=[0.1, 0.9])",
    "RandomErasing(p=0.7, value='random')",
    "PadToSquare(fill=[0.1, 0.2, 0.3])",
    "FiveCrop(5)",
    "TenCrop(5, vertical_flip=True)",
    "RandomApply([RandomErasing(p=0.5), RandomHorizontalFlip()], p=0.6)",
    "RandomChoice([RandomErasing(p=1), RandomGrayscale(p=0.8)])",
    "RandomOrder([RandomErasing(p=1, value=0.5), RandomHorizontalFlip(p=0.5)])",
]


def one_channel(calls):
    """Return the calls that take images of one channel too."""
    return [call for call in calls if not re.search(r"(fill|value)=\[|Normalize\(\[\S+, ", call)]


def draws_for(transform, num_images):
    columns = num_draws(transform)
    return uniforms(0, "test", epoch=0, indices=np.arange(num_images), columns=columns)


def each(transform, images, draws):
    """Apply the image form to every image (3, H, W); (n, 3, h, w), crops image by image."""
    kernel = spec_of(transform)
    done = [kernel.apply(transform, image, row) for image, row in zip(images, draws, strict=True)]
    return torch.stack(done).flatten(0, -4)


def assert_batch_equals_images(call, batch):
    transform = build_transform(parse(call))
    draws = draws_for(transform, len(batch))
    expected = (
        each(transform, torch.from_numpy(batch).permute(0, 3, 1, 2), draws)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    found = spec_of(transform).batch(transform, batch.copy(), draws)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("call", PIXELS)
def test_batch_of_pixels_equals_the_images_one_by_one(call, batch):
    assert_batch_equals_images(call, batch)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("call", [*one_channel(PIXELS), *MOVING])
def test_batch_of_grey_pixels_equals_the_images_one_by_one(call, name):
    assert_batch_equals_images(call, np.ascontiguousarray(BATCHES[name][..., :1]))


def assert_floats_equal_images(call, batch, layout):
    transform = build_transform(parse(call))
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(255)
    draws = draws_for(transform, len(images))
    expected = each(transform, images, draws)
    found = spec_of(transform).floats(transform, images.clone(memory_format=layout), draws)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("call", FLOATS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_of_floats_equals_the_images_one_by_one(call, layout):
    assert_floats_equal_images(call, BATCHES["small"], layout)


@pytest.mark.parametrize("call", one_channel(FLOATS))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_of_grey_floats_equals_the_images_one_by_one(call, layout):
    assert_floats_equal_images(call, BATCHES["small"][..., :1], layout)


def test_batches_of_one_differ_from_each_other_only_by_their_draws():
    transform = build_transform(parse("ColorJitter(0.4, 0.4, 0.4, 0.2)"))
    batch, draws = BATCHES["small"], draws_for(transform, 40)
    apply = spec_of(transform).batch
    alone = [apply(transform, batch[k : k + 1].copy(), draws[k : k + 1]) for k in range(40)]
    assert np.array_equal(np.concatenate(alone), apply(transform, batch.copy(), draws))


def test_erasing_by_a_mask_equals_erasing_box_by_box():
    images = torch.rand(40, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    for erase in (v2.RandomErasing(p=0.7), v2.RandomErasing(p=1, value=[0.1, 0.2, 0.3])):
        draws = draws_for(erase, 40)
        boxes = [_erased_box(7, 9, erase, row) for row in draws]
        expected = random_erasing_floats(erase, images.clone(), draws)
        assert torch.equal(_erased_by_mask(erase, images, boxes), expected)
        assert not torch.equal(expected, images)


# -------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("size", [(7, 9), (7, 8), (8, 9), (3, 4)])
def test_five_and_ten_crops_are_torchvisions_in_its_order(size):
    image = torch.from_numpy(BATCHES["small"][0].copy()).permute(2, 0, 1)
    for crop in (v2.FiveCrop((3, 4)), v2.TenCrop((3, 4)), v2.TenCrop((3, 4), vertical_flip=True)):
        cut = image[:, : size[0], : size[1]]
        assert torch.equal(spec_of(crop).apply(crop, cut, np.empty(0)), torch.stack(crop(cut)))


FOLLOWING = [
    "RandomCrop(4, padding=1)",
    "RandomResizedCrop(5)",
    "RandomHorizontalFlip()",
    "RandomRotation(30)",
    "RandomAffine(20, translate=[0.2, 0.2])",
    "ColorJitter(0.4, 0.4, 0.4, 0.1)",
    "RandomGrayscale(p=0.5)",
    "RandomErasing(p=0.9, value='random')",
    "RandomApply([RandomVerticalFlip()], p=0.5)",
    "Resize((3, 3))",
    "Pad(2)",
]


@pytest.mark.parametrize("call", FOLLOWING)
def test_steps_after_the_crops_draw_once_for_all_crops_of_an_image(call):
    transform = build_transform(parse(call))
    crops = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    apply = spec_of(transform).apply
    for row in draws_for(transform, 8):
        one_by_one = [apply(transform, crop, row) for crop in crops]
        torch.testing.assert_close(
            apply(transform, crops, row), torch.stack(one_by_one), rtol=0, atol=0
        )


def test_crops_share_what_a_tuple_shares_in_torchvision():
    # Of plain tensors v2 transforms only the first.
    image = tv_tensors.Image(torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)))
    crops = F.five_crop(image, [6, 6])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = v2.RandomErasing(p=1)(crops)
    where = [(crop != before).any(0) for crop, before in zip(theirs, crops, strict=True)]
    assert where[0].any()
    assert all(torch.equal(place, where[0]) for place in where)
