"""How far something is: a bar on standard error on a terminal, a line a minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ptkit.core.wording import duration

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

# Seconds, of any beginning.
Clock = Callable[[], float]
# Between two lines of a log.
MINUTE = 60.0
# After so many seconds of steps their pace tells how long an epoch takes.
_STEADY_S = 10.0


@contextmanager
def bar(
    what: str, total: int, *, quiet: bool = False, clock: Clock = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields the function that moves it on."""
    if quiet:
        yield lambda _count: None
        return
    if not sys.stderr.isatty():
        yield _lines(what, total, clock)
        return
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with live_line(MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def live_line(*columns: "ProgressColumn") -> "Progress":
    """Return a description, a bar and these columns, to be drawn on standard error and removed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    begin = TextColumn("{task.description}", markup=False), BarColumn()
    return Progress(*begin, *columns, console=Console(stderr=True), transient=True)


class Pace:
    """How long the rest of a run takes, from the moments of its steps.

    The first step of an epoch, or after a resume within one, is not typical: threads start, files
    are found, kernels are chosen.
    epochs: of the run.
    """

    def __init__(self, epochs: int, clock: Clock) -> None:
        self.epochs, self._clock = epochs, clock
        self.began = self.now = self._first = clock()
        self.epoch, self.step, self.num_steps, self._first_step = 1, 0, 1, 1
        # From the last step of an epoch to the beginning of the next: validation and files.
        self._between = 0.0

    def begin_epoch(self) -> None:
        """Note that what follows belongs to the next epoch."""
        before, self.began = self.now, self._clock()
        self._between, self.now, self.step = self.began - before, self.began, 0

    def after_step(self, epoch: int, step: int, num_steps: int) -> float:
        """Note a step, and return the time."""
        self.now = self._clock()
        if self.step == 0:
            self._first, self._first_step = self.now, step
        self.epoch, self.step, self.num_steps = epoch, step, num_steps
        return self.now

    @property
    def is_steady(self) -> bool:
        """Whether there were enough steps to judge by."""
        return self.step > self._first_step and self.now - self._first >= _STEADY_S

    @property
    def epoch_seconds(self) -> float:
        """How long the steps of an epoch take."""
        return self._first - self.began + self._step_seconds * (self.num_steps - 1)

    @property
    def epoch_left(self) -> float:
        """Seconds to the last step of this epoch."""
        return self._step_seconds * (self.num_steps - self.step)

    @property
    def run_left(self) -> float:
        """Seconds to the end of the run."""
        others = self.epochs - self.epoch
        return self.epoch_left + self._between + others * (self.epoch_seconds + self._between)

    @property
    def _step_seconds(self) -> float:
        if self.step > self._first_step:
            return (self.now - self._first) / (self.step - self._first_step)
        return self.now - self.began


def _lines(what: str, total: int, clock: Clock) -> Callable[[int], None]:
    """Return a function that counts, and says on standard error once a minute how far that is."""
    began = last = clock()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if clock() - last >= MINUTE:
            last = clock()
            left = (last - began) / max(done, 1) * (total - done)
            typer.echo(f"{what}: {done:,} of {total:,}, {duration(left)} left", err=True)

    return advance
