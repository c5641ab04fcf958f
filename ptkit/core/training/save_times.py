"""When the state to resume from is written: every so many epochs, steps or minutes."""

import time
from collections.abc import Callable

# What stands behind the number of train.save_every.
_STEPS, _MINUTES = "s", "m"


class SaveTimes:
    """Answers after each step and epoch whether the state is due.

    every: `2` is epochs, `200s` optimizer steps of the whole run, `10m` minutes. The first and the
    last epoch are always due: before the first a run could only begin anew.
    clock: seconds, of any beginning.
    """

    def __init__(
        self, every: int | str, *, epochs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        every = str(every)
        self._unit = every[-1] if every[-1] in (_STEPS, _MINUTES) else ""
        self._count = int(every.removesuffix(self._unit))
        self._epochs, self._clock, self._saved = epochs, clock, clock()

    def after_step(self, num_steps: int) -> bool:
        """Return whether the state is due after an optimizer step; num_steps: of the run so far."""
        if self._unit == _STEPS:
            return num_steps % self._count == 0
        return self._unit == _MINUTES and self._is_time()

    def after_epoch(self, epoch: int) -> bool:
        """Return whether the state is due after an epoch, which counts from 1."""
        if epoch in (1, self._epochs):
            return True
        return epoch % self._count == 0 if not self._unit else self._is_time()

    def _is_time(self) -> bool:
        now = self._clock()
        if self._unit != _MINUTES or now < self._saved + 60 * self._count:
            return False
        self._saved = now
        return True
