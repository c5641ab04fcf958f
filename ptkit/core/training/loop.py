"""The training loop: a generator that yields one result an epoch and knows nothing of files, screens or TensorBoard."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.data.batches import Batch, Batches
from ptkit.core.data.keyed import stream_key
from ptkit.core.errors import DivergedError
from ptkit.core.training.forward import autocast, outputs_of
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import Prepared, freeze_statistics
from ptkit.core.training.optimization.schedules import Schedule
from ptkit.core.training.tasks.losses import Loss
from ptkit.core.training.tasks.readings import SINGLE
from ptkit.core.training.tasks.scoring import SCORES

# On a GPU reading a number waits for all work queued: a loss that became NaN is noticed within this many steps.
_CHECK_EVERY_ON_GPU = 50


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

    train_accuracy: None where an image has no single right answer: MixUp and CutMix, other labels than one class.
    valid: the metrics of the task (scoring.METRICS), the main one first. lrs: rate of each parameter group by name.
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


class Totals:
    """Sums of an epoch. New batches wait on the device as they are; reading the sums waits for the device.

    num_images, loss_sum, num_right: over the batches read so far. first_bad: number of the first batch whose loss
    was NaN or infinite.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Tensor | None, int]] = []
        self.num_batches = self.num_images = 0
        self.num_right = self.loss_sum = 0.0
        self.first_bad: int | None = None

    def add(self, loss: Tensor, num_images: int, num_right: Tensor | None = None) -> None:
        """Add one batch; loss is its mean."""
        self._waiting.append((loss.detach(), num_right, num_images))

    def read(self) -> "Totals":
        """Bring the sums up to date and return self."""
        if not self._waiting:
            return self
        losses, hits, sizes = zip(*self._waiting, strict=True)
        self._waiting = []
        rights = _numbers([right for right in hits if right is not None]) or [0] * len(sizes)
        for loss, right, size in zip(_numbers(losses), rights, sizes, strict=True):
            if self.first_bad is None and not math.isfinite(loss):
                self.first_bad = self.num_batches
            self.num_batches += 1
            self.num_images += size
            self.num_right += right
            self.loss_sum += loss * size
        return self

    def mean_loss(self) -> float:
        return self.read().loss_sum / max(self.num_images, 1)

    def accuracy(self) -> float:
        """Return the share of right answers, where each image has one."""
        return self.read().num_right / max(self.num_images, 1)


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of some scalars in one transfer."""
    if len(scalars) < 2:
        return [scalar.item() for scalar in scalars]
    return torch.stack(list(scalars)).tolist()


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

    prepared: the optimizer, what it does not train, and what is unfrozen later; normalisation layers made of frozen
    parameters keep their statistics. average: of the weights, which is then evaluated instead of them.
    """

    model: nn.Module
    train: Batches
    valid: Batches
    loss: Loss
    prepared: Prepared
    schedule: Schedule
    settings: LoopSettings
    average: WeightAverage | None = None

    @property
    def optimizer(self) -> Any:
        return self.prepared.optimizer

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model: collecting them anew each step takes longer than clearing them."""
        return list(self.model.parameters())

    @property
    def counts_right_answers(self) -> bool:
        """Whether each image has one right answer."""
        return self.loss.reading.kind == SINGLE and self.train.pipeline.mix is None

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
    for epoch in range(start_epoch + 1, training.settings.epochs + 1):
        begin = time.perf_counter()
        unfrozen = training.prepared.unfreeze(epoch)
        totals = train_epoch(training, epoch, on_step).read()
        seconds = time.perf_counter() - begin
        lrs = training.schedule.rates(training.optimizer)
        with training.evaluated_weights():
            found = evaluate(training.model, training.valid, loss=training.loss, dtype=training.settings.dtype)
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


def train_epoch(training: Training, epoch: int, on_step: Callable[[Progress], None] | None = None) -> Totals:
    """Make one pass over the training images and return its sums; `epoch` counts from 1.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training.model.train()
    freeze_statistics(training.model, training.prepared.frozen)
    totals = Totals()
    num_steps = -(-len(training.train) // training.settings.accumulate)
    check_every = 1 if training.train.device.type == "cpu" else _CHECK_EVERY_ON_GPU
    groups = _grouped(training.train.epoch(epoch), training.settings.accumulate)
    for step, batches in enumerate(groups, start=1):
        training.schedule.set_rates(training.optimizer)
        _step(training, batches, totals)
        training.schedule.after_step()
        if step % check_every == 0 or step == num_steps:
            _check_finite(totals, training, epoch)
        if on_step is not None:
            on_step(Progress(epoch, step, num_steps, totals))
    return totals


def evaluate(model: nn.Module, batches: Batches, *, loss: Loss, dtype: torch.dtype | None = None) -> Evaluated:
    """Return mean loss and metrics over a list; every image counts once."""
    model.eval()
    totals, score = Totals(), SCORES[loss.reading.kind](loss.reading, loss.facts.num_classes)
    with torch.inference_mode():
        for batch in batches.epoch():
            outputs = outputs_of(model, batch, dtype)
            totals.add(loss(outputs, batch.labels), len(batch.labels))
            score.add(outputs, batch.labels)
    return Evaluated(totals.mean_loss(), score.metrics())


def _step(training: Training, batches: Sequence[Batch], totals: Totals) -> None:
    """Make one optimizer step over some batches whose gradients are added."""
    optimizer, settings, number = training.optimizer, training.settings, training.schedule.num_steps
    device = batches[0].images.device
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
        for batch in batches:
            with autocast(device, settings.dtype):
                outputs = training.model(batch.images)
            value, num_right = _loss_of(training, outputs, batch)
            part = value if len(batches) == 1 else value * (len(batch.labels) / num_images)
            part.backward()
            parts.append(part.detach())
            if not counted:
                totals.add(value, len(batch.labels), num_right)
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
    if training.average is not None:
        training.average.update()


def _loss_of(training: Training, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the loss of a batch, and how many answers are right where that can be said."""
    loss, mixed = training.loss, batch.mixed
    # Every crop of an image is an example with the image's label.
    labels = batch.labels if batch.num_crops == 1 else batch.labels.repeat_interleave(batch.num_crops, dim=0)
    if mixed is not None:
        return loss.mixed(outputs, labels, mixed.partner_labels, mixed.share), None
    value = loss(outputs, labels)
    if not training.counts_right_answers:
        return value, None
    return value, (loss.reading.answers(outputs.detach()) == labels).sum() / batch.num_crops


def _check_finite(totals: Totals, training: Training, epoch: int) -> None:
    bad = totals.read().first_bad
    if bad is None:
        return
    step = (
        (epoch - 1) * -(-len(training.train) // training.settings.accumulate) + bad // training.settings.accumulate + 1
    )
    values = ((name, p if p.grad is None else _dense(p.grad)) for name, p in training.model.named_parameters())
    where = next((f"; first in the gradient of {name}" for name, v in values if not v.isfinite().all()), "")
    raise DivergedError(
        f"the loss became NaN or infinite at step {step} (epoch {epoch}){where}; "
        "try a lower --lr or --set train.clip_grad=1"
    )


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


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
