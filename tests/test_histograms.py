"""Histograms hold the numbers that tensorboardX would write."""

import numpy as np
import pytest
import torch
from tensorboardX import SummaryWriter
from tensorboardX.summary import make_histogram
from torch import nn

from ptkit.core.training.histograms import (
    Histogram,
    finite_values,
    histogram_of,
    parameter_copies,
)


@pytest.fixture
def bins(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        return writer.default_bins


def expected_of(values, bins):
    """What tensorboardX counts; its sums are of another order."""
    theirs = make_histogram(values.astype(float), bins)
    return Histogram(
        min=theirs.min,
        max=theirs.max,
        num=theirs.num,
        sum=pytest.approx(theirs.sum, rel=1e-12, abs=1e-15 * np.abs(values).sum(dtype=float)),
        sum_squares=pytest.approx(theirs.sum_squares, rel=1e-12),
        limits=list(theirs.bucket_limit),
        counts=list(theirs.bucket),
    )


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=5000),
        np.zeros(3),
        np.array([-0.25]),
        np.array([1e-30, 3e25, 2.0]),
    ],
    ids=["normal", "zeros", "one", "beyond"],
)
def test_counts_are_those_of_tensorboardx(values, bins):
    values = values.astype(np.float32)
    assert histogram_of(values) == expected_of(values, bins)


def test_values_on_an_edge_and_beside_it_are_counted_as_tensorboardx_does(bins):
    edges = np.array(bins).astype(np.float32)
    beside = [np.nextafter(edges, np.float32(to)) for to in (-np.inf, np.inf)]
    values = np.concatenate([edges, *beside])
    assert histogram_of(values) == expected_of(values, bins)
    # Many are counted in another way.
    many = np.random.default_rng(0).permutation(np.tile(values, 10))
    assert histogram_of(many) == expected_of(many, bins)


def test_zeros_of_both_signs_and_the_numbers_beside_them_are_counted_as_tensorboardx_does(bins):
    tiny = np.nextafter(np.float32(0), np.float32([-1, 1]))
    values = np.tile(np.float32([-0.0, 0.0, *tiny]), 10_000)
    assert histogram_of(values) == expected_of(values, bins)


def test_more_values_than_are_counted_at_once_give_the_same_numbers(bins):
    values = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    assert histogram_of(values) == expected_of(values, bins)


@pytest.mark.parametrize("num_values", [32_768, 300_000])
def test_of_many_values_those_beyond_all_buckets_are_left_out_as_tensorboardx_does(
    bins, num_values
):
    values = np.random.default_rng(0).normal(size=num_values).astype(np.float32)
    beyond = np.nextafter(np.float32([bins[0], bins[-1]]), np.float32([-np.inf, np.inf]))
    values[:4] = [-3e25, 1e30, *beyond]
    found = histogram_of(values)
    assert found == expected_of(values, bins)
    assert (found.num, sum(found.counts)) == (num_values, num_values - 4)
    assert found.counts == [0, *np.histogram(values.astype(float), found.limits)[0]]


@pytest.mark.parametrize("values", [[], [1e30], [1e30] * 32_768])
def test_where_nothing_can_be_counted_there_is_no_histogram(values):
    assert histogram_of(np.array(values, np.float32)) is None


def test_only_the_finite_values_are_left():
    values = torch.tensor([[3.0, torch.nan], [-torch.inf, 1.0]], dtype=torch.bfloat16)
    assert sorted(finite_values(values).tolist()) == [1, 3]
    weights = torch.arange(16.0).view(2, 2, 2, 2).to(memory_format=torch.channels_last)
    assert sorted(finite_values(weights).tolist()) == list(range(16))
    assert finite_values(torch.tensor([torch.nan, torch.inf])).tolist() == []


def test_copies_stay_as_they_were_when_training_goes_on():
    model = nn.Linear(2, 1)
    model.weight.data.fill_(1.0)
    model.weight.grad = torch.full((1, 2), 0.5)
    copies = parameter_copies(model)
    model.weight.data.fill_(9.0)
    model.weight.grad.fill_(9.0)
    found = {name: copies[name].tolist() for name in ("weights/weight", "gradients/weight")}
    assert found == {"weights/weight": [[1.0, 1.0]], "gradients/weight": [[0.5, 0.5]]}
    assert list(copies) == ["weights/weight", "gradients/weight", "weights/bias"]
