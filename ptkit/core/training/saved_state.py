"""What the checkpoints of a run hold, and restoring a run from the last one."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ptkit import __version__
from ptkit.core.config import Settings
from ptkit.core.config_layers import to_layer
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.transfer import load_state_dict
from ptkit.core.training.loop import EpochResult, Training
from ptkit.core.training.setup import Setup
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


def checkpoint_of(setup: Setup, history: History, *, task: Task, kind: str) -> dict[str, Any]:
    """Return a checkpoint of the weights that are evaluated now, with all that their use needs.

    task: of these weights. kind: "best" or "last".
    """
    training, data, settings = setup.training, setup.data, setup.settings
    pipeline = training.valid.pipeline
    return {
        "kind": kind,
        "model": {"call": setup.model.call, "num_classes": setup.model.num_outputs},
        "classes": list(data.class_names),
        "task": task.as_dict(),
        "pipeline": {
            "calls": list(pipeline.calls),
            "tensors": pipeline.tensors,
            "size": data.size,
            "mean": list(data.settings.mean),
            "std": list(data.settings.std),
        },
        "state_dict": training.model.state_dict(),
        "metrics": {**history.rows[-1], "best": dict(history.best or {})},
        "data": {
            "seed": settings.train.seed,
            "list_sha256": training.train.images.sha256,
            "valid_sha256": training.valid.images.sha256,
            "num_images": len(training.train.images),
        },
        "env": _environment(setup),
        "config": to_layer(settings),
    }


def last_checkpoint(setup: Setup, history: History) -> dict[str, Any]:
    """Return the contents of last.pkl: a checkpoint, and what training needs to continue."""
    training = setup.training
    # The class means of an embedding belong to the best weights, so they are not in this task.
    contents = checkpoint_of(setup, history, task=training.loss.task, kind="last")
    raw: dict[str, Any] = {}
    if training.average is not None:
        # While the average is in the model, the weights that the optimizer steps are in its place.
        state = training.average.state_dict()
        raw = {
            "raw_state_dict": contents["state_dict"] | state["averages"],
            "num_averaged": state["num_updates"],
        }
    return contents | {
        "train": {
            **raw,
            "epoch": int(history.rows[-1]["epoch"]),
            "step": training.schedule.num_steps,
            "optimizer": training.optimizer.state_dict(),
            "scheduler": training.schedule.state_dict(),
            "best": dict(history.best or {}),
            "epochs_without_better": history.epochs_without_better,
        },
    }


def _environment(setup: Setup) -> dict[str, Any]:
    """Return what the numbers of a run depend on besides its settings."""
    import cv2
    import torchvision

    return {
        "ptkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "opencv": str(cv2.__version__),
        "device": setup.training.train.device.type,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if setup.settings.train.channels_last else "contiguous",
    }


# What may differ from the run that is resumed; anything else would make it another run. Paths may,
# because the files that they name are compared by content; the weights that a run started from are
# not read again.
_MAY_CHANGE = {
    *("train.epochs", "train.device", "train.save_every", "train.patience", "train.profile"),
    *("data.train", "data.valid", "data.classes", "data.workers", "data.cache", "model.weights"),
}
_EXACT_KEYS = ("torch", "torchvision", "opencv", "device", "processor", "threads", "memory_format")


@dataclass(frozen=True)
class SavedState:
    """The last saved state of a run folder."""

    folder: Path
    checkpoint: dict[str, Any]

    @property
    def epoch(self) -> int:
        return int(self.checkpoint["train"]["epoch"])


def read_saved_state(folder: Path) -> SavedState:
    """Read last.pkl of a run folder.

    Raises:
        UsageError: not a run folder, or nothing was saved yet.
        CheckpointError: last.pkl is damaged.
    """
    if not (folder / "config.toml").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.toml")
    if not (folder / "last.pkl").is_file():
        raise UsageError(
            f"{folder} cannot be resumed: no epoch was finished, so it has no last.pkl"
        )
    checkpoint = read_checkpoint(folder / "last.pkl")
    if "train" not in checkpoint:
        raise CheckpointError(f"{folder / 'last.pkl'} holds no training state")
    return SavedState(folder, checkpoint)


def check_same_run(saved: Mapping[str, Mapping[str, Any]], settings: Settings) -> None:
    """Refuse settings that would make it another run.

    Raises:
        UsageError: they differ; the message has each difference.
    """
    # A run of an earlier version lacks the settings that came later: it ran with their defaults.
    before = {
        section: {**values, **saved.get(section, {})}
        for section, values in to_layer(Settings()).items()
    }
    differences = [
        f"{section}.{key} is {_shown(value)}, was {_shown(before[section][key])}"
        for section, values in to_layer(settings).items()
        for key, value in values.items()
        if section != "log" and f"{section}.{key}" not in _MAY_CHANGE
        if _shown(value) != _shown(before[section][key])
    ]
    if differences:
        raise UsageError(f"--resume continues the same run, but {'; '.join(differences)}")


def restore(saved: SavedState, setup: Setup) -> str:
    """Put a saved state into a fresh setup, in place; return how exactly it continues.

    Raises:
        DataError: the training list is another one.
        UsageError: other settings, or no epoch left.
        CheckpointError: the state does not fit the model.
    """
    checkpoint, training = saved.checkpoint, setup.training
    _check_same_data(saved, setup)
    check_same_run(checkpoint["config"], setup.settings)
    if saved.epoch >= training.settings.epochs:
        raise UsageError(
            f"{saved.folder} is finished ({saved.epoch} epochs): ask for more with --epochs"
        )
    is_longer = training.settings.epochs != checkpoint["config"]["train"]["epochs"]
    try:
        training.optimizer_setup.unfreeze(saved.epoch)
        _restore_weights(checkpoint, training)
        training.optimizer.load_state_dict(checkpoint["train"]["optimizer"])
        if is_longer:
            training.schedule.resume_from(checkpoint["train"]["scheduler"], epochs_done=saved.epoch)
        else:
            training.schedule.load_state_dict(checkpoint["train"]["scheduler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{saved.folder / 'last.pkl'} does not fit: {' '.join(str(error).split())}"
        ) from error
    here, there = _environment(setup), checkpoint.get("env", {})
    changed = [key for key in _EXACT_KEYS if here[key] != there.get(key)]
    if is_longer:
        changed.append("epochs, and so the schedule")
    return (
        f"same samples and augmentations; changed: {', '.join(changed)}" if changed else "bit-exact"
    )


def _restore_weights(checkpoint: Mapping[str, Any], training: Training) -> None:
    """Load what the optimizer steps into the model, and what was evaluated into the average."""
    evaluated, state = checkpoint["state_dict"], checkpoint["train"]
    load_state_dict(training.model, state.get("raw_state_dict", evaluated))
    if training.average is not None:
        names = training.average.state_dict()["averages"]
        averages = {name: evaluated[name] for name in names}
        training.average.load_state_dict(
            {"num_updates": state["num_averaged"], "averages": averages}
        )


def _check_same_data(saved: SavedState, setup: Setup) -> None:
    data = saved.checkpoint["data"]
    for images, key in (
        (setup.training.train.images, "list_sha256"),
        (setup.training.valid.images, "valid_sha256"),
    ):
        if data[key] != images.sha256:
            raise DataError(f"{images.file} is not the list that {saved.folder} was trained with")
    if saved.checkpoint["classes"] != list(setup.data.class_names):
        raise DataError(f"the class names are not those that {saved.folder} was trained with")


def _shown(value: Any) -> Any:
    """Return a tuple as a list: checkpoints have only lists."""
    return list(value) if isinstance(value, tuple) else value


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
