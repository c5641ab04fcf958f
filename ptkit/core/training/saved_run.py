"""What a run folder holds to go on from: the last saved state, and the rows of its epochs."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.run_files import Row, read_metrics, why_no_run
from ptkit.core.training.loop import Position
from ptkit.core.training.run_folder import LAST, PREVIOUS
from ptkit.core.training.tasks.loss import SUMS

# Of last.pkl and its `train`.
_STATE = ("config", "data", "epoch", "optimizer", "scheduler", "best", "epochs_without_better")
_PARTS = (("data", "list_sha256"), ("data", "valid_sha256"), ("config", "train"))


@dataclass(frozen=True)
class SavedState:
    """The last saved state of a run folder, or the one before it, and its file."""

    file: Path
    checkpoint: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def epoch(self) -> int:
        return int(self.checkpoint["train"]["epoch"])

    @property
    def position(self) -> Position:
        train = self.checkpoint["train"]
        # Runs of an earlier version were saved at the ends of epochs alone.
        steps, seconds = train.get("step_in_epoch", 0), train.get("seconds", 0.0)
        return Position(self.epoch, steps, seconds, train.get("sums", {}))


def check_run_folder(folder: Path) -> None:
    """Refuse a folder that is not that of a run.

    Raises:
        UsageError: see above.
    """
    if (why := why_no_run(folder)) is not None:
        raise UsageError(why)


def read_saved_state(folder: Path) -> tuple[SavedState | None, str | None]:
    """Return the newest state of a run folder that can be read, None if nothing was saved yet; and
    a warning if it is not the last one.

    Raises:
        UsageError: the states are gone.
        CheckpointError: all of them are damaged.
    """
    damage: CheckpointError | None = None
    for file in (folder / LAST, folder / PREVIOUS):
        if not os.path.lexists(file):
            continue
        try:
            state = SavedState(file, _read_state(file))
        except CheckpointError as error:
            damage = damage or error
            continue
        if file.name == LAST:
            return state, None
        why = damage or f"{folder / LAST} is missing"
        return state, f"{why}; going on from the state before it, {file}"
    if damage is not None:
        raise damage
    # The first epoch is always saved, a moment after its row.
    if len(rows_of(folder)) > 1:
        raise UsageError(
            f"{folder} cannot be resumed: its {LAST} is gone; `ptkit finetune {folder}` trains"
            " further from its best checkpoint"
        )
    return None, None


def _read_state(file: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(file)
    state = {**checkpoint, **checkpoint.get("train", {})}
    missing = [name for name in _STATE if name not in state]
    missing += [f"{name}.{key}" for name, key in _PARTS if key not in state.get(name, ())]
    # Of a run that was interrupted in its first epoch it is empty.
    missing += ["best.epoch"] if state.get("best") and best_epoch(state["best"]) is None else []
    # Of an epoch that is done there are none.
    if state.get("step_in_epoch"):
        missing += [f"sums.{name}" for name in SUMS if name not in state.get("sums", ())]
    if not missing and not isinstance(state["config"]["train"].get("epochs"), int):
        missing = ["config.train.epochs"]
    if missing:
        raise CheckpointError(f"{file} holds no training state: it has no {missing[0]}")
    return checkpoint


def best_epoch(best: Mapping[str, Any]) -> int | None:
    """Return the epoch that a checkpoint calls the best; None where it does not say a number."""
    epoch = best.get("epoch")
    return int(epoch) if isinstance(epoch, int | float) and math.isfinite(epoch) else None


def rows_of(folder: Path) -> list[Row]:
    """Return the rows of a run's metrics.csv, to go on from; none where there is no such file.

    Raises:
        DataError: it is damaged. StorageError: it cannot be read.
    """
    try:
        return read_metrics(folder)
    except DataError as error:
        raise DataError(
            f"{error}: move it away, and the run goes on without the rows of earlier epochs"
        ) from error
