"""Two runs of ptkit in one process that differ in log.layers alone.

recording.py LIST NETWORK BATCH_SIZE SIZE DEVICE STEPS

Words: `on` and `off`. Figures: seconds of an epoch with its validation and all that is written of
it; or, with STEPS, of so many steps of a longer epoch, one piece of it after the other.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

# First: it prepares the environment before torch is imported.
import ptkit_train  # isort: skip
from turns import serve

from ptkit.core.device import wait_for
from ptkit.core.training.holding import held
from ptkit.core.training.loop import Position, Progress, fit, train_epoch
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.run_folder import Run, first_image, new_run
from ptkit.core.training.run_place import Place
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.loss import Totals


class PieceDoneError(Exception):
    """So many steps are done."""


def main() -> None:
    with ExitStack() as stack:
        runs = {word: begun(stack, layers=word == "on") for word in ("on", "off")}
        steps = int(sys.argv[6])
        serve({k: in_pieces(run, steps) if steps else in_epochs(run) for k, run in runs.items()})


def begun(stack: ExitStack, *, layers: bool) -> Run:
    settings = ptkit_train.settings_of(sys.argv[1:6])
    settings = replace(settings, log=replace(settings.log, layers=layers))
    setup = prepare(settings, Unwatched(), is_resumed=False)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-run-"))
    hold = stack.enter_context(held(Place(Path(folder)).folder()))
    return new_run(setup, hold, first_image(setup))


def in_epochs(run: Run) -> Callable[[], float]:
    """Return a function that trains an epoch and waits until it is written."""
    epochs = fit(run.training)

    def epoch() -> float:
        begin = time.perf_counter()
        result = next(epochs)
        run.record(result, is_best=run.history.add(result, metric=run.metric), is_due=True)
        run.writer.wait()
        return time.perf_counter() - begin

    return epoch


def in_pieces(run: Run, steps: int) -> Callable[[], float]:
    """Return a function that trains the next steps of the first epoch."""
    training = run.training
    done, nothing = 0, Totals(training.loss).sums()

    def look(progress: Progress) -> None:
        if progress.step == done:
            raise PieceDoneError

    def piece() -> float:
        nonlocal done
        begun_at, done = Position(0, done, sums=nothing), done + steps
        begin = time.perf_counter()
        try:
            train_epoch(training, 1, look, begun=begun_at)
        except PieceDoneError:
            # Else what is queued would be part of the other side's piece.
            wait_for(training.train.device)
            return time.perf_counter() - begin
        raise SystemExit("the epoch is too short for so many rounds")

    return piece


if __name__ == "__main__":
    main()
