"""Going on with an interrupted run after its last saved epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.config import Settings, to_layer
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.transfer import load_state_dict
from ptkit.core.training.live_run import Run
from ptkit.core.training.loop import Training
from ptkit.core.training.snapshots import environment

# What may differ from the run that is resumed; anything else would make it another run.
# Paths may, because what they name is compared by content; the weights that a run started from are
# not read again.
_MAY_CHANGE = {"train.epochs", "train.device", "train.save_every", "train.patience", "data.workers", "data.cache",
               "data.train", "data.valid", "data.classes", "model.weights", "train.profile"}  # fmt: skip
_EXACT_KEYS = ("torch", "torchvision", "opencv", "device", "processor", "threads", "memory_format")


@dataclass(frozen=True)
class SavedState:
    """The last saved state of a run folder."""

    folder: Path
    checkpoint: dict[str, Any]

    @property
    def epoch(self) -> int:
        return self.checkpoint["train"]["epoch"]

    @property
    def best(self) -> dict[str, float]:
        return self.checkpoint["train"]["best"]


def read_saved_state(folder: Path) -> SavedState:
    """Return what last.pkl of a run folder holds.

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
    """Refuse settings that would make another run of it.

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
        raise UsageError(f"--resume goes on with the same run, but {'; '.join(differences)}")


def restore(saved: SavedState, run: Run) -> str:
    """Put a saved state into a freshly prepared run, in place; return how exactly it goes on.

    Raises:
        DataError: the training list is another one.
        UsageError: other settings, or no epoch left.
        CheckpointError: the state does not fit the model.
    """
    checkpoint, training = saved.checkpoint, run.training
    _check_same_data(saved, run)
    check_same_run(checkpoint["config"], run.settings)
    if saved.epoch >= training.settings.epochs:
        raise UsageError(
            f"{saved.folder} is done ({saved.epoch} epochs): ask for more with --epochs"
        )
    is_longer = training.settings.epochs != checkpoint["config"]["train"]["epochs"]
    try:
        training.prepared.unfreeze(saved.epoch)
        _restore_weights(checkpoint, training)
        training.optimizer.load_state_dict(checkpoint["train"]["optimizer"])
        if is_longer:
            training.schedule.go_on_from(checkpoint["train"]["scheduler"], epochs_done=saved.epoch)
        else:
            training.schedule.load_state_dict(checkpoint["train"]["scheduler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{saved.folder / 'last.pkl'} does not fit: {' '.join(str(error).split())}"
        ) from error
    here, there = environment(run), checkpoint.get("env", {})
    changed = [key for key in _EXACT_KEYS if here[key] != there.get(key)]
    if is_longer:
        changed.append("epochs, and so the schedule")
    return (
        f"same samples and augmentations; changed: {', '.join(changed)}" if changed else "bit-exact"
    )


def _restore_weights(checkpoint: Mapping[str, Any], training: Training) -> None:
    """Give the model the weights that the optimizer steps, and the average those that were
    evaluated.
    """
    evaluated, state = checkpoint["state_dict"], checkpoint["train"]
    load_state_dict(training.model, state.get("raw_state_dict", evaluated))
    if training.average is not None:
        names = training.average.state_dict()["averages"]
        averages = {name: evaluated[name] for name in names}
        training.average.load_state_dict(
            {"num_updates": state["num_averaged"], "averages": averages}
        )


def _check_same_data(saved: SavedState, run: Run) -> None:
    data = saved.checkpoint["data"]
    for images, key in (
        (run.training.train.images, "list_sha256"),
        (run.training.valid.images, "valid_sha256"),
    ):
        if data[key] != images.sha256:
            raise DataError(f"{images.file} is not the list that {saved.folder} was trained with")
    if saved.checkpoint["classes"] != list(run.data.class_names):
        raise DataError(f"the class names are not those that {saved.folder} was trained with")


def _shown(value: Any) -> Any:
    """Return lists and tuples in one form: a checkpoint knows only lists."""
    return list(value) if isinstance(value, tuple) else value
