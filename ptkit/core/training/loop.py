"""The training loop: a generator that yields one result an epoch and knows nothing of files, screens or TensorBoard."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.data.batches import Batch, Batches
from ptkit.core.data.keyed import stream_key
from ptkit.core.errors import DivergedError
from ptkit.core.training.losses import Loss, predictions
from ptkit.core.training.metrics import Matrix, confusion_counts
from ptkit.core.training.metrics import accuracy as accuracy_of
from ptkit.core.training.optimizers import freeze_statistics
from ptkit.core.training.schedules import Schedule

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
    """One row of the history. Accuracies and losses are means over images; rates are those of the last step.

    train_accuracy: None where MixUp or CutMix leave no single right answer.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    valid_loss: float
    valid_accuracy: float
    lrs: tuple[float, ...]
    seconds: float
    images_per_s: float
    confusion: Matrix


@dataclass(frozen=True)
class Evaluated:
    loss: float
    confusion: Matrix

    @property
    def accuracy(self) -> float:
        return accuracy_of(self.confusion)


class Totals:
    """Sums of an epoch. New batches wait on the device as they are; reading the sums waits for the device.

    num_images, loss_sum, num_right: over the batches read so far. first_bad: number of the first batch whose loss
    was NaN or infinite.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Tensor, int]] = []
        self.num_batches = self.num_images = self.num_right = 0
        self.loss_sum = 0.0
        self.first_bad: int | None = None

    def add(self, loss: Tensor, labels: Tensor, predicted: Tensor) -> None:
        """Add one batch; loss is its mean."""
        self._waiting.append((loss.detach(), (predicted == labels).sum(), len(labels)))

    def read(self) -> "Totals":
        """Bring the sums up to date and return self."""
        if not self._waiting:
            return self
        losses, hits, sizes = zip(*self._waiting, strict=True)
        self._waiting = []
        for loss, right, size in zip(_numbers(losses), _numbers(hits), sizes, strict=True):
            if self.first_bad is None and not math.isfinite(loss):
                self.first_bad = self.num_batches
            self.num_batches += 1
            self.num_images += size
            self.num_right += int(right)
            self.loss_sum += loss * size
        return self

    def mean_loss(self) -> float:
        return self.read().loss_sum / max(self.num_images, 1)

    def accuracy(self) -> float:
        return self.read().num_right / max(self.num_images, 1)


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of some scalars in one transfer."""
    return [scalars[0].item()] if len(scalars) == 1 else torch.stack(list(scalars)).tolist()


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

    frozen: names of parameters that do not train; normalisation layers made of them keep their statistics.
    excluded: names of parameters that have gradients but that the optimizer does not know.
    """

    model: nn.Module
    train: Batches
    valid: Batches
    loss: Loss
    optimizer: Any
    schedule: Schedule
    settings: LoopSettings
    frozen: Sequence[str] = ()
    excluded: Sequence[str] = ()

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model: collecting them anew each step takes longer than clearing them."""
        return list(self.model.parameters())

    @functools.cached_property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves, whose gradients are clipped."""
        left_out = {*self.frozen, *self.excluded}
        return [parameter for name, parameter in self.model.named_parameters() if name not in left_out]


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
        totals = train_epoch(training, epoch, on_step)
        train_loss = totals.mean_loss()
        train_accuracy = totals.accuracy() if training.train.pipeline.mix is None else None
        seconds = time.perf_counter() - begin
        lrs = tuple(float(group["lr"]) for group in training.optimizer.param_groups)
        found = evaluate(training.model, training.valid, loss=training.loss, dtype=training.settings.dtype)
        training.schedule.after_epoch(valid_loss=found.loss, valid_accuracy=found.accuracy)
        yield EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            valid_loss=found.loss,
            valid_accuracy=found.accuracy,
            lrs=lrs,
            seconds=time.perf_counter() - begin,
            images_per_s=totals.read().num_images / seconds,
            confusion=found.confusion,
        )


def train_epoch(training: Training, epoch: int, on_step: Callable[[Progress], None] | None = None) -> Totals:
    """Make one pass over the training images and return its sums; `epoch` counts from 1.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training.model.train()
    freeze_statistics(training.model, training.frozen)
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
    """Return mean loss and confusion counts over a list; every image counts once."""
    model.eval()
    totals = Totals()
    confusion = torch.zeros((loss.num_classes, loss.num_classes), dtype=torch.int64, device=batches.device)
    with torch.inference_mode():
        for batch in batches.epoch():
            with _autocast(batches.device, dtype):
                outputs = model(batch.images)
            predicted = predictions(outputs, loss.rule.reading)
            totals.add(loss(outputs, batch.labels), batch.labels, predicted)
            confusion += confusion_counts(batch.labels, predicted, num_classes=loss.num_classes)
    return Evaluated(totals.mean_loss(), confusion.cpu().numpy())


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
            with _autocast(device, settings.dtype):
                outputs = training.model(batch.images)
            value = _loss_of(training.loss, outputs, batch)
            part = value if len(batches) == 1 else value * (len(batch.labels) / num_images)
            part.backward()
            parts.append(part.detach())
            if not counted:
                totals.add(value, batch.labels, predictions(outputs.detach(), training.loss.rule.reading))
        counted = True
        if settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(training.trained, settings.clip_grad)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    # LBFGS evaluates the closure several times a step; the others need the gradients once.
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def _loss_of(loss: Loss, outputs: Tensor, batch: Batch) -> Tensor:
    value = loss(outputs, batch.labels)
    if batch.mixed is None:
        return value
    return value * batch.mixed.share + loss(outputs, batch.mixed.partner_labels) * (1 - batch.mixed.share)


def _check_finite(totals: Totals, training: Training, epoch: int) -> None:
    bad = totals.read().first_bad
    if bad is None:
        return
    step = (
        (epoch - 1) * -(-len(training.train) // training.settings.accumulate) + bad // training.settings.accumulate + 1
    )
    values = ((name, p if p.grad is None else p.grad) for name, p in training.model.named_parameters())
    where = next((f"; first in the gradient of {name}" for name, v in values if not v.isfinite().all()), "")
    raise DivergedError(
        f"the loss became NaN or infinite at step {step} (epoch {epoch}){where}; "
        "try a lower --lr or --set train.clip_grad=1"
    )


def _grouped(batches: Iterator[Batch], count: int) -> Iterator[tuple[Batch, ...]]:
    while group := tuple(itertools.islice(batches, count)):
        yield group


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _seed_device(device: torch.device, key: int) -> None:
    """Seed the device's own generator: torch.manual_seed takes a hundred times longer."""
    match device.type:
        case "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        case "mps":
            torch.mps.manual_seed(key)
        case _:
            torch.default_generator.manual_seed(key)
