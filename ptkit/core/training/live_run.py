"""A run while it lives."""

from dataclasses import dataclass, field
from pathlib import Path

from ptkit.core.config import Settings
from ptkit.core.training.data_setup import PreparedData
from ptkit.core.training.loop import Training
from ptkit.core.training.model_setup import PreparedModel
from ptkit.core.training.optimization.optimizers import Prepared
from ptkit.core.training.recording.events import NoEvents
from ptkit.core.training.recording.records import Row
from ptkit.core.training.tasks.readings import Reading


@dataclass
class Run:
    """A run while it lives: its fixed parts, and what the epochs so far have led to.

    reading: how the outputs of the best weights are read. metric: what the best epoch is chosen by,
    "loss" or a
    metric of the task. best: epoch, loss and metrics of the best epoch.
    """

    folder: Path
    settings: Settings
    data: PreparedData
    model: PreparedModel
    prepared: Prepared
    training: Training
    events: NoEvents
    reading: Reading
    metric: str
    rows: list[Row] = field(default_factory=list)
    best: dict[str, float] | None = None
    epochs_without_better: int = 0
    saved_epoch: int = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "ckpt.pkl"
