"""The training loop: a generator that yields one result an epoch and knows nothing of files,
screens or TensorBoard.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.data.keyed import stream_key
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.loading.batches import Batch, Batches
from ptkit.core.errors import DivergedError
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import Prepared, freeze_statistics
from ptkit.core.training.optimization.schedules import Schedule
from ptkit.core.training.prediction import Forward, autocast, outputs_of
from ptkit.core.training.profiling import NOT_LISTENING, Clock
from ptkit.core.training.tasks.losses import Loss
from ptkit.core.training.tasks.task import SCORES
from ptkit.core.training.totals import Totals


@dataclass(frozen=True)
class LoopSettings:
    """epochs: the last epoch. dtype: of autocast, or None. clip_grad: largest total norm, or None."""

    epochs: int
    seed: int = 0
    accumulate: int = 1
    clip_grad: float | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class EpochResult:
    """One row of the history. Losses are means over images; rates are those of the last step.

    train_accuracy: None where an image has no single right answer: MixUp and CutMix, other labels
    than one class.
    valid: the metrics of the task (scoring.METRICS), the main one first. lrs: rate of each
    parameter group by name.
    unfrozen: names of the groups that began to train in this epoch.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    valid_loss: float
    valid: Mapping[str, float]
    lrs: Mapping[str, float]
    unfrozen: tuple[str, ...]
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class Evaluated:
    """loss: mean over images. metrics: of the task, the main one first."""

    loss: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Progress:
    """What a watcher of steps sees; `totals` may be read, at the price of waiting for the device."""

    epoch: int
    step: int
    num_steps: int
    totals: Totals


@dataclass(frozen=True)
class Training:
    """All that a run steps.

    prepared: the optimizer, what it does not train, and what is unfrozen later; normalisation
    layers made of frozen parameters keep their statistics. average: of the weights, which is then
    evaluated instead of them.
    forward: from images to outputs, the model or its compiled form. clock: hears which part of a
    step ends when.
    """

    model: nn.Module
    train: Batches
    valid: Batches
    loss: Loss
    prepared: Prepared
    schedule: Schedule
    settings: LoopSettings
    average: WeightAverage | None = None
    compiled: Forward | None = None
    clock: Clock = NOT_LISTENING

    @property
    def forward(self) -> Forward:
        return self.model if self.compiled is None else self.compiled

    @property
    def optimizer(self) -> Any:
        return self.prepared.optimizer

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model: collecting them anew each step takes longer than clearing
        them.
        """
        return list(self.model.parameters())

    @functools.cached_property
    def counts_right_answers(self) -> bool:
        """Whether each image has one right answer."""
        return self.loss.task.kind == SINGLE and self.train.pipeline.mix is None

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Return the context in which the model has the weights that are evaluated and saved."""
        return nullcontext() if self.average is None else self.average.applied()


def fit(
    training: Training, *, start_epoch: int = 0, on_step: Callable[[Progress], None] | None = None
) -> Iterator[EpochResult]:
    """Train and yield after each epoch, when the model has been evaluated; it may be saved then.

    start_epoch: epochs already done. on_step: called after each optimizer step; may raise to stop.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training.clock.start()
    for epoch in range(start_epoch + 1, training.settings.epochs + 1):
        begin = time.perf_counter()
        unfrozen = training.prepared.unfreeze(epoch)
        totals = train_epoch(training, epoch, on_step).read()
        training.clock.lap("rest")
        seconds = time.perf_counter() - begin
        lrs = training.schedule.rates(training.optimizer)
        with training.evaluated_weights():
            found = evaluate(
                training.model,
                training.valid,
                loss=training.loss,
                dtype=training.settings.dtype,
                forward=training.forward,
            )
            training.clock.lap("validation")
            training.schedule.after_epoch(valid_loss=found.loss, metrics=found.metrics)
            yield EpochResult(
                epoch=epoch,
                train_loss=totals.mean_loss(),
                train_accuracy=totals.accuracy() if training.counts_right_answers else None,
                valid_loss=found.loss,
                valid=found.metrics,
                lrs=lrs,
                unfrozen=unfrozen,
                seconds=time.perf_counter() - begin,
                images_per_s=totals.num_images / seconds,
            )
        training.clock.lap("records")


def train_epoch(
    training: Training, epoch: int, on_step: Callable[[Progress], None] | None = None
) -> Totals:
    """Make one pass over the training images and return its sums; `epoch` counts from 1.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training.model.train()
    freeze_statistics(training.model, training.prepared.frozen)
    totals = Totals()
    ready = functools.partial(training.clock.lap, "data")
    num_steps = -(-len(training.train) // training.settings.accumulate)
    groups = _grouped(
        _heard(training.train.epoch(epoch, on_ready=ready), training.clock),
        training.settings.accumulate,
    )
    for step, batches in enumerate(groups, start=1):
        training.schedule.set_rates(training.optimizer)
        _step(training, batches, totals)
        training.schedule.after_step()
        if totals.is_due() or step == num_steps:
            _check_finite(totals, training, epoch)
        if on_step is not None:
            on_step(Progress(epoch, step, num_steps, totals))
        training.clock.lap("rest")
    return totals


def evaluate(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss,
    dtype: torch.dtype | None = None,
    forward: Forward | None = None,
) -> Evaluated:
    """Return mean loss and metrics over a list; every image counts once. forward: what stands for
    the model's call.
    """
    model.eval()
    totals, score = Totals(), SCORES[loss.task.kind](loss.task, loss.facts.num_classes)
    with torch.inference_mode():
        for batch in batches.epoch():
            outputs = outputs_of(forward or model, batch, dtype)
            totals.add(loss(outputs, batch.labels), len(batch.labels))
            score.add(outputs, batch.labels)
    return Evaluated(totals.mean_loss(), score.metrics())


def _step(training: Training, batches: Sequence[Batch], totals: Totals) -> None:
    """Make one optimizer step over some batches whose gradients are added."""
    optimizer, settings, number = training.optimizer, training.settings, training.schedule.num_steps
    clock, device = training.clock, batches[0].images.device
    num_images = sum(len(batch.labels) for batch in batches)
    counted = False

    def closure() -> Tensor:
        nonlocal counted
        # Dropout depends on the step alone, so that a resumed run goes on as if never interrupted.
        _seed_device(device, stream_key(settings.seed, "dropout", number))
        # What optimizer.zero_grad does, without its bookkeeping, and for excluded parameters too.
        for parameter in training.parameters:
            parameter.grad = None
        parts = []
        clock.lap("rest")
        for batch in batches:
            with autocast(device, settings.dtype):
                outputs = training.forward(batch.images)
            value, compared = _loss_of(training, outputs, batch)
            part = value if len(batches) == 1 else value * (len(batch.labels) / num_images)
            clock.lap("forward")
            part.backward()
            clock.lap("backward")
            parts.append(part.detach())
            if not counted:
                totals.add(value, len(batch.labels), **compared)
        counted = True
        if settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(training.prepared.trained, settings.clip_grad)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    # LBFGS evaluates the closure several times a step; the others need the gradients once.
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    clock.lap("optimizer")
    if training.average is not None:
        training.average.update()


def _loss_of(training: Training, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch, and `answers` with their `labels` where these can be compared."""
    loss, mixed = training.loss, batch.mixed
    # Every crop of an image is an example with the image's label.
    labels = (
        batch.labels
        if batch.num_crops == 1
        else batch.labels.repeat_interleave(batch.num_crops, dim=0)
    )
    if mixed is not None:
        return loss.mixed(outputs, labels, mixed.partner_labels, mixed.share), {}
    value = loss(outputs, labels)
    if not training.counts_right_answers:
        return value, {}
    return value, {"answers": loss.task.answers(outputs.detach()), "labels": labels}


def _check_finite(totals: Totals, training: Training, epoch: int) -> None:
    bad = totals.read().first_bad
    if bad is None:
        return
    step = (
        (epoch - 1) * -(-len(training.train) // training.settings.accumulate)
        + bad // training.settings.accumulate
        + 1
    )
    values = (
        (name, p if p.grad is None else _dense(p.grad))
        for name, p in training.model.named_parameters()
    )
    where = next(
        (f"; first in the gradient of {name}" for name, v in values if not v.isfinite().all()), ""
    )
    raise DivergedError(
        f"the loss became NaN or infinite at step {step} (epoch {epoch}){where}; "
        "try a lower --lr or --set train.clip_grad=1"
    )


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _heard(batches: Iterator[Batch], clock: Clock) -> Iterator[Batch]:
    """Tell the clock when a batch has come; `Batches.epoch` calls `on_ready` when there is nothing left
    to wait for.
    """
    for batch in batches:
        clock.lap("copy")
        yield batch


def _grouped(batches: Iterator[Batch], count: int) -> Iterator[tuple[Batch, ...]]:
    while group := tuple(itertools.islice(batches, count)):
        yield group


def _seed_device(device: torch.device, key: int) -> None:
    """Seed the device's own generator: torch.manual_seed takes a hundred times longer."""
    match device.type:
        case "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        case "mps":
            torch.mps.manual_seed(key)
        case _:
            torch.default_generator.manual_seed(key)
