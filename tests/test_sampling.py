import numpy as np
import pytest
import torch
from PIL import Image

from ptkit.core.data import keyed
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.sampling import Sampling, balanced_weights, draw_keys, epoch_order
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError

LABELS = np.array([0] * 80 + [3] * 15 + [1] * 5)


def drawn(labels, *, epochs=60, seed=0):
    weights = balanced_weights(labels)
    orders = [
        epoch_order(len(labels), weights, seed=seed, epoch=e, shuffle=False) for e in range(epochs)
    ]
    return np.concatenate(orders)


def test_every_class_with_images_is_drawn_equally_often():
    counts = np.bincount(LABELS[drawn(LABELS)], minlength=5)
    # 2,000 expected of each of three; 5 standard deviations of a binomial count.
    assert counts[[2, 4]].tolist() == [0, 0]
    assert np.abs(counts[[0, 1, 3]] - 2000).max() < 5 * np.sqrt(6000 * (1 / 3) * (2 / 3))


def test_images_of_one_class_are_drawn_equally_often():
    counts = np.bincount(drawn(LABELS), minlength=100)[:80]
    # 25 expected of each; the largest of 80 counts stays within 5 standard deviations.
    assert np.abs(counts - 25).max() < 5 * np.sqrt(25)


def test_weight_of_several_labels_is_the_mean_over_them():
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    weights = np.array([(1 / 3 + 1) / 2, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    assert balanced_weights(labels) == pytest.approx(weights / weights.sum())


def test_an_epoch_draws_as_many_as_there_are_images_in_an_order_of_its_own():
    weights = balanced_weights(LABELS)
    first, again, other = (
        epoch_order(100, weights, seed=0, epoch=e, shuffle=False) for e in (1, 1, 2)
    )
    assert len(first) == 100
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_are_drawn_where_the_sums_of_the_weights_pass_the_draws():
    weights = balanced_weights(LABELS)
    draws = keyed.uniforms(3, "sample", epoch=2, indices=np.arange(100), columns=1)[:, 0]
    found = epoch_order(100, weights, seed=3, epoch=2, shuffle=False)
    assert found.tolist() == np.searchsorted(np.cumsum(weights), draws, side="right").tolist()


def test_numbers_cannot_be_balanced():
    with pytest.raises(UsageError, match=r"data\.sampler=balanced needs classes"):
        balanced_weights(np.zeros((4, 2), np.float32))


def test_draws_of_an_image_have_another_key_each_time_it_comes():
    keys = draw_keys(np.array([4, 2, 4, 4, 0, 2]))
    assert keys[[0, 1, 4]].tolist() == [4, 2, 0]
    assert len(set(keys.tolist())) == 6
    assert draw_keys(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert len(draw_keys(np.zeros(0, np.int64))) == 0


# --------------------------------------------------------------------------------------- in batches


@pytest.fixture
def images(tmp_path):
    """Twelve images of random pixels; two of class 1, the others of class 0."""
    random = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    (tmp_path / "list.txt").write_text(
        "".join(f"{index}.png {int(index < 2)}\n" for index in range(12))
    )
    return read_list(tmp_path / "list.txt")


CALLS = ["Resize((8, 8))", "RandomCrop(8, padding=3)", "ColorJitter(0.4, 0.4)", "ToTensor()"]


def epoch_of(images, *, workers=1, **options):
    batches = Batches(
        images,
        Pipeline.parse(CALLS),
        Sampling(5, sampler="balanced", seed=1, **options),
        workers=workers,
    )
    done = list(batches.epoch(3))
    batches.close()
    return done


def test_balanced_epoch_has_labels_and_images_that_belong_together(images):
    done = epoch_of(images)
    indices = np.concatenate([batch.indices for batch in done])
    assert [len(batch.indices) for batch in done] == [5, 5, 2]
    assert torch.cat([batch.labels for batch in done]).tolist() == images.labels[indices].tolist()
    assert len(set(indices.tolist())) < 12


def test_image_drawn_twice_is_augmented_differently(images):
    done = epoch_of(images)
    indices, pictures = (
        np.concatenate([batch.indices for batch in done]),
        torch.cat([batch.images for batch in done]),
    )
    twice = np.flatnonzero(indices == np.bincount(indices).argmax())
    assert len({pictures[int(place)].numpy().tobytes() for place in twice}) == len(twice) > 2


def test_balanced_epoch_does_not_depend_on_the_number_of_workers(images):
    for one, other in zip(epoch_of(images), epoch_of(images, workers=3), strict=True):
        assert np.array_equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)


def test_last_batch_of_a_balanced_epoch_can_be_dropped(images):
    assert [len(batch.indices) for batch in epoch_of(images, drop_last=True)] == [5, 5]
