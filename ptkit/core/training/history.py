"""What the epochs of a run have led to; the one part of a run that changes while it lives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptkit.core.training.loop import EpochResult
from ptkit.core.training.tasks.task import METRICS, Task

# A row of metrics.csv, column to value; None where an image has no single right answer.
Row = dict[str, Any]


@dataclass
class History:
    """task: how the outputs of the best weights are read.

    best: epoch, loss and metrics of the best epoch. saved_epoch: of the state to resume from.
    """

    task: Task
    rows: list[Row] = field(default_factory=list)
    best: dict[str, float] | None = None
    epochs_without_better: int = 0
    saved_epoch: int = 0

    def add(self, result: EpochResult, *, metric: str) -> bool:
        """Add an epoch and return whether it is the best so far, by `metric`."""
        self.rows.append(_row_of(result))
        found = {"epoch": result.epoch, "loss": result.valid_loss, **result.valid}
        is_best = self.best is None or self._score(found, metric) > self._score(self.best, metric)
        if is_best:
            self.best = found
        self.epochs_without_better = 0 if is_best else self.epochs_without_better + 1
        return is_best

    def _score(self, found: Mapping[str, float], metric: str) -> tuple[float, float]:
        """Return what decides between epochs: the metric, then the loss; the earlier wins a tie.

        By loss, the main metric of the task settles a tie.
        """
        modes = METRICS[self.task.kind]
        name = next(iter(modes)) if metric == "loss" else metric
        value = found[name] if modes[name] == "max" else -found[name]
        return (-found["loss"], value) if metric == "loss" else (value, -found["loss"])


def _row_of(result: EpochResult) -> Row:
    """Return the row of metrics.csv for one epoch; the rate is that of the first group."""
    return {
        "epoch": result.epoch,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "valid_loss": result.valid_loss,
        "valid_accuracy": None,
        **{f"valid_{name}": value for name, value in result.valid.items()},
        "lr": next(iter(result.lrs.values())),
        "seconds": result.seconds,
        "images_per_s": result.images_per_s,
    }
