"""Everything of a run that can be wrong, built before the first file is written."""

import functools
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.ImageFont
import torch

from ptkit.core.config.settings import AUTO, LogSettings, LossSettings, Settings
from ptkit.core.device import (
    choose_device,
    choose_dtype,
    is_out_of_memory,
    loading_kernels,
    prepare_device,
)
from ptkit.core.distributed import own_device
from ptkit.core.errors import UsageError
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import find_head
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.batch_sizes import choose_batch_size, explained_memory
from ptkit.core.training.first_steps import with_faster_steps
from ptkit.core.training.loop import Training
from ptkit.core.training.observers import Watcher
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import (
    OptimizerSetup,
    build_optimizer,
    is_lbfgs,
    scaled_lr,
    split_rate,
    usual_lr,
)
from ptkit.core.training.optimization.scaling import LossScaler, dtype_for
from ptkit.core.training.optimization.schedules import build_schedule, rate_of_run
from ptkit.core.training.probe.checks import check_head, check_method
from ptkit.core.training.profiling import NO_CLOCK, stopwatch
from ptkit.core.training.setup_data import PreparedData, prepare_data
from ptkit.core.training.setup_layers import with_gauge
from ptkit.core.training.setup_model import PreparedModel, prepare_model, weights_of
from ptkit.core.training.setup_notes import choices, place_note, rate_note
from ptkit.core.training.setup_ranks import (
    for_ranks,
    in_parts,
    in_ranks,
    placed,
    shard_notes,
)
from ptkit.core.training.tasks.loss import Loss
from ptkit.core.training.tasks.losses import (
    build_loss,
    facts_of,
    usual_optimizer,
)
from ptkit.core.training.tasks.task import check_metric, metrics_for
from ptkit.core.training.trials import fit_to_images, try_first_batch, try_smallest_batch
from ptkit.core.training.usual import FINETUNE_RATE
from ptkit.core.training.wandb_events import check_wandb


@dataclass(frozen=True)
class Setup:
    """What a run is made of, complete and checked.

    settings: with all that was chosen written out, so that they repeat this run.
    metric: what the best epoch is chosen by, "loss" or a metric of the task. layers: the first line
    of layers.jsonl, with log.layers.
    """

    settings: Settings
    data: PreparedData
    model: PreparedModel
    training: Training
    metric: str
    layers: Mapping[str, Any] | None


def prepare(settings: Settings, watch: Watcher, *, is_resumed: bool) -> Setup:
    """Build data, model, loss, optimizer and schedule, and show the watcher what was chosen.

    Raises:
        PtkitError: anything that does not fit.
    """
    settings = for_ranks(settings)
    asked = settings.train
    # First what takes no time: a wrong log setting is told before images are decoded.
    check_log(settings.log)
    check_method(settings)
    device = own_device(choose_device(asked.device))
    threads = prepare_device(device, deterministic=asked.deterministic)
    try:
        with ExitStack() as opened:
            with loading_kernels(device, choose_dtype(asked.precision, device)):
                # A resumed run has its own weights: those that it once started from may be gone.
                start = None if is_resumed else weights_of(settings)
                data = prepare_data(
                    settings.data, asked, device=device, counting=watch.counting, start=start
                )
            opened.callback(data.close)
            setup = _prepare_training(
                settings, data, watch, opened, start=start, device=device, threads=threads
            )
            # Nothing went wrong: all stays open.
            opened.pop_all()
            return setup
    except BaseException as error:
        if is_out_of_memory(error):
            raise UsageError(
                "out of memory before the first step: choose a smaller --model, --size or"
                " --batch-size"
            ) from error
        raise


def _prepare_training(
    settings: Settings,
    data: PreparedData,
    watch: Watcher,
    opened: ExitStack,
    *,
    start: Weights | None,
    device: torch.device,
    threads: int,
) -> Setup:
    """Build what trains on the data. opened: closes what is opened here. start: weights to begin
    with.
    """
    asked = settings.train
    loss = _prepare_loss(settings.loss, data, device)
    modes = metrics_for(loss.task, data.valid.images)
    metric = next(iter(modes)) if asked.metric == "auto" else asked.metric
    check_metric(metric, modes, setting="train.metric")
    call = parse(settings.optimizer.call or usual_optimizer(loss))
    dtype = dtype_for(call, asked.precision, device)
    # LBFGS flattens gradients as views, which channels_last does not allow; FSDP neither.
    channels_last = asked.channels_last and not is_lbfgs(call) and not in_parts(settings)
    data.settle()
    # Training counts from epoch 1 and draws are keyed: this look changes no later batch.
    batch = next(data.train.epoch(0))
    model = prepare_model(settings, data, loss, start=start, channels=batch.images.shape[1])
    # Built on the CPU, then moved: a seed gives the same first weights on every device.
    module, parts = placed(
        model.module, settings, call, device=data.train.device, channels_last=channels_last
    )
    model = replace(model, module=module)
    try_first_batch(model.module, loss, data, batch=batch, num_outputs=model.num_outputs)
    if asked.method != "steps":
        check_head(model.module, loss, batch.images)
    # Before an average or an optimizer copies weights.
    if start is None:
        model = replace(model, fitted=fit_to_images(model.module, data))
    assemble = functools.partial(
        _assemble, settings, model=model, loss=loss, call=call, dtype=dtype, metric_modes=modes
    )
    training = assemble(data)
    notes = []
    if asked.batch_size == AUTO:
        found = choose_batch_size(training, batch)
        data = data.with_batch_size(found.batch_size)
        opened.callback(data.close)
        training, batch = assemble(data), next(data.train.epoch(0))
        notes = [f"{found.note}; {rate_note(settings.optimizer, training)}"]
    notes += choices(settings, training, data, place=place_note(device, threads, dtype))
    notes += shard_notes(settings)
    with explained_memory(training):
        try_smallest_batch(batch.images, training)
        _report(watch, data, model, notes)
        training = with_faster_steps(training, batch.images, watch.say)
        training = in_ranks(training, batch.images, parts)
        layers: Mapping[str, Any] | None = None
        if settings.log.layers and asked.method != "probe":
            training, layers = with_gauge(training, batch, model=model)
    resolved = _resolved(settings, data, model, training, channels_last=channels_last)
    return Setup(resolved, data, model, training, metric, layers)


def _assemble(
    settings: Settings,
    data: PreparedData,
    *,
    model: PreparedModel,
    loss: Loss,
    call: Call,
    dtype: torch.dtype | None,
    metric_modes: Mapping[str, str],
) -> Training:
    """Put a fresh optimizer and a schedule to the model, and all that trains it together."""
    asked, device = settings.train, data.train.device
    if loss.compares:
        _check_pairs(data)
    optimizer = _prepare_optimizer(settings, call, model, data=data)
    return Training(
        model=model.module,
        train=data.train,
        valid=data.valid,
        loss=loss,
        optimizer_setup=optimizer,
        schedule=build_schedule(
            settings.scheduler,
            optimizer,
            epochs=asked.epochs,
            steps_per_epoch=-(-len(data.train) // asked.accumulate),
            metric_modes=metric_modes,
        ),
        settings=asked,
        scaler=LossScaler(optimizer.optimizer, model.module, is_enabled=dtype is torch.float16),
        dtype=dtype,
        average=None if asked.ema is None else WeightAverage(model.module, decay=asked.ema),
        clock=stopwatch(device) if asked.profile else NO_CLOCK,
    )


def check_log(settings: LogSettings) -> None:
    """Refuse log settings that cannot take effect, before anything is written.

    Raises:
        UsageError: a comment or suffix that cannot be in a file name, settings of events that are
            switched off, a font that is none, or Weights & Biases without its package or its key.
    """
    for key in ("comment", "filename_suffix"):
        value = getattr(settings, key)
        # What Windows forbids in names too: runs are copied to other systems.
        if any(character in value for character in '/\\\0:*?"<>|\n'):
            raise UsageError(f"log.{key} becomes a part of a file name and cannot hold {value!r}")
    named = [key for key in ("folder", "comment", "filename_suffix") if getattr(settings, key)]
    if named and not settings.tensorboard:
        raise UsageError(
            f"log.{named[0]} is for TensorBoard events, which log.tensorboard=false switches off"
        )
    if settings.font is not None:
        _check_font(settings.font)
    if settings.wandb:
        check_wandb()


def _check_font(file: str) -> None:
    # Now, not when the pictures are drawn: training may take hours.
    try:
        PIL.ImageFont.truetype(file)
    except OSError as error:
        raise UsageError(
            f"log.font: {file} is not a font: name a .ttf, .otf or .ttc file"
        ) from error


def _prepare_loss(asked: LossSettings, data: PreparedData, device: torch.device) -> Loss:
    loss = build_loss(
        parse(asked.call) if asked.call else None,
        facts_of(data.train.images),
        pairs=asked.pairs,
        threshold=asked.threshold,
        smoothing=asked.smoothing,
    )
    if not loss.compares and asked.embedding is not None:
        raise UsageError(
            "loss.embedding is for losses that compare images with each other, such as"
            " TripletMarginLoss"
        )
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
    """Refuse lists without two images of one class, and batches too small to hold them."""
    images, batch_size = data.train.images, data.train.sampling.batch_size
    counts = np.bincount(images.labels)
    num_pairs = int((counts * (counts - 1)).sum()) / 2
    if not num_pairs:
        raise UsageError(f"{images.file} has no two images of one class, which the loss compares")
    # Of n (n - 1) / 2 pairs of the list, those of one class.
    expected = num_pairs * math.comb(batch_size, 2) / math.comb(len(images), 2)
    if expected < 1:
        raise UsageError(
            f"a batch of {batch_size} holds on average {expected:.2g} pairs of images of one class,"
            " which the loss compares: raise --batch-size"
        )


def _resolved(
    settings: Settings,
    data: PreparedData,
    model: PreparedModel,
    training: Training,
    *,
    channels_last: bool,
) -> Settings:
    """Return the settings with all that was chosen written out."""
    loss, optimizer = training.loss, training.optimizer_setup
    weights = settings.model.weights
    # A path that still names the same file after ./ckpt.pkl points at this run.
    if weights and os.path.islink(weights):
        weights = os.path.relpath(os.path.realpath(weights))
    batch_size = data.train.sampling.batch_size
    chosen = replace(settings.optimizer, call=str(optimizer.call), lr=optimizer.lr, lr_per=None)
    # A tag also says what the file is: the run is repeated with it.
    tag = parse(settings.model.call).tag if settings.model.call else ""
    call = str(replace(parse(model.call), tag=tag))
    sha256 = model.weights_sha256 or settings.model.weights_sha256
    return replace(
        settings,
        data=data.settings,
        model=replace(settings.model, call=call, weights=weights, weights_sha256=sha256),
        loss=replace(settings.loss, call=loss.call.source),
        optimizer=chosen if settings.train.method != "probe" else settings.optimizer,
        train=replace(
            settings.train,
            batch_size=batch_size,
            channels_last=channels_last,
            # As chosen: compiled it rounds differently, and a resumed run must not choose anew.
            compile=training.compiled is not None,
        ),
    )


def _report(watch: Watcher, data: PreparedData, model: PreparedModel, notes: list[str]) -> None:
    for note in (*data.notes, *model.notes, *notes):
        watch.say(note)
    if model.report is not None:
        watch.transferred(model.report)
    for reason in data.skipped:
        watch.warn(f"left out: {reason}")


def _prepare_optimizer(
    settings: Settings, call: Call, model: PreparedModel, *, data: PreparedData
) -> OptimizerSetup:
    """Return the optimizer with its groups; the user's own lines override the rate of the head.

    Raises:
        UsageError: unknown names, selectors that match nothing, or options that do not fit.
    """
    asked = settings.optimizer
    call, lr = split_rate(call, lr=asked.lr)
    lr = rate_of_run(settings.scheduler, lr=lr, is_scaled=asked.lr_per is not None)
    # Rates go by the images of a step, not of a batch.
    images_per_step = data.train.sampling.batch_size * settings.train.accumulate
    if asked.lr_per is not None:
        if lr is None:
            raise UsageError("optimizer.lr_per is for a rate that is given, as by --lr")
        lr = scaled_lr(call, lr, times=images_per_step / asked.lr_per)
    if lr is None:
        lr = usual_lr(call, model.module, batch_size=images_per_step)
        lr *= FINETUNE_RATE if settings.model.weights else 1.0
    lines = list(asked.groups)
    # LBFGS takes no groups, so the head moves as the body does.
    if asked.head_lr != 1.0 and not is_lbfgs(call):
        head = find_head(model.module, model.num_outputs)
        if not head:
            raise UsageError(
                "the model is one layer and has no separate head: use --set optimizer.head_lr=1"
            )
        # In front, as later lines win: the user's own may override it.
        lines.insert(0, f"{head}: lr={asked.head_lr:g}x")
    return build_optimizer(
        call,
        model.module,
        lr=lr,
        groups=lines,
        decay_all=asked.decay_all,
        layer_decay=asked.layer_decay,
        epochs=settings.train.epochs,
    )
