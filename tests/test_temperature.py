"""Calibration error and temperature."""

import numpy as np
import pytest

from ptkit.core.calibration.temperature import (
    best_temperature,
    bins_of,
    cross_entropy,
    expected_calibration_error,
    two_halves,
)
from ptkit.core.training.tasks.calibration import FittedTemperature


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 2, (4000, 4))
    probabilities = softmax(values / true)
    labels = (rng.random((4000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    found = best_temperature(lambda t: cross_entropy(softmax(values / t), labels))
    assert found == pytest.approx(true, rel=0.1)


def test_the_calibration_error_is_the_weighted_gap_of_bins_of_equal_size():
    rng = np.random.default_rng(1)
    sure = rng.random(100)
    right = rng.random(100) < 0.5
    order = np.argsort(sure)
    gaps = [
        len(part) / 100 * abs(np.mean(sure[part]) - np.mean(right[part]))
        for part in np.array_split(order, 15)
    ]
    assert expected_calibration_error(sure, right) == pytest.approx(sum(gaps))


def test_few_probabilities_are_in_few_bins_each_once():
    parts = bins_of(np.array([0.3, 0.1, 0.2]))
    assert np.concatenate(parts).tolist() == [1, 2, 0]


def test_halves_have_every_index_once():
    first, second = two_halves(11, seed=3)
    assert sorted([*first, *second]) == list(range(11))
    assert len(first) == 5


def test_a_temperature_that_ran_to_the_end_of_the_search_is_not_used():
    # Every answer is right: ever lower ones are better, and others read 100% when wrong.
    found = FittedTemperature(0.05, (0.05, 0.37), ece=(0.1, 0.0), loss=(0.1, 0.0))
    assert (found.is_found, found.value) == (False, 1.0)
    found = FittedTemperature(0.4, (0.5, 0.37), ece=(0.1, 0.0), loss=(0.1, 0.0))
    assert (found.is_found, found.value) == (True, 0.4)
