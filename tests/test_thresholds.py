"""The probability from which on a class is answered."""

import numpy as np
import pytest

from ptkit.core.calibration.thresholds import NEVER, Threshold, find_threshold


def found(probabilities, right, precision=0.95, **more):
    return find_threshold(
        np.array(probabilities, np.float32), np.array(right, bool), precision=precision, **more
    )


def test_the_lowest_threshold_that_is_precise_enough_is_taken():
    probabilities = [0.95, 0.9, 0.85, 0.8, 0.75, 0.6, 0.5]
    right = [1, 1, 1, 1, 1, 0, 1]
    each = found(probabilities, right, precision=0.9)
    assert (each.num_answered, each.num_right, each.reaches) == (5, 5, True)
    assert each.value == pytest.approx(0.675)
    # One mistake in seven is few enough for 0.85: all are answered.
    assert found(probabilities, right, precision=0.85) == Threshold(0.0, 7, 6, reaches=True)


def test_a_class_that_cannot_reach_the_precision_is_never_answered():
    each = found([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 0, 1, 1, 1, 0])
    # At best four of five.
    assert each == Threshold(NEVER, 5, 4, reaches=False)
    assert not each.reaches
    # Not even by an answer that is quite sure.
    assert np.float32(1) < np.float32(each.value)


def test_too_few_answers_tell_nothing_and_leave_the_threshold():
    each = found([0.9, 0.8], [1, 1], otherwise=0.5)
    assert (each.value, each.is_measured) == (0.5, False)


def test_equal_probabilities_are_not_torn_apart():
    each = found([0.9] * 6 + [0.4] * 4, [1] * 6 + [1, 0, 0, 0])
    assert (each.num_answered, each.value) == (6, pytest.approx(0.65))


def test_the_threshold_parts_neighbouring_numbers():
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    each = found([high] * 5 + [low] * 5, [1] * 5 + [0] * 5)
    assert low < np.float32(each.value) <= high
