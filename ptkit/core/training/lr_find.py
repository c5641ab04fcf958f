"""The range test: at which learning rates does the loss fall, and where does it run away?"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ptkit.core.errors import UsageError
from ptkit.core.training.loop import Training, make_step
from ptkit.core.training.tasks.loss import Totals

Values = npt.NDArray[np.float64]

LOWEST, HIGHEST, NUM_STEPS = 1e-6, 10.0, 100
# Weight of the neighbours in a smoothed loss.
_PAST = 0.8
# The test ends where the mean of the last losses is so many times its lowest above that; of a loss
# that is near 0 or below, so many times a tenth of how far it fell, and never by less than this.
_DIVERGED = 3.0
_OF_FALL, _LEAST_RISE = 0.1, 0.03
# Losses that ran away are smoothed as twice the first ones, or as far above those.
_HIGHEST_LOSS = 2.0

_NUM_RECENT = 5


@dataclass(frozen=True)
class RangeTest:
    """One step at each rate. rates: of the run, (N,), rising. losses: (N,), raw and smoothed."""

    rates: Values
    losses: Values
    smoothed: Values

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest, per factor of the rate."""
        end = int(self.smoothed.argmin()) + 1
        if end < 3:
            return float(self.rates[0])
        slopes = np.gradient(self.smoothed[:end], np.log(self.rates[:end]))
        return float(self.rates[slopes.argmin()])

    @property
    def largest(self) -> float:
        """The rate of the lowest smoothed loss: above it the loss rises."""
        return float(self.rates[self.smoothed.argmin()])

    @property
    def has_diverged(self) -> bool:
        """Whether the loss ran away before the highest rate."""
        return len(self.rates) < NUM_STEPS


def range_test(training: Training, on_step: Callable[[int], None] = lambda _n: None) -> RangeTest:
    """Train with rates that rise by the same factor at each step (Smith 2015, Cyclical Learning
    Rates, section 3.3, there by the same amount), until the loss runs away; the model is changed.

    training: for this alone. Its schedule is not used; groups keep their ratios to the run's rate.

    Raises:
        UsageError: the loss is not finite from the first step on; or of Rprop, which reads its rate
            at the first step alone.
    """
    optimizer, setup = training.optimizer, training.optimizer_setup
    if isinstance(optimizer, torch.optim.Rprop):
        raise UsageError(
            "Rprop takes its rate at the first step alone, and finds its steps by itself: leave"
            " --lr-find out"
        )
    factors = [peak / setup.lr for peak in training.schedule.peaks(optimizer)]
    epochs = (training.train.epoch(epoch) for epoch in itertools.count(1))
    batches = itertools.chain.from_iterable(epochs)
    rates, losses, lowest = np.geomspace(LOWEST, HIGHEST, NUM_STEPS), list[float](), math.inf
    training.to_training_mode()
    for number, rate in enumerate(rates.tolist(), start=1):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        totals = Totals(training.loss)
        make_step(training, [next(batches) for _ in range(training.settings.accumulate)], totals)
        # Dropout is seeded by it.
        training.schedule.num_steps = number
        loss = totals.loss()
        if not math.isfinite(loss):
            break
        losses.append(loss)
        on_step(1)
        recent = float(np.mean(losses[-_NUM_RECENT:]))
        lowest = min(lowest, recent)
        unit = max(abs(lowest), _OF_FALL * (losses[0] - lowest))
        if recent - lowest > max(_DIVERGED * unit, _LEAST_RISE):
            break
    if len(losses) < 2:
        raise UsageError(
            "the loss is not finite at the lowest rate: `ptkit train --preflight` says more"
        )
    return RangeTest(rates[: len(losses)], np.array(losses), _smoothed(np.array(losses)))


def _smoothed(losses: Values) -> Values:
    """Return means over neighbours on both sides, which shift nothing to higher rates."""
    first = losses[:_NUM_RECENT].mean()
    rise = max((_HIGHEST_LOSS - 1) * abs(first), _LEAST_RISE)
    values = np.minimum(losses, first + rise)
    distances = np.abs(np.arange(len(values))[:, None] - np.arange(len(values)))
    weights: Values = _PAST**distances
    mean: Values = weights @ values / weights.sum(1)
    return mean
