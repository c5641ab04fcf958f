"""Run `ptkit` with the given arguments until its first optimizer step is done, and end there."""

import os
import sys

from ptkit.cli import main
from ptkit.commands.train import TrainingScreen


def end(_screen: TrainingScreen, progress: object) -> None:
    # Reading the loss waits for the device.
    progress.totals.read()  # type: ignore[attr-defined]
    sys.stdout.flush()
    os._exit(0)


TrainingScreen.step = end  # type: ignore[method-assign, assignment]
main()
