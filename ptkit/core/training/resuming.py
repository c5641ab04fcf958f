"""Putting the last saved state of a run back."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.config.layers import to_layer
from ptkit.core.config.settings import AUTO, SchedulerSettings, Settings
from ptkit.core.data.fingerprints import hash_files
from ptkit.core.data.keyed import spread
from ptkit.core.errors import CheckpointError, DataError, StorageError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.matching import load_state_dict
from ptkit.core.models.weights import image_hashes
from ptkit.core.ranks import here
from ptkit.core.sharding import parts_like
from ptkit.core.training.changed_lists import TRAINING, VALIDATION, check_same_lists
from ptkit.core.training.holding import Hold
from ptkit.core.training.layer_log import open_layer_log
from ptkit.core.training.loop import Training
from ptkit.core.training.observers import Recorder
from ptkit.core.training.optimization.saved_states import (
    fault_of_optimizer,
    fault_unlike,
    state_for,
)
from ptkit.core.training.optimization.schedules import warmup_steps_of
from ptkit.core.training.run_folder import (
    CHECKPOINT,
    LAST,
    PREVIOUS,
    History,
    Run,
    open_recorders,
    write_config,
)
from ptkit.core.training.saved_run import SavedState, best_epoch, rows_of
from ptkit.core.training.setup import Setup
from ptkit.core.training.states import environment
from ptkit.core.training.tasks.task import METRICS, read_task
from ptkit.core.wording import counted

# What may differ from the run that is resumed; anything else would make it another run. Paths may,
# because the files that they name are compared by content; the weights that a run started from are
# not read again.
_MAY_CHANGE = {
    *("train.epochs", "train.device", "train.save_every", "train.patience", "train.profile"),
    *("data.train", "data.valid", "data.classes", "data.workers", "data.cache"),
    *("model.weights", "model.weights_sha256", "data.root", "train.shard", "train.channels_last"),
    # What they come to is compared instead, or said.
    *("data.alpha", "data.eval_transforms", "scheduler.warmup", "train.compile"),
    # A run from before images were compared by content may have such a leak.
    "data.allow_leak",
}
# So many image files are read to see whether they changed, where images are not kept decoded.
_SAMPLE = 2000
_EXACT = "bit-exact"
# Where one of these differs, sums may round differently.
_EXACT_KEYS = (
    *("torch", "torchvision", "opencv", "device", "processor", "kernels", "precision"),
    *("threads", "memory_format", "compiled"),
)


def check_before_setup(saved: SavedState, settings: Settings, *, is_unfinished: bool) -> None:
    """Refuse what need not be built to see that it cannot go on: building it may take minutes.

    is_unfinished: whether something of the run is left to do, be it pictures.

    Raises:
        UsageError: other settings, or no epoch left.
    """
    _check_same_run(saved, settings, of_all=False)
    alpha, before = settings.data.alpha, _saved_alpha(saved)
    if alpha not in (AUTO, before):
        raise UsageError(
            f"--resume continues the same run, but --alpha (data.alpha) is {alpha}, was {before}"
        )
    if is_unfinished:
        return
    if saved.epoch >= settings.train.epochs and settings.train.method == "probe":
        raise UsageError(
            f"{saved.folder} is finished: a probe has one epoch;"
            f" `ptkit finetune {shlex.quote(str(saved.folder))}` trains further from it"
        )
    if saved.epoch >= settings.train.epochs:
        raise UsageError(
            f"{saved.folder} is finished ({counted(saved.epoch, 'epoch')}): ask for more with"
            " --epochs"
        )
    patience = settings.train.patience
    if patience is not None and saved.checkpoint["train"]["epochs_without_better"] >= patience:
        raise UsageError(
            f"{saved.folder} stopped early after {counted(saved.epoch, 'epoch')}: ask for more with"
            f" --set train.patience={patience + 1} or more"
        )


def with_saved_alpha(settings: Settings, saved: SavedState) -> Settings:
    """Return the settings with the saved run's transparency, where they leave it to auto."""
    data = settings.data
    if data.alpha != AUTO:
        return settings
    return replace(settings, data=replace(data, alpha=_saved_alpha(saved)))


def resumed_run(setup: Setup, saved: SavedState, hold: Hold) -> tuple[Run, str]:
    """Put a saved state into a fresh setup, in place; return the run, and how exactly it continues.

    Raises:
        DataError, UsageError, CheckpointError: other data, other settings, or a state that does not
            fit the model.
        StorageError: the disk refused.
    """
    # All checks come first: until they pass, the folder stays as it is.
    _check_best(saved, setup)
    how_exact = _restore(saved, setup)
    folder, train = saved.folder, saved.checkpoint["train"]
    best, task, best_saved = dict(train["best"]) or None, None, None
    # In its first epoch a run has no best one yet.
    if best is not None:
        checkpoint = read_checkpoint(folder / CHECKPOINT)
        task, on_disk = read_task(checkpoint["task"]), checkpoint.get("metrics", {}).get("best", {})
        # What it does not say is what the state says.
        on_disk = on_disk if on_disk.keys() >= best.keys() else best
        best_saved = best_epoch(on_disk) or int(best["epoch"])
        # Trained again it may come out worse, and its weights would be taken for another epoch's.
        if best_saved > saved.epoch and how_exact != _EXACT:
            best = dict(on_disk)
            how_exact += f"; {CHECKPOINT} is of epoch {best_saved}, and stays until one is better"
    rows = rows_of(folder)
    history = History(
        task=task or setup.training.loss.task,
        # Later rows are of epochs that are trained again.
        rows=[row for row in rows if row["epoch"] <= saved.epoch],
        best=best,
        best_saved=best_saved,
        epochs_without_better=train["epochs_without_better"],
        start=saved.position,
        saved=saved.position,
    )
    recorders: tuple[Recorder, ...] = ()
    if here().is_main:
        _put_in_place(saved.file)
        hold.is_unfinished = True
        write_config(folder, setup.settings)
        up_to = {"up_to_epoch": saved.epoch, "lengths": train.get("logs")}
        recorders = (
            *open_layer_log(folder, setup, **up_to),
            *open_recorders(folder, setup.settings.log, **up_to),
        )
    # Also what the weights saw that the run started from, which are not read again.
    data = replace(setup.data, earlier_images=image_hashes(saved.checkpoint))
    run = Run(**vars(replace(setup, data=data)), hold=hold, recorders=recorders, history=history)
    return run, how_exact


def _check_best(saved: SavedState, setup: Setup) -> None:
    """Refuse a best epoch that does not say what decides between epochs.

    Raises:
        CheckpointError: see above.
    """
    best = saved.checkpoint["train"]["best"]
    main = next(iter(METRICS[setup.training.loss.task.kind]))
    wanted = ("loss", main if setup.metric == "loss" else setup.metric)
    missing = [name for name in wanted if not isinstance(best.get(name), int | float)]
    # In its first epoch a run has no best one yet.
    if best and missing:
        raise CheckpointError(
            f"{saved.file} holds no training state: its best.{missing[0]} is no number"
        )


def _put_in_place(file: Path) -> None:
    """Make the state that a run goes on from its last one: the next save keeps that as the one
    before it, and the damaged one is nothing to keep.
    """
    if file.name != PREVIOUS:
        return
    try:
        os.replace(file, file.with_name(LAST))
    except OSError as error:
        raise StorageError(f"cannot rename {file}: {error.strerror or error}") from error


def _restore(saved: SavedState, setup: Setup) -> str:
    """Put a saved state into a fresh setup, in place; return how exactly it continues.

    Raises:
        DataError: the training list is another one.
        UsageError: other settings.
        CheckpointError: the state does not fit the model.
    """
    checkpoint, training = saved.checkpoint, setup.training
    state = checkpoint["train"]
    _check_same_data(saved, setup)
    _check_same_run(saved, setup.settings)
    _check_same_evaluation(saved, setup)
    _check_same_warmup(saved, setup)
    _check_same_images(saved, setup)
    # Its task has no `counted`: it was saved when a mean was one of the batches' means.
    if training.loss.weighs_images and "counted" not in checkpoint["task"]:
        raise UsageError(
            f"{saved.folder} was begun by an earlier ptkit, whose {training.loss.call.name} over a"
            " list with weights, ignored classes or pairs was another number (see CHANGELOG.md):"
            " train anew, or from its weights with"
            f" `ptkit finetune {shlex.quote(str(saved.folder))}`"
        )
    is_longer = training.settings.epochs != checkpoint["config"]["train"]["epochs"]
    try:
        # The groups that have joined by then must be there: load_state_dict compares them.
        training.optimizer_setup.unfreeze(saved.epoch + bool(saved.position.steps))
        _check_fits(state, training)
        _restore_weights(checkpoint, training)
        training.optimizer.load_state_dict(state_for(training.optimizer, state["optimizer"]))
        # Runs of an earlier version have none.
        training.scaler.load_state_dict(state.get("scaler", {}))
        if is_longer:
            # A longer run has another curve: it starts where that one is by now.
            training.schedule.resume_from(state["scheduler"], epochs_done=saved.epoch)
        else:
            training.schedule.load_state_dict(state["scheduler"])
        # Of a run that recorded nothing there are none.
        training.gauge.load_state_dict(state.get("layers", {}))
        if "generator" in state:
            torch.set_rng_state(state["generator"])
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(
            f"{saved.folder / 'last.pkl'} does not fit: {' '.join(str(error).split())}"
        ) from error
    now, then = environment(setup), {"world_size": 1, **checkpoint.get("env", {})}
    # Of what an earlier version did not write down nothing is known.
    changed = [key for key in _EXACT_KEYS if now[key] != then.get(key, now[key])]
    if now["world_size"] != then["world_size"]:
        changed.append(f"world size ({then['world_size']} to {now['world_size']} processes)")
    exact = f"same samples and augmentations; changed: {', '.join(changed)}"
    if not is_longer:
        return exact if changed else _EXACT
    epochs = training.settings.epochs
    return (
        f"{exact if changed else 'same samples and augmentations'}; the rates so far were not those"
        f" of one run of {counted(epochs, 'epoch')}"
    )


def _check_fits(state: Mapping[str, Any], training: Training) -> None:
    """Compare a saved state with the run's own before any of it is loaded; raises ValueError."""
    fault = fault_of_optimizer(
        state["optimizer"], training.optimizer, is_own=bool(training.optimizer_setup.call.prefix)
    )
    if fault is None and not training.schedule.is_own:
        fault = fault_unlike(state["scheduler"], training.schedule.state_dict(), "the schedule")
    if fault is not None:
        raise ValueError(f"of the saved optimizer and schedule: {fault}")


def _restore_weights(checkpoint: Mapping[str, Any], training: Training) -> None:
    """Load what the optimizer steps into the model, and what was evaluated into the average."""
    evaluated, state = checkpoint["state_dict"], checkpoint["train"]
    saved = parts_like(state.get("raw_state_dict", evaluated), training.model.state_dict())
    load_state_dict(training.model, saved)
    parameters = dict(training.model.named_parameters())
    for name, gradient in state.get("gradients", {}).items():
        parameters[name].grad = gradient.to(parameters[name])
    if training.average is not None:
        names = training.average.state_dict()["averages"]
        averages = parts_like({name: evaluated[name] for name in names}, names)
        found = {"num_updates": state["num_averaged"], "averages": averages}
        training.average.load_state_dict(found)


def _check_same_data(saved: SavedState, setup: Setup) -> None:
    training = setup.training
    lists = {TRAINING: training.train.images, VALIDATION: training.valid.images}
    check_same_lists(
        saved.checkpoint,
        lists,
        saved.folder,
        relabel=setup.settings.data.relabel,
        advice="restore it, or train on from the weights: ptkit finetune"
        f" {shlex.quote(str(saved.folder))}",
    )
    if saved.checkpoint["classes"] != list(setup.data.class_names):
        raise DataError(f"the class names are not those that {saved.folder} was trained with")


def _check_same_run(saved: SavedState, settings: Settings, *, of_all: bool = True) -> None:
    """Refuse settings that would make it another run; the message has each difference.

    of_all: not only of the numbers and switches, which mean the same before a run is set up.
    """
    # A run of an earlier version lacks the settings that came later: it ran with their defaults.
    config = saved.checkpoint["config"]
    before = {
        section: {**values, **config.get(section, {})}
        for section, values in to_layer(Settings()).items()
    }
    differences = [
        f"{section}.{key} is {_shown(value)}, was {_shown(before[section][key])}"
        for section, values in to_layer(settings).items()
        for key, value in values.items()
        # What is logged changes nothing that is trained.
        if section != "log" and f"{section}.{key}" not in _MAY_CHANGE
        # Setting up may make another rate.
        if of_all or (isinstance(value, int | float) and f"{section}.{key}" != "optimizer.lr")
        if _shown(value) != _shown(before[section][key])
    ]
    if differences:
        raise UsageError(f"--resume continues the same run, but {'; '.join(differences)}")


def _saved_alpha(saved: SavedState) -> str:
    # Runs from before there was a choice dropped it.
    return str(saved.checkpoint["pipeline"].get("alpha", "drop"))


def _check_same_evaluation(saved: SavedState, setup: Setup) -> None:
    """Refuse to evaluate in another way, as settings or an earlier version of ptkit may have it."""
    before = saved.checkpoint["pipeline"]["calls"]
    calls = [str(call) for call in setup.training.valid.pipeline.calls]
    if calls != before:
        setting = f"data.eval_transforms={json.dumps(before, ensure_ascii=False)}"
        raise UsageError(
            f"--resume continues the same run, but it was evaluated with {', '.join(before)}, and"
            f" would be with {', '.join(calls)}: pass --set {shlex.quote(setting)}"
        )


def _check_same_warmup(saved: SavedState, setup: Setup) -> None:
    """Refuse another warm-up, be it in steps or as a share of another number of epochs."""
    config, training = saved.checkpoint["config"], setup.training
    before = config.get("scheduler", {}).get("warmup", SchedulerSettings().warmup)
    now = setup.settings.scheduler.warmup
    steps_per_epoch = -(-len(training.train) // training.settings.accumulate)
    was = warmup_steps_of(before, config["train"]["epochs"] * steps_per_epoch)
    was = saved.checkpoint["train"]["scheduler"].get("warmup_steps", was)
    # A schedule that warms up by itself has none.
    if now != before and training.schedule.warmup_steps not in (None, was):
        raise UsageError(
            f"--resume continues the same run, but scheduler.warmup is {now:g}, was {before:g}"
            f" ({counted(was, 'step')})"
        )


def _check_same_images(saved: SavedState, setup: Setup) -> None:
    """Refuse training images that were changed since; of many that are not kept, a sample is read.

    Raises:
        DataError: an image is another one.
    """
    train = setup.training.train
    before = saved.checkpoint["data"].get("image_hashes")
    # Earlier images follow those of the list.
    if not isinstance(before, torch.Tensor) or len(before) < len(train.images):
        return
    then, now = before[: len(train.images)].numpy(), train.known_hashes()
    if not now.all():
        places = np.array(spread(range(len(train.images)), _SAMPLE))
        then, now = then[places], hash_files(train.images, places)
    else:
        places = np.arange(len(now))
    # 0 stands for one that had not been read yet, or could not be.
    changed = places[(then != now) & (then != 0) & (now != 0)]
    if len(changed):
        first = train.images.image_path(int(changed[0]))
        raise DataError(
            f"{counted(len(changed), 'training image')} changed since {saved.folder} was saved, the"
            f" first is {first}: --resume continues with the same images"
        )


def _shown(value: Any) -> Any:
    """Return a tuple as a list: checkpoints have only lists."""
    return list(value) if isinstance(value, tuple) else value
