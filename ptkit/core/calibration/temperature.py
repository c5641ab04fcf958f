"""How far probabilities are off, and the temperature that mends them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

NUM_BINS = 15
# Where temperatures are looked for.
_LOWEST, _HIGHEST = 0.05, 20.0
_NUM_TRIED = 61
# Keeps logarithms of float32 probabilities finite.
_TINY = 1e-12


def expected_calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Return the ECE over 15 bins of equal mass (Nguyen and O'Connor 2015, section 3): the mean
    over the bins of |mean probability - share of right ones|, each weighted with its images.
    """
    gaps = [
        abs(confidence[part].mean() - right[part].mean()) * len(part)
        for part in bins_of(confidence)
    ]
    return float(sum(gaps) / len(confidence))


def bins_of(confidence: Floats, *, num_bins: int = NUM_BINS) -> list[npt.NDArray[np.int64]]:
    """Return the indices of the numbers in each of some bins of equal mass, the lowest bin first;
    fewer bins of fewer numbers.
    """
    order = np.argsort(confidence, kind="stable")
    return [part for part in np.array_split(order, num_bins) if len(part)]


def two_halves(count: int, *, seed: int = 0) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the indices 0..count-1 in two random halves."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def cross_entropy(probabilities: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the mean -log of the true class's probability. probabilities: (n, K). labels: (n,)."""
    return -float(np.log(probabilities[np.arange(len(labels)), labels] + _TINY).mean())


def binary_cross_entropy(probabilities: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Return the mean over images and classes; both are (n, K)."""
    own = np.where(truth, probabilities, 1 - probabilities)
    return -float(np.log(own + _TINY).mean())


def is_at_the_end(temperature: float) -> bool:
    """Say whether a temperature is the lowest or the highest one that is looked for: where nearly
    all answers are right, ever lower ones lower the cross-entropy, and none is best.
    """
    return not 1.001 * _LOWEST < temperature < _HIGHEST / 1.001


def best_temperature(loss_at: Callable[[float], float]) -> float:
    """Return what outputs are divided by for the least cross-entropy (Guo et al. 2017, section
    4.2), of 0.05 to 20.

    loss_at: gives the cross-entropy at a temperature.
    """
    tried = np.geomspace(_LOWEST, _HIGHEST, _NUM_TRIED)
    at = min(range(_NUM_TRIED), key=lambda k: loss_at(float(tried[k])))
    # Between its neighbours the loss has one minimum: in 1/temperature it is convex.
    finer = np.geomspace(tried[max(at - 1, 0)], tried[min(at + 1, _NUM_TRIED - 1)], _NUM_TRIED)
    return float(min(finer.tolist(), key=loss_at))
