"""Batches out of images that are kept where they are wanted equal those made one by one; the device
here is the CPU.
"""

import numpy as np
import pytest
import torch

from ptkit.core.data.keyed import Selection, uniforms
from ptkit.core.data.loading import on_device as on_device_module
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.in_memory import InMemory
from ptkit.core.data.loading.on_device import OnDevice, can_move, is_moved, move
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.transforms.pipeline import Pipeline

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(30) % 4
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CROP, FLIP, JITTER = (
    "RandomCrop(8, padding=2)",
    "RandomHorizontalFlip()",
    "ColorJitter(0.4, 0.4, 0.4)",
)
NORMALIZE = "Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])"
PLANS = {
    "nothing random": ["ToTensor()", NORMALIZE],
    "crop and flip": [CROP, FLIP, "ToTensor()", NORMALIZE],
    "colours": [JITTER, FLIP, "ToTensor()"],
    "floats at the end": [CROP, "ToTensor()", NORMALIZE, "RandomErasing(p=0.7)"],
    "ten crops": ["TenCrop(6)", FLIP, "ToTensor()", NORMALIZE],
    "ten crops of floats": [FLIP, "ToTensor()", "TenCrop(6)", NORMALIZE],
    "one channel": [CROP, JITTER, "Grayscale()", FLIP, "ToTensor()", "Normalize([0.5], [0.2])"],
    "one channel of floats": [CROP, "ToTensor()", "Grayscale()", "RandomErasing(p=0.7)"],
}


def parsed(calls):
    return Pipeline.parse(["Resize((8, 8))", *calls])


def wanted(pipeline, sizes):
    """Return indices and draws of batches of these sizes; an image may come again."""
    indices = np.random.default_rng(1).integers(0, 30, sum(sizes))
    draws = uniforms(0, "test", epoch=1, indices=indices, columns=pipeline.num_draws)
    ends = np.cumsum(sizes)[:-1]
    return list(zip(np.split(indices, ends), np.split(draws, ends), strict=True))


def one_by_one(pipeline, batch):
    indices, draws = batch
    pixels = torch.from_numpy(pipeline.apply_to_batch(PIXELS[indices], draws))
    return pipeline.finish_on_device(pixels, draws), torch.from_numpy(LABELS[indices])


def on_device(pipeline, device=CPU):
    return move(PIXELS, LABELS, pipeline.for_device(CUDA), device=device, free=1 << 30)


def in_memory(pipeline):
    return InMemory(PIXELS, LABELS, pipeline)


# The last batch is smaller; together they are more than are copied to a device at once.
SIZES = [7] * 11 + [3]


@pytest.mark.parametrize("calls", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("held", [in_memory, on_device])
def test_batches_are_those_made_one_by_one(held, calls):
    pipeline = parsed(calls)
    batches = wanted(pipeline, SIZES)
    expected = [one_by_one(pipeline, batch) for batch in batches]
    found = list(held(pipeline).batches(batches))
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["crop and flip", "ten crops", "nothing random"])
@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_some_batches_made_at_once_are_those_made_one_by_one(name, num_batches, monkeypatch):
    pipeline = parsed(PLANS[name])
    floats = 4 * PIXELS[0].size * pipeline.num_crops
    monkeypatch.setattr(on_device_module, "_BYTES_MADE_AT_ONCE", num_batches * 7 * floats)
    batches = wanted(pipeline, SIZES)
    found = list(on_device(pipeline).batches(batches))
    assert len(found) == len(SIZES)
    for batch, (images, labels) in zip(batches, found, strict=True):
        expected, expected_labels = one_by_one(pipeline, batch)
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("calls", PLANS.values(), ids=PLANS)
def test_batches_on_a_gpu_are_those_of_the_cpu_and_nothing_waits(calls, nothing_waits):
    pipeline = parsed(calls)
    batches, held = wanted(pipeline, SIZES), on_device(pipeline, CUDA)
    list(held.batches(batches))
    with nothing_waits():
        found = list(held.batches(batches))
    for batch, (images, labels) in zip(batches, found, strict=True):
        expected_images, expected_labels = one_by_one(pipeline, batch)
        # A level of a colour.
        torch.testing.assert_close(images.cpu(), expected_images, rtol=0, atol=1.01 / 255 / 0.2)
        assert torch.equal(labels.cpu(), expected_labels)


@pytest.mark.parametrize(("held", "is_there"), [(in_memory, False), (on_device, True)])
def test_cutting_on_a_device_is_no_wait_for_data(held, is_there, monkeypatch):
    pipeline, events = parsed(PLANS["colours"]), []
    batches = [Selection(*batch) for batch in wanted(pipeline, [7])]
    images = held(pipeline)
    cut = type(images).batches

    def watched(*arguments):
        for made in cut(*arguments):
            events.append("cut")
            yield made

    monkeypatch.setattr(type(images), "batches", watched)
    list(Batches._cut(None, images, iter(batches), lambda: events.append("ready")))
    assert events == (["ready", "cut"] if is_there else ["cut", "ready"])


def test_pixels_that_are_kept_never_change():
    pipeline = parsed(PLANS["colours"])
    before = PIXELS.copy()
    for held in (in_memory(pipeline), on_device(pipeline)):
        list(held.batches(wanted(pipeline, SIZES)))
    assert np.array_equal(PIXELS, before)


def test_pixels_that_are_in_a_file_are_moved_whole(tmp_path):
    PIXELS.tofile(tmp_path / "pixels.bin")
    stored = StoredPixels(tmp_path / "pixels.bin", PIXELS.shape)
    held = move(stored, LABELS, parsed([FLIP, "ToTensor()"]), device=CPU, free=1 << 30)
    assert isinstance(held, OnDevice)
    assert torch.equal(held.pixels, torch.from_numpy(PIXELS))
    assert torch.equal(held.labels, torch.from_numpy(LABELS))


@pytest.mark.parametrize(
    ("calls", "free", "expected"),
    [
        ([CROP, FLIP, "ToTensor()"], 4 * PIXELS.nbytes, True),
        ([CROP, FLIP, "ToTensor()"], 4 * PIXELS.nbytes - 1, False),
        (["RandomRotation(9)", FLIP, "ToTensor()"], 100 * PIXELS.nbytes, False),
        (["RandomResizedCrop(8)", "ToTensor()"], 100 * PIXELS.nbytes, False),
    ],
)
def test_pixels_move_to_the_device_if_they_fit_and_all_steps_run_there(calls, free, expected):
    assert can_move(PIXELS, parsed(calls).for_device(CUDA), free=free) is expected


def test_images_that_two_hold_lie_on_a_device_once_and_go_with_the_last():
    pixels = PIXELS.copy()
    first, second = (
        move(pixels, LABELS, parsed(calls), device=CPU, free=1 << 30)
        for calls in (["ToTensor()"], [FLIP, "ToTensor()"])
    )
    assert first.pixels is second.pixels
    del first
    assert is_moved(pixels, CPU)
    del second
    assert not is_moved(pixels, CPU)
