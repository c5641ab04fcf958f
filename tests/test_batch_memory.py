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


# In images: of one step, and before the first batch is used. A batch has 10 of them.
@pytest.mark.parametrize(("at_once", "ahead"), [(4, 10), (10, 20), (20, 40), (40, 40)])
@pytest.mark.parametrize(
    "calls",
    [
        ["RandomCrop(9, padding=2)", "ToTensor()", "Normalize(mean=[0.5], std=[0.2])"],
        ["TenCrop(7)", "ToTensor()"],
        ["Grayscale()", "ToTensor()"],
        ["RandomHorizontalFlip()", "ToTensor()", "RandomErasing(p=0.5)"],
    ],
)
# In the order of the list images are not copied where nothing writes to them.
@pytest.mark.parametrize("order", ["shuffled", "listed", "nearly"])
def test_batches_do_not_depend_on_how_many_are_made_together(
    order, calls, at_once, ahead, monkeypatch
):
    # Of images of one size, as they are kept, all steps are for whole batches.
    pipeline = Pipeline.parse(["Resize((9, 9))", *calls])
    assert not pipeline.plan.image_steps
    pixels = np.random.default_rng(0).integers(0, 256, (33, 9, 9, 3), np.uint8)
    if "Grayscale()" in calls:
        pixels = pixels[..., :1]
    kept, before = InMemory(pixels, np.arange(33), pipeline), pixels.copy()
    indices = np.random.default_rng(1).permutation(33) if order == "shuffled" else np.arange(33)
    if order == "nearly":
        indices[[2, 3]] = 3, 2
    draws = pipeline.draws(0, epoch=1, keys=indices)
    parts = [(indices[k : k + 10], draws[k : k + 10]) for k in range(0, 33, 10)]
    monkeypatch.setattr(in_memory, "_BYTES_AT_ONCE", at_once * pixels[0].nbytes)
    monkeypatch.setattr(in_memory, "_BYTES_AHEAD", ahead * pixels[0].nbytes)
    found = list(kept.batches(parts))
    for (images, labels), (some, own) in zip(found, parts, strict=True):
        augmented = torch.from_numpy(pipeline.apply_to_batch(pixels[some], own))
        alone = pipeline.finish_on_device(augmented, own)
        torch.testing.assert_close(images, alone, rtol=0, atol=0)
        assert images.stride() == alone.stride()
        assert labels.tolist() == some.tolist()
    assert np.array_equal(pixels, before)
