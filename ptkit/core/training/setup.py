"""Everything of a run that can be wrong, built before the first file is written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.config import LossSettings, ModelSettings, OptimizerSettings, Settings
from ptkit.core.data.keyed import spread
from ptkit.core.data.loading.batches import Forward, batches_at
from ptkit.core.device import choose_device, choose_dtype, prepare_device
from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import initialize
from ptkit.core.models.locate import find_weights
from ptkit.core.models.transfer import TransferReport, transfer
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, default_model, find_head
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.compiling import compile_model
from ptkit.core.training.loop import LoopSettings, Training
from ptkit.core.training.observers import Watcher
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import (
    OptimizerSetup,
    build_optimizer,
    freeze_statistics,
    notes_of,
    split_rate,
    usual_lr,
)
from ptkit.core.training.optimization.schedules import build_schedule
from ptkit.core.training.profiling import NO_CLOCK, stopwatch
from ptkit.core.training.recorders import check_log
from ptkit.core.training.setup_data import PreparedData, prepare_data
from ptkit.core.training.tasks.losses import Loss, build_loss, check_own_loss
from ptkit.core.training.tasks.task import METRICS, check_metric, facts_of
from ptkit.core.wording import counted

# How many training images a model with `fit_inputs` gets.
_FITTED_IMAGES = 2000
# Outputs of a model whose images are compared with each other.
_EMBEDDING = 64


@dataclass(frozen=True)
class PreparedModel:
    """call: the text that builds the same model again. report: what was taken from old weights."""

    module: nn.Module
    call: str
    num_outputs: int
    report: TransferReport | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What a run is made of, complete and checked.

    settings: with all that was chosen written out, so that they repeat this run.
    metric: what the best epoch is chosen by, "loss" or a metric of the task.
    """

    settings: Settings
    data: PreparedData
    model: PreparedModel
    training: Training
    metric: str


def prepare(settings: Settings, watch: Watcher, *, is_resumed: bool) -> Setup:
    """Build data, model, loss, optimizer and schedule, and show the watcher what was chosen.

    Raises:
        PtkitError: anything that does not fit.
    """
    asked = settings.train
    check_log(settings.log)
    device = choose_device(asked.device)
    threads = prepare_device(device, deterministic=asked.deterministic)
    dtype = choose_dtype(asked.precision, device)
    weights = None if is_resumed else settings.model.weights
    start = find_weights(weights, model=settings.model.call) if weights else None
    data = prepare_data(settings.data, asked, device=device, counting=watch.counting, start=start)
    loss = _prepare_loss(settings.loss, data, device)
    modes = METRICS[loss.task.kind]
    metric = next(iter(modes)) if asked.metric == "auto" else asked.metric
    check_metric(metric, loss.task.kind, setting="train.metric")
    optimizer_call = parse(settings.optimizer.call or loss.usual_optimizer)
    # LBFGS flattens gradients as views, which channels_last does not allow.
    channels_last = asked.channels_last and optimizer_call.name != "LBFGS"
    model = prepare_model(
        settings.model,
        class_names=data.class_names,
        num_outputs=_num_outputs(settings.loss, loss),
        size=data.size,
        seed=asked.seed,
        start=start,
    )
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model.module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    images = _try_first_batch(model, loss, data, is_fresh=start is None)
    optimizer = prepare_optimizer(
        settings.optimizer,
        model,
        call=optimizer_call,
        batch_size=data.train.sampling.batch_size * asked.accumulate,
        epochs=asked.epochs,
        is_finetuned=bool(settings.model.weights),
    )
    schedule = build_schedule(
        settings.scheduler,
        optimizer,
        epochs=asked.epochs,
        steps_per_epoch=-(-len(data.train) // asked.accumulate),
        metric_modes=modes,
    )
    resolved = _resolved(settings, data, model, loss, optimizer, channels_last=channels_last)
    choices = (
        f"optimizer: {optimizer.call}, lr {optimizer.lr:g}; schedule: {settings.scheduler.call},"
        f" {schedule.warmup_text}; loss: {loss.call.source}; {_place(device, threads, dtype)}"
    )
    notes = [choices, *notes_of(optimizer.call), *_group_notes(settings.optimizer, optimizer)]
    _report(watch, data, model, notes)
    training = Training(
        model.module,
        data.train,
        data.valid,
        loss,
        optimizer,
        schedule,
        LoopSettings(asked.epochs, asked.seed, asked.accumulate, asked.clip_grad, dtype),
        average=None if asked.ema is None else WeightAverage(model.module, decay=asked.ema),
        compiled=_compiled(model, optimizer, images, dtype, watch) if asked.compile else None,
        clock=stopwatch(device) if asked.profile else NO_CLOCK,
    )
    return Setup(resolved, data, model, training, metric)


def _prepare_loss(asked: LossSettings, data: PreparedData, device: torch.device) -> Loss:
    loss = build_loss(
        parse(asked.call) if asked.call else None,
        facts_of(data.train.images),
        pairs=asked.pairs,
        threshold=asked.threshold,
    )
    if asked.embedding is not None and not loss.compares:
        raise UsageError(
            "loss.embedding is for losses that compare images with each other, such as"
            " TripletMarginLoss"
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
    return loss.on(device)


def _check_pairs(data: PreparedData) -> None:
    """Refuse batches too small to hold two images of one class."""
    labels, batch_size = data.train.images.labels, data.train.sampling.batch_size
    shares = np.bincount(labels) / len(labels)
    expected = batch_size * (batch_size - 1) / 2 * float(np.square(shares).sum())
    if expected < 1:
        raise UsageError(
            f"a batch of {batch_size} holds on average {expected:.2g} pairs of images of one class,"
            " which the loss compares: raise --batch-size"
        )


def _num_outputs(asked: LossSettings, loss: Loss) -> int:
    return (asked.embedding or _EMBEDDING) if loss.compares else loss.facts.num_classes


def _try_first_batch(
    model: PreparedModel, loss: Loss, data: PreparedData, *, is_fresh: bool
) -> Tensor:
    """Show the model its images before training, and try one batch; return the images of it.

    Transforms that do not fit fail here, and sizes that the model does not take.
    """
    fit_inputs = getattr(model.module, "fit_inputs", None)
    if is_fresh and callable(fit_inputs):
        some = spread(range(len(data.reference.images)), _FITTED_IMAGES)
        fit_inputs(torch.cat(list(batches_at(data.reference, some))))
    batch = next(data.train.epoch(0))
    check_own_loss(loss, batch.labels, num_outputs=model.num_outputs)
    _, _, height, width = batch.images.shape
    if (height, width) != (data.size, data.size):
        check_forward(model.module, (height, width), num_classes=model.num_outputs)
    return batch.images


def _resolved(
    settings: Settings,
    data: PreparedData,
    model: PreparedModel,
    loss: Loss,
    optimizer: OptimizerSetup,
    *,
    channels_last: bool,
) -> Settings:
    """Return the settings with all that was chosen written out."""
    return replace(
        settings,
        data=data.settings,
        model=replace(settings.model, call=model.call, weights=_lasting(settings.model.weights)),
        loss=replace(settings.loss, call=loss.call.source),
        optimizer=replace(settings.optimizer, call=str(optimizer.call), lr=optimizer.lr),
        train=replace(
            settings.train, batch_size=data.train.sampling.batch_size, channels_last=channels_last
        ),
    )


def _lasting(weights: str | None) -> str | None:
    """Return a path that still names the same file after ./ckpt.pkl points at this run."""
    if weights and os.path.islink(weights):
        return os.path.relpath(os.path.realpath(weights))
    return weights


def _place(device: torch.device, threads: int, dtype: torch.dtype | None) -> str:
    place = f"{device.type}, {threads} threads" if device.type == "cpu" else device.type
    return f"{place}, {'fp32' if dtype is None else str(dtype).removeprefix('torch.')}"


def _report(watch: Watcher, data: PreparedData, model: PreparedModel, notes: list[str]) -> None:
    for note in (*data.notes, *model.notes, *notes):
        watch.say(note)
    if model.report is not None:
        watch.transferred(model.report)
    for reason in data.skipped:
        watch.warn(f"left out: {reason}")


def _group_notes(asked: OptimizerSettings, optimizer: OptimizerSetup) -> list[str]:
    """Return what became of the parameter groups, where the user asked for any."""
    if not asked.groups and asked.head_lr == 1.0 and asked.layer_decay is None:
        return []
    notes = [
        f"group {group['name']}: {counted(len(group['params']), 'tensor')}, lr {group['lr']:g}"
        for group in optimizer.param_groups
    ]
    waiting = {name for later in optimizer.waiting for name, _ in later.parameters}
    frozen = [name for name in optimizer.frozen if name not in waiting]
    untrained = {"frozen": frozen, "excluded": optimizer.excluded}
    return notes + [
        f"{word}: {counted(len(names), 'tensor')}, {names[0]} to {names[-1]}"
        for word, names in untrained.items()
        if names
    ]


def _compiled(
    model: PreparedModel,
    optimizer: OptimizerSetup,
    images: Tensor,
    dtype: torch.dtype | None,
    watch: Watcher,
) -> Forward:
    """Compile the model for the first batch of an epoch: a full one."""
    model.module.train()
    freeze_statistics(model.module, optimizer.frozen)
    compiled, note = compile_model(model.module, images, dtype=dtype)
    watch.say(note)
    return compiled


# Finetuning moves the body at a tenth of the usual rate, the head (times head_lr) at the usual one.
_FINETUNE_RATE = 0.1


def prepare_model(
    asked: ModelSettings,
    *,
    class_names: Sequence[str],
    num_outputs: int,
    size: int,
    seed: int,
    start: Weights | None = None,
) -> PreparedModel:
    """Build the model, initialise it and take over old weights, on the CPU.

    num_outputs: one per class, one per number, or the size of an embedding.

    Raises:
        UsageError: unknown model or initialisation, or a size that the model does not take.
        CheckpointError: none of the weights fit.
    """
    chosen = asked.call or (start.call if start else None) or default_model(size)
    module, call = build_model(chosen, num_classes=num_outputs, size=size, seed=seed)
    check_forward(module, size, num_classes=num_outputs)
    if asked.init:
        initialize(module, asked.init, seed=seed)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    notes = [f"model: {call}, {num_parameters:,} parameters"]
    if asked.init:
        notes.append(f"init: {'; '.join(asked.init)}")
    report = None
    if start is not None:
        is_same_task = start.class_names is None or start.class_names == tuple(class_names)
        # A head trained on other classes is of no use, even where its shape fits.
        leave_out = "" if is_same_task else find_head(module, num_outputs)
        report = transfer(module, start.state_dict, leave_out=leave_out)
        words = (*start.notes, *report.notes, report.summary())
        notes += [f"weights of {start.source}: {text}" for text in words]
    return PreparedModel(module, call, num_outputs, report, tuple(notes))


def prepare_optimizer(
    asked: OptimizerSettings,
    model: PreparedModel,
    *,
    call: Call,
    batch_size: int,
    epochs: int,
    is_finetuned: bool,
) -> OptimizerSetup:
    """Return the optimizer with its groups; the user's own lines override the rate of the head.

    batch_size: images per optimizer step.

    Raises:
        UsageError: unknown names, selectors that match nothing, or options that do not fit.
    """
    call, lr = split_rate(call, lr=asked.lr)
    if lr is None:
        lr = usual_lr(call, model.module, batch_size=batch_size)
        lr *= _FINETUNE_RATE if is_finetuned else 1.0
    lines = list(asked.groups)
    # LBFGS takes no groups, so the head moves as the body does.
    if asked.head_lr != 1.0 and call.name != "LBFGS":
        lines.insert(0, f"{_head(model.module, model.num_outputs)}: lr={asked.head_lr:g}x")
    return build_optimizer(
        call,
        model.module,
        lr=lr,
        groups=lines,
        decay_all=asked.decay_all,
        layer_decay=asked.layer_decay,
        epochs=epochs,
    )


def _head(model: nn.Module, num_outputs: int) -> str:
    name = find_head(model, num_outputs)
    if not name:
        raise UsageError(
            "the model is one layer and has no separate head: use --set optimizer.head_lr=1"
        )
    return name
