"""Everything of a run that can be wrong, built before the first file is written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.config import Settings
from ptkit.core.data.loading.batches import Batches, batches_at
from ptkit.core.data.sampling import spread
from ptkit.core.device import choose_device, choose_dtype, prepare_device
from ptkit.core.errors import UsageError
from ptkit.core.models.zoo import check_forward
from ptkit.core.parts.calls import parse
from ptkit.core.training.compiling import compile_model
from ptkit.core.training.loop import LoopSettings, Training
from ptkit.core.training.observers import Item, Recorder, Watcher
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import Prepared, freeze_statistics, notes_of
from ptkit.core.training.optimization.schedules import Schedule, build_schedule
from ptkit.core.training.profiling import NOT_LISTENING, stopwatch
from ptkit.core.training.recorders import check_log
from ptkit.core.training.setup_data import PreparedData, prepare_data
from ptkit.core.training.setup_model import PreparedModel, prepare_model, prepare_optimizer
from ptkit.core.training.starting_weights import StartingWeights, find_weights
from ptkit.core.training.tasks.losses import DEFAULTS, Loss, build_loss, check_own_loss
from ptkit.core.training.tasks.task import METRICS, Task, check_metric, facts_of

# How many training images a model with `fit_inputs` gets.
_FITTED_IMAGES = 2000
# Outputs of a model whose images are compared with each other.
_EMBEDDING = 64


# Of metrics.csv, column to value; train_accuracy is None where an image has no single right answer.
Row = dict[str, Any]


@dataclass
class Run:
    """A run while it lives: its fixed parts, and what the epochs so far have led to.

    task: how the outputs of the best weights are read. metric: what the best epoch is chosen by,
    "loss" or a
    metric of the task. best: epoch, loss and metrics of the best epoch.
    """

    folder: Path
    settings: Settings
    data: PreparedData
    model: PreparedModel
    prepared: Prepared
    training: Training
    recorders: tuple[Recorder, ...]
    task: Task
    metric: str
    rows: list[Row] = field(default_factory=list)
    best: dict[str, float] | None = None
    epochs_without_better: int = 0
    saved_epoch: int = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "ckpt.pkl"

    def show(self, item: Item, step: int) -> None:
        """Hand an item to every recorder; step is its epoch."""
        for recorder in self.recorders:
            recorder.show(item, step)


def prepare(settings: Settings, watch: Watcher, *, is_resumed: bool) -> Run:
    """Build data, model, loss, optimizer and schedule, and tell the watcher what was decided.

    Raises:
        PtkitError: anything that does not fit.
    """
    check_log(settings.log)
    settings = _without_channels_last(settings)
    device = choose_device(settings.train.device)
    threads = prepare_device(device, deterministic=settings.train.deterministic)
    start = None
    if settings.model.weights and not is_resumed:
        start = find_weights(settings.model.weights, model=settings.model.call)
    data = prepare_data(settings, device=device, counting=watch.counting, start=start)
    loss = _prepare_loss(settings, data).to(device)
    loss.task = loss.task.on(device)
    settings = replace(
        settings,
        optimizer=replace(settings.optimizer, call=settings.optimizer.call or loss.usual_optimizer),
    )
    model = _prepare_fitting_model(settings, data, loss, device, start)
    batch_size = data.train.sampling.batch_size
    prepared = prepare_optimizer(
        settings, model.module, num_outputs=model.num_outputs, batch_size=batch_size
    )
    schedule = _prepare_schedule(settings, prepared, data, loss)
    train = settings.train
    dtype = choose_dtype(train.precision, device)
    training = Training(
        model.module,
        data.train,
        data.valid,
        loss,
        prepared,
        schedule,
        LoopSettings(train.epochs, train.seed, train.accumulate, train.clip_grad, dtype),
        average=WeightAverage(model.module, decay=train.ema) if train.ema is not None else None,
        clock=stopwatch(device) if train.profile else NOT_LISTENING,
    )
    resolved = _resolved(settings, data, model, prepared)
    metric = next(iter(METRICS[loss.task.kind])) if train.metric == "auto" else train.metric
    check_metric(metric, loss.task.kind, setting="train.metric")
    _tell(watch, resolved, data, model, prepared, schedule, where=_where(device, threads, dtype))
    if train.compile:
        training = _compiled(training, watch)
    return Run(Path(), resolved, data, model, prepared, training, (), loss.task, metric)


def _without_channels_last(settings: Settings) -> Settings:
    """LBFGS flattens gradients as views, which channels_last does not allow."""
    if settings.optimizer.call is None or parse(settings.optimizer.call).name != "LBFGS":
        return settings
    return replace(settings, train=replace(settings.train, channels_last=False))


def _compiled(training: Training, watch: Watcher) -> Training:
    """Compile the model for the first batch of an epoch: a full one."""
    training.model.train()
    freeze_statistics(training.model, training.prepared.frozen)
    images = next(training.train.epoch(0)).images
    compiled, note = compile_model(training.model, images, dtype=training.settings.dtype)
    watch.say(note)
    return replace(training, compiled=compiled)


def _prepare_loss(settings: Settings, data: PreparedData) -> Loss:
    asked = settings.loss
    loss = build_loss(
        asked.call, facts_of(data.train.images), pairs=asked.pairs, threshold=asked.threshold
    )
    if settings.loss.embedding is not None and not loss.compares:
        raise UsageError(
            "loss.embedding is for losses that compare images with each other, as TripletMarginLoss"
            " does"
        )
    if loss.compares:
        _check_pairs(data)
    if data.train.pipeline.mix is not None and (
        loss.compares or not hasattr(loss.criterion, "reduction")
    ):
        why = (
            "compares images"
            if loss.compares
            else "has no `reduction`, which could give the loss of each image"
        )
        raise UsageError(
            f"MixUp and CutMix mix the losses of single images, and this loss {why}: leave them out"
        )
    return loss


def _check_pairs(data: PreparedData) -> None:
    """Refuse batches too small to hold two images of one class."""
    labels, batch_size = data.train.images.labels, data.train.sampling.batch_size
    shares = np.bincount(labels) / len(labels)
    expected = batch_size * (batch_size - 1) / 2 * float(np.square(shares).sum())
    if expected < 1:
        raise UsageError(
            f"a batch of {batch_size} holds on average {expected:.2g} pairs of images of one class,"
            " which is what the loss compares: raise --batch-size"
        )


def _prepare_fitting_model(
    settings: Settings,
    data: PreparedData,
    loss: Loss,
    device: torch.device,
    start: StartingWeights | None,
) -> PreparedModel:
    """Build the model and try one batch: transforms that do not fit, and sizes that the model does
    not take.
    """
    num_outputs = (
        (settings.loss.embedding or _EMBEDDING) if loss.compares else len(data.class_names)
    )
    model = prepare_model(
        settings,
        class_names=data.class_names,
        num_outputs=num_outputs,
        size=data.size,
        device=device,
        start=start,
    )
    fit_inputs = getattr(model.module, "fit_inputs", None)
    if start is None and callable(fit_inputs):
        fit_inputs(torch.cat(list(batches_at(data.reference, _spread_indices(data.reference)))))
    batch = next(data.train.epoch(0))
    check_own_loss(loss, batch.labels, num_outputs=num_outputs)
    _, _, height, width = batch.images.shape
    if (height, width) != (data.size, data.size):
        check_forward(model.module, (height, width), num_classes=num_outputs)
    return model


def _spread_indices(batches: Batches) -> list[int]:
    """Return which images a model sees before training, evenly over the list."""
    return spread(range(len(batches.images)), _FITTED_IMAGES)


def _prepare_schedule(
    settings: Settings, prepared: Prepared, data: PreparedData, loss: Loss
) -> Schedule:
    return build_schedule(
        settings.scheduler.call,
        prepared,
        per=settings.scheduler.per,
        warmup=settings.scheduler.warmup,
        metric=settings.scheduler.metric,
        metric_modes=METRICS[loss.task.kind],
        epochs=settings.train.epochs,
        steps_per_epoch=-(-len(data.train) // settings.train.accumulate),
    )


def _resolved(
    settings: Settings, data: PreparedData, model: PreparedModel, prepared: Prepared
) -> Settings:
    """Return the settings with all that was chosen written out, so that they repeat this run."""
    weights = settings.model.weights
    # ./ckpt.pkl will point at this run soon; the file that it points at now is meant.
    if weights and os.path.islink(weights):
        weights = os.path.relpath(os.path.realpath(weights))
    return replace(
        settings,
        data=data.settings,
        model=replace(settings.model, call=model.call, weights=weights),
        loss=replace(
            settings.loss, call=settings.loss.call or DEFAULTS[data.train.images.label_kind]
        ),
        optimizer=replace(settings.optimizer, call=prepared.call, lr=prepared.lr),
        train=replace(settings.train, batch_size=data.train.sampling.batch_size),
    )


def _where(device: torch.device, threads: int, dtype: torch.dtype | None) -> str:
    place = f"{device.type}, {threads} threads" if device.type == "cpu" else device.type
    return f"{place}, {'fp32' if dtype is None else str(dtype).removeprefix('torch.')}"


def _tell(
    watch: Watcher,
    resolved: Settings,
    data: PreparedData,
    model: PreparedModel,
    prepared: Prepared,
    schedule: Schedule,
    *,
    where: str,
) -> None:
    """Tell what was decided."""
    for note in (*data.notes, *model.notes):
        watch.say(note)
    watch.say(
        f"optimizer: {prepared.call}, lr {prepared.lr:g}; schedule: {resolved.scheduler.call}, "
        f"{schedule.warmup_text}; loss: {resolved.loss.call}; {where}"
    )
    for note in (*notes_of(prepared.call), *_group_notes(prepared, resolved)):
        watch.say(note)
    if model.report is not None:
        watch.transferred(model.report)
    for reason in data.skipped:
        watch.warn(f"left out: {reason}")


def _group_notes(prepared: Prepared, settings: Settings) -> Sequence[str]:
    """Return what became of the parameter groups, where the user asked for any."""
    asked = settings.optimizer
    if not asked.groups and asked.head_lr == 1.0 and asked.layer_decay is None:
        return []
    groups = prepared.param_groups
    notes = [
        f"group {group['name']}: {_tensors(len(group['params']))}, lr {group['lr']:g}"
        for group in groups
    ]
    waiting = {name for later in prepared.waiting for name, _ in later.parameters}
    frozen = [name for name in prepared.frozen if name not in waiting]
    left = {"frozen": frozen, "excluded": prepared.excluded}
    return notes + [
        f"{what}: {_tensors(len(names))}, {names[0]} to {names[-1]}"
        for what, names in left.items()
        if names
    ]


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
