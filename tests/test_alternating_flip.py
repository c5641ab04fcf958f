"""AlternatingFlip and WithHorizontalFlip: what they show of each image, epoch after epoch, and in
evaluation.
"""

import numpy as np
import pytest
import torch

from ptkit.core.config.layers import resolve
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup_data import prepare_data
from tests.tiny_data import make_lists


@pytest.fixture
def images(tmp_path):
    return read_list(make_lists(tmp_path) / "train.txt")


def seen(images, call, *, epoch, seed=0):
    """The images of an epoch in the list's order."""
    with_flip = Batches(images, Pipeline.parse([call, "ToTensor()"]), Sampling(16, seed=seed))
    return torch.cat([batch.images for batch in with_flip.epoch(epoch)])


def is_mirrored(images, *, epoch, seed=0):
    plain = seen(images, "RandomHorizontalFlip(p=0)", epoch=epoch)
    shown = seen(images, "AlternatingFlip()", epoch=epoch, seed=seed)
    assert all(
        torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(shown, plain, strict=True)
    )
    return (shown != plain).flatten(1).any(dim=1)


def test_the_halves_take_turns_from_epoch_to_epoch(images):
    first = is_mirrored(images, epoch=1)
    assert torch.equal(is_mirrored(images, epoch=2), ~first)
    assert torch.equal(is_mirrored(images, epoch=3), first)


def test_about_half_of_the_images_is_mirrored_and_the_seed_says_which(images):
    share = is_mirrored(images, epoch=1).float().mean()
    assert 0.25 < share < 0.75
    assert not torch.equal(is_mirrored(images, epoch=1), is_mirrored(images, epoch=1, seed=1))


def test_other_draws_stay_what_they_are_beside_it(images):
    crop = "RandomCrop(16, padding=4)"
    alone = Batches(
        images, Pipeline.parse([crop, "RandomHorizontalFlip(p=0)", "ToTensor()"]), Sampling(48)
    )
    beside = Batches(
        images, Pipeline.parse([crop, "AlternatingFlip()", "ToTensor()"]), Sampling(48)
    )
    one, other = (next(batches.epoch(1)).images for batches in (alone, beside))
    assert all(
        torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(one, other, strict=True)
    )


def test_in_a_container_it_is_refused():
    with pytest.raises(UsageError, match="AlternatingFlip takes turns from epoch to epoch"):
        Pipeline.parse(["RandomApply([AlternatingFlip()])", "ToTensor()"])


@pytest.mark.parametrize(
    "calls", [["WithHorizontalFlip()", "ToTensor()"], ["ToTensor()", "WithHorizontalFlip()"]]
)
def test_each_image_is_followed_by_its_mirror_image(images, calls):
    batch = next(Batches(images, Pipeline.parse(calls), Sampling(5)).epoch())
    plain = seen(images, "RandomHorizontalFlip(p=0)", epoch=0)[:5]
    assert (batch.num_crops, np.array_equal(batch.indices, np.arange(5))) == (2, True)
    assert torch.equal(batch.images[0::2], plain)
    assert torch.equal(batch.images[1::2], plain.flip(-1))


def test_two_views_of_a_view_are_refused():
    with pytest.raises(UsageError, match="WithHorizontalFlip cannot follow FiveCrop"):
        Pipeline.parse(["FiveCrop(8)", "WithHorizontalFlip()", "ToTensor()"])


def test_the_second_of_two_would_undo_the_first_and_is_refused():
    with pytest.raises(UsageError, match="AlternatingFlip appears twice"):
        Pipeline.parse(["AlternatingFlip()", "AlternatingFlip()", "ToTensor()"])


def test_evaluation_on_mirror_images_that_training_never_shows_is_refused(tmp_path):
    lists = make_lists(tmp_path)
    data = {"train": str(lists / "train.txt"), "valid": str(lists / "valid.txt")}
    settings = resolve(
        {"data": data | {"augment": "none", "eval_transforms": ["WithHorizontalFlip()"]}}
    )
    with pytest.raises(
        UsageError, match=r"no training transform mirrors images.*data\.eval_transforms=none"
    ):
        prepare_data(
            settings.data, settings.train, device=torch.device("cpu"), counting=Unwatched().counting
        )
