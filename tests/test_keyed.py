import numpy as np
import pytest

from ptkit.core.data.keyed import _order_keys, permutation, stream_key, uniforms

ALL = np.arange(20_000)


def draws(*, seed=0, purpose="augment", epoch=0, indices=ALL, columns=4):
    return uniforms(seed, purpose, epoch=epoch, indices=indices, columns=columns)


def test_draws_lie_in_the_half_open_unit_interval():
    values = draws()
    assert values.shape == (20_000, 4)
    assert values.min() >= 0
    assert values.max() < 1


def test_draws_are_uniform_in_every_column():
    # Chi-square over 20 bins; 43.8 is its 0.1 % point for 19 degrees of freedom.
    for column in draws().T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize(
    "other",
    [
        draws(seed=1),
        draws(purpose="order"),
        draws(epoch=1),
        draws(indices=ALL + 1),
        draws(columns=5)[:, 1:],
        draws(seed=1, epoch=1),
    ],
    ids=["seed", "purpose", "epoch", "image", "column", "seed and epoch"],
)
def test_draws_for_different_things_are_uncorrelated(other):
    # 5 standard errors of a correlation over 20,000 pairs.
    correlation = [
        np.corrcoef(ours, theirs)[0, 1] for ours, theirs in zip(draws().T, other.T, strict=True)
    ]
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_columns_are_uncorrelated_with_each_other():
    correlation = np.corrcoef(draws(columns=12), rowvar=False) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_draws_of_an_image_do_not_depend_on_the_batch_it_falls_into():
    shuffled = np.random.default_rng(0).permutation(ALL)
    parts = [draws(indices=part) for part in np.array_split(shuffled, 37)]
    assert np.array_equal(np.concatenate(parts), draws()[shuffled])


def test_first_draws_of_an_image_do_not_depend_on_how_many_follow():
    assert np.array_equal(draws(columns=9)[:, :4], draws())


def test_no_columns_give_an_empty_row_for_each_image():
    assert draws(columns=0).shape == (20_000, 0)


def test_large_indices_epochs_and_seeds_draw_too():
    values = draws(seed=(1 << 64) - 1, epoch=1_000_000, indices=np.array([0, 10**7, 10**12]))
    assert len(np.unique(values)) == 12


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_permutation_has_every_number_once(length):
    assert np.array_equal(
        np.sort(permutation(3, "order", epoch=2, length=length)), np.arange(length)
    )


# At the first of these epochs two keys differ in their last 19 bits only.
@pytest.mark.parametrize("epoch", [655, 656])
def test_permutation_sorts_numbers_by_all_bits_of_their_keys(epoch):
    length = 500_000
    keys = _order_keys(np.arange(length, dtype=np.uint64), np.uint64(stream_key(0, "order", epoch)))
    order = permutation(0, "order", epoch=epoch, length=length)
    assert np.array_equal(order, np.argsort(keys, kind="stable"))


def test_permutation_is_the_same_for_the_same_key_and_another_for_another():
    first = permutation(0, "order", epoch=0, length=100)
    assert np.array_equal(first, permutation(0, "order", epoch=0, length=100))
    others = [("order", 0, 1), ("order", 1, 0), ("sample", 0, 0)]
    for purpose, seed, epoch in others:
        assert not np.array_equal(first, permutation(seed, purpose, epoch=epoch, length=100))


def test_permutation_puts_every_number_at_every_place():
    orders = np.array([permutation(0, "order", epoch=epoch, length=5) for epoch in range(5000)])
    counts = np.array([np.bincount(place, minlength=5) for place in orders.T])
    # 1,000 expected; 5 standard deviations of a binomial count.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(5000 * 0.2 * 0.8)


def test_stream_keys_are_64_bits_and_differ():
    keys = {
        stream_key(seed, purpose, number)
        for seed in range(20)
        for purpose in ("a", "b")
        for number in range(20)
    }
    assert len(keys) == 800
    assert all(0 <= key < 1 << 64 for key in keys)


def test_draws_are_those_of_the_first_release():
    # Resuming a run with a later version depends on it.
    expected = [0.06257214690915924, 0.6320760002186259]
    assert draws(seed=7, epoch=3, indices=np.array([11]), columns=2)[0].tolist() == expected
    assert permutation(7, "order", epoch=3, length=6).tolist() == [4, 2, 0, 1, 3, 5]
