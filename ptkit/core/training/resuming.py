"""Reading the last saved state of a run, and putting it back."""

import csv
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ptkit.core.config import Settings
from ptkit.core.config_layers import to_layer
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.matching import load_state_dict
from ptkit.core.models.weights import image_hashes
from ptkit.core.training.loop import Training
from ptkit.core.training.optimization.saved_states import fault_of_optimizer, fault_unlike
from ptkit.core.training.run_folder import (
    History,
    Row,
    Run,
    environment,
    open_recorders,
    write_config,
)
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.task import read_task
from ptkit.core.wording import counted, reason_of

# What may differ from the run that is resumed; anything else would make it another run. Paths may,
# because the files that they name are compared by content; the weights that a run started from are
# not read again.
_MAY_CHANGE = {
    *("train.epochs", "train.device", "train.save_every", "train.patience", "train.profile"),
    *("data.train", "data.valid", "data.classes", "data.workers", "data.cache"),
    *("model.weights", "model.weights_sha256"),
    "data.root",
    # What it comes to is compared instead.
    "data.eval_transforms",
    # A run from before images were compared by content may have such a leak.
    "data.allow_leak",
}
# Of last.pkl and its `train`.
_STATE = ("config", "data", "epoch", "optimizer", "scheduler", "best", "epochs_without_better")
# Where one of these differs, sums may round differently.
_EXACT_KEYS = (
    *("torch", "torchvision", "opencv", "device", "processor", "kernels", "precision"),
    *("threads", "memory_format"),
)


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
    state = {**checkpoint, **checkpoint.get("train", {})}
    if missing := [name for name in _STATE if name not in state]:
        raise CheckpointError(
            f"{folder / 'last.pkl'} holds no training state: it has no {missing[0]}"
        )
    return SavedState(folder, checkpoint)


def resumed_run(setup: Setup, saved: SavedState) -> tuple[Run, str]:
    """Put a saved state into a fresh setup, in place; return the run, and how exactly it continues.

    Raises:
        DataError, UsageError, CheckpointError: other data, other settings, or a state that does not
            fit the model.
        StorageError: the disk refused.
    """
    # All checks come first: until they pass, the folder stays as it is.
    how_exact = _restore(saved, setup)
    folder, train = saved.folder, saved.checkpoint["train"]
    history = History(
        task=read_task(read_checkpoint(folder / "ckpt.pkl")["task"]),
        # Later rows are of epochs that are trained again.
        rows=_read_metrics(folder / "metrics.csv", up_to_epoch=saved.epoch),
        best=dict(train["best"]),
        epochs_without_better=train["epochs_without_better"],
        saved_epoch=saved.epoch,
    )
    write_config(folder, setup.settings)
    recorders = open_recorders(folder, setup.settings.log, up_to_epoch=saved.epoch)
    # Also what the weights saw that the run started from, which are not read again.
    data = replace(setup.data, earlier_images=image_hashes(saved.checkpoint))
    run = Run(
        **vars(replace(setup, data=data)), folder=folder, recorders=recorders, history=history
    )
    return run, how_exact


def _restore(saved: SavedState, setup: Setup) -> str:
    """Put a saved state into a fresh setup, in place; return how exactly it continues.

    Raises:
        DataError: the training list is another one.
        UsageError: other settings, or no epoch left.
        CheckpointError: the state does not fit the model.
    """
    checkpoint, training = saved.checkpoint, setup.training
    _check_same_data(saved, setup)
    _check_same_run(checkpoint["config"], setup.settings)
    _check_same_evaluation(checkpoint["pipeline"]["calls"], setup)
    if saved.epoch >= training.settings.epochs:
        raise UsageError(
            f"{saved.folder} is finished ({counted(saved.epoch, 'epoch')}): ask for more with"
            " --epochs"
        )
    # Its task has no `counted`: it was saved when a mean was one of the batches' means.
    if training.loss.weighs_images and "counted" not in checkpoint["task"]:
        raise UsageError(
            f"{saved.folder} was begun by an earlier ptkit, whose {training.loss.call.name} over a"
            " list with weights, ignored classes or pairs was another number (see CHANGELOG.md):"
            f" train anew, or from its weights with `ptkit finetune {saved.folder}`"
        )
    is_longer = training.settings.epochs != checkpoint["config"]["train"]["epochs"]
    try:
        # The groups that have joined by then must be there: load_state_dict compares them.
        training.optimizer_setup.unfreeze(saved.epoch)
        _check_fits(checkpoint["train"], training)
        _restore_weights(checkpoint, training)
        training.optimizer.load_state_dict(checkpoint["train"]["optimizer"])
        # Runs of an earlier version have none.
        training.scaler.load_state_dict(checkpoint["train"].get("scaler", {}))
        if is_longer:
            # A longer run has another curve: it starts where that one is by now.
            training.schedule.resume_from(checkpoint["train"]["scheduler"], epochs_done=saved.epoch)
        else:
            training.schedule.load_state_dict(checkpoint["train"]["scheduler"])
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(
            f"{saved.folder / 'last.pkl'} does not fit: {' '.join(str(error).split())}"
        ) from error
    here, there = environment(setup), checkpoint.get("env", {})
    # Of what an earlier version did not write down nothing is known.
    changed = [key for key in _EXACT_KEYS if here[key] != there.get(key, here[key])]
    if is_longer:
        changed.append("epochs, and so the schedule")
    return (
        f"same samples and augmentations; changed: {', '.join(changed)}" if changed else "bit-exact"
    )


def _check_fits(state: Mapping[str, Any], training: Training) -> None:
    """Compare a saved state with the run's own before any of it is loaded; raises ValueError."""
    schedule = training.schedule.state_dict()
    fault = fault_of_optimizer(state["optimizer"], training.optimizer) or fault_unlike(
        state["scheduler"], schedule, "the schedule"
    )
    if fault is not None:
        raise ValueError(f"of the saved optimizer and schedule: {fault}")


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


def _check_same_run(saved: Mapping[str, Mapping[str, Any]], settings: Settings) -> None:
    """Refuse settings that would make it another run; the message has each difference."""
    # A run of an earlier version lacks the settings that came later: it ran with their defaults.
    before = {
        section: {**values, **saved.get(section, {})}
        for section, values in to_layer(Settings()).items()
    }
    differences = [
        f"{section}.{key} is {_shown(value)}, was {_shown(before[section][key])}"
        for section, values in to_layer(settings).items()
        for key, value in values.items()
        # What is logged changes nothing that is trained.
        if section != "log" and f"{section}.{key}" not in _MAY_CHANGE
        if _shown(value) != _shown(before[section][key])
    ]
    if differences:
        raise UsageError(f"--resume continues the same run, but {'; '.join(differences)}")


def _check_same_evaluation(saved: list[str], setup: Setup) -> None:
    """Refuse to evaluate in another way, as settings or an earlier version of ptkit may have it."""
    calls = [str(call) for call in setup.training.valid.pipeline.calls]
    if calls != saved:
        setting = f"data.eval_transforms={json.dumps(saved, ensure_ascii=False)}"
        raise UsageError(
            f"--resume continues the same run, but it was evaluated with {', '.join(saved)}, and"
            f" would be with {', '.join(calls)}: pass --set {shlex.quote(setting)}"
        )


def _shown(value: Any) -> Any:
    """Return a tuple as a list: checkpoints have only lists."""
    return list(value) if isinstance(value, tuple) else value


def _read_metrics(file: Path, *, up_to_epoch: int) -> list[Row]:
    """Return the rows of metrics.csv up to an epoch; none where there is no such file."""
    if not file.exists():
        return []
    try:
        with file.open(newline="") as lines:
            rows = [
                {key: float(value) if value else None for key, value in row.items()}
                for row in csv.DictReader(lines, strict=True)
            ]
        done: list[Row] = [row | {"epoch": int(row["epoch"] or 0)} for row in rows]
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{file} is damaged ({reason_of(error)}): move it away, and the run goes on without"
            " the rows of earlier epochs"
        ) from error
    return [row for row in done if row["epoch"] <= up_to_epoch]
