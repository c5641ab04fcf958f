"""Memory of batches: given out again when nobody holds it, and never before."""

import gc

import numpy as np
import pytest
import torch

from ptkit.core.data.loading import in_memory
from ptkit.core.data.loading.batch_memory import BatchMemory
from ptkit.core.data.loading.in_memory import InMemory
from ptkit.core.data.transforms.pipeline import Pipeline


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def test_memory_comes_again_when_no_view_of_it_is_left():
    memory = BatchMemory()
    first = memory.floats((4, 5))
    view, before = first[1:].permute(1, 0), place(first)
    del first
    second = memory.floats((4, 5))
    assert place(second) != before
    view.zero_()
    del view
    gc.collect()
    # A smaller one, such as the last batch of an epoch, finds room in it.
    assert place(memory.floats((3, 2))) == before
    assert memory.floats((3, 2)).shape == (3, 2)


@pytest.mark.parametrize("calls", [["RandomCrop(9, padding=2)"], ["TenCrop(7)"], ["Grayscale()"]])
def test_batches_made_in_parts_are_those_that_are_made_at_once(calls, monkeypatch):
    pipeline = Pipeline.parse([*calls, "ToTensor()", "Normalize(mean=[0.5], std=[0.2])"])
    pixels = np.random.default_rng(0).integers(0, 256, (23, 9, 9, 3), np.uint8)
    if calls == ["Grayscale()"]:
        pixels = pixels[..., :1]
    kept = InMemory(pixels, np.arange(23), pipeline)
    indices = np.random.default_rng(1).permutation(23)
    draws = pipeline.draws(0, epoch=1, keys=indices)
    parts = [(indices[k : k + 10], draws[k : k + 10]) for k in (0, 10, 20)]
    expected = [images for images, _ in kept.batches(parts)]
    monkeypatch.setattr(in_memory, "_BYTES_AT_ONCE", 4 * pixels[0].nbytes)
    found = [images for images, _ in kept.batches(parts)]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
        assert mine.stride() == other.stride()
