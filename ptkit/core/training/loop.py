"""The training loop: a generator of one result per epoch; no files, screens or TensorBoard."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.config import TrainSettings
from ptkit.core.data.keyed import stream_key
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.loading.batches import Batch, Batches, Forward
from ptkit.core.device import autocast, let_try_kernels
from ptkit.core.training.divergence import check_finite
from ptkit.core.training.observers import EpochResult
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import OptimizerSetup, freeze_statistics
from ptkit.core.training.optimization.scaling import LossScaler
from ptkit.core.training.optimization.schedules import Schedule
from ptkit.core.training.profiling import NO_CLOCK, Clock
from ptkit.core.training.tasks.loss import Count, Loss, Totals
from ptkit.core.training.tasks.task import SCORES

# How many validation images are compared with each other, where the loss compares images: the pairs
# grow with the square.
COMPARED = 512
# Outputs, of which loss and metrics are computed together.
_NUMBERS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Progress:
    """One step; reading `totals` waits for the device. seconds: of its epoch so far."""

    epoch: int
    step: int
    num_steps: int
    totals: Totals
    seconds: float = 0.0


@dataclass(frozen=True)
class Position:
    """How far a run is: whole epochs, and optimizer steps of the next one.

    seconds, sums: what these steps took, and Totals.sums of their batches.
    """

    epochs: int = 0
    steps: int = 0
    seconds: float = field(default=0.0, compare=False)
    sums: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        if not self.steps:
            return f"epoch {self.epochs}" if self.epochs else "its beginning"
        return f"step {self.steps} of epoch {self.epochs + 1}"


BEGINNING = Position()


@dataclass(frozen=True)
class Training:
    """Model, data, loss, optimizer and schedule of a run.

    scaler: steps the optimizer, unless it is LBFGS. dtype: of autocast, None for float32. average:
    of the weights, evaluated instead of them. compiled: called instead of the model.
    tries_kernels: cuDNN tries out kernels for full batches. clock: measures the parts of a step.
    """

    model: nn.Module
    train: Batches
    valid: Batches
    loss: Loss
    optimizer_setup: OptimizerSetup
    schedule: Schedule
    settings: TrainSettings
    scaler: LossScaler
    dtype: torch.dtype | None = None
    average: WeightAverage | None = None
    compiled: Forward | None = None
    tries_kernels: bool = False
    clock: Clock = NO_CLOCK

    @property
    def forward(self) -> Forward:
        return self.model if self.compiled is None else self.compiled

    @property
    def optimizer(self) -> Any:
        return self.optimizer_setup.optimizer

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model."""
        # Collecting them anew each step takes longer than clearing their gradients.
        return list(self.model.parameters())

    @functools.cached_property
    def counts_right_answers(self) -> bool:
        """Whether each image has one right answer."""
        return self.loss.task.kind == SINGLE and self.train.pipeline.mix is None

    def to_training_mode(self) -> None:
        """Put the model into training mode, all but the normalisation layers that are frozen."""
        self.model.train()
        freeze_statistics(self.model, self.optimizer_setup.frozen)

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Put the weights that are evaluated and saved into the model for a while."""
        return nullcontext() if self.average is None else self.average.applied()


def fit(
    training: Training,
    *,
    start: Position = BEGINNING,
    on_step: Callable[[Progress], None] | None = None,
    on_look: Callable[[], None] = lambda: None,
) -> Iterator[EpochResult]:
    """Train, and yield after each epoch with the evaluated weights in the model: save them then.

    start: where the state of `training` is. on_step: called after each optimizer step. on_look:
    called after each batch of validation. Both may raise to stop.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training.clock.start()
    for epoch in range(start.epochs + 1, training.settings.epochs + 1):
        begun = start if epoch == start.epochs + 1 else BEGINNING
        begin = time.perf_counter() - begun.seconds
        # First, so that the groups that join have their rates from the first step on.
        unfrozen = training.optimizer_setup.unfreeze(epoch)
        # Reading waits for the device: without it `seconds` would end before the last steps do.
        totals = train_epoch(training, epoch, on_step, begun=begun).read()
        training.clock.lap("rest")
        seconds = time.perf_counter() - begin
        # Before the schedule sees the epoch: these are the rates of its last step.
        lrs = training.schedule.rates(training.optimizer)
        # An average stays in the model until the caller has saved it: the yield is inside.
        with training.evaluated_weights():
            valid_loss, valid = evaluate(training, on_look)
            training.clock.lap("validation")
            training.schedule.after_epoch(valid_loss=valid_loss, metrics=valid)
            yield EpochResult(
                epoch=epoch,
                train_loss=totals.loss(),
                train_accuracy=totals.accuracy() if training.counts_right_answers else None,
                valid_loss=valid_loss,
                valid=valid,
                lrs=lrs,
                unfrozen=unfrozen,
                seconds=time.perf_counter() - begin,
                images_per_s=totals.num_images / seconds,
            )
        training.clock.lap("records")


def train_epoch(
    training: Training,
    epoch: int,
    on_step: Callable[[Progress], None] | None = None,
    *,
    begun: Position = BEGINNING,
) -> Totals:
    """Make one pass over the training images and return its sums; `epoch` counts from 1.

    begun: what of the pass is done already.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    begin = time.perf_counter() - begun.seconds
    training.to_training_mode()
    totals, accumulate = Totals(training.loss), training.settings.accumulate
    if begun.steps:
        totals.load(begun.sums)
    num_steps = -(-len(training.train) // accumulate)
    on_ready = functools.partial(training.clock.lap, "data")
    rest = training.train.epoch(epoch, first=begun.steps * accumulate, on_ready=on_ready)
    groups = _grouped(_timed(rest, training.clock), accumulate)
    for step, group in enumerate(groups, start=begun.steps + 1):
        if training.tries_kernels:
            # What a last, smaller batch could win is less than what its try-out costs.
            full = training.train.sampling.batch_size
            let_try_kernels(is_on=all(len(batch.indices) == full for batch in group))
        training.schedule.set_rates(training.optimizer)
        make_step(training, group, totals)
        training.schedule.after_step()
        # On a GPU looking at the loss waits for all work queued, so it is looked at rarely.
        if totals.is_due() or step == num_steps:
            check_finite(totals, training, epoch)
        if on_step is not None:
            on_step(Progress(epoch, step, num_steps, totals, time.perf_counter() - begin))
        training.clock.lap("rest")
    # Of validation, where every kernel runs once a batch and is soon done, still less.
    let_try_kernels(is_on=False)
    return totals


def make_step(training: Training, batches: Sequence[Batch], totals: Totals) -> None:
    """Make one optimizer step over some batches whose gradients are added."""
    optimizer = training.optimizer
    if isinstance(optimizer, torch.optim.LBFGS):
        # LBFGS evaluates the loss several times a step; only the first is of the epoch's weights.
        counts = iter([totals])
        optimizer.step(lambda: _gradients(training, batches, next(counts, None)))
    else:
        _gradients(training, batches, totals)
        training.scaler.step()
    training.clock.lap("optimizer")
    if training.average is not None:
        training.average.update()


def evaluate(
    training: Training, on_look: Callable[[], None] = lambda: None
) -> tuple[float, dict[str, float]]:
    """Return loss and metrics over the validation list, in which every image counts once.

    The loss is that of all images at once, whatever the batch size and the order of the lines; a
    loss that compares images compares COMPARED of them at a time. The metrics are the main one of
    the task, and those that are asked for.
    """
    training.model.eval()
    with torch.inference_mode():
        return evaluated(training, _examined(training, on_look))


def evaluated(
    training: Training, pieces: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, dict[str, float]]:
    """Return loss and metrics of outputs with their labels, which come in pieces."""
    loss = training.loss
    totals = Totals(loss)
    wanted = training.settings.metric, training.schedule.metric
    score = SCORES[loss.task.kind](loss.task, loss.facts.num_classes, wanted)
    with torch.inference_mode():
        for outputs, labels in pieces:
            size = len(labels)
            # Both keep their numbers on the device: nothing here waits for it between batches.
            part, count = loss(outputs, labels, over=size), loss.count(labels)
            totals.add(part, over=size, count=count, num_images=size)
            score.add(outputs, labels)
    return totals.loss(), score.metrics()


def _examined(training: Training, on_look: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs and labels of the validation list in pieces, each image once."""
    found = _looked_at(training, on_look)
    if not training.loss.compares:
        yield from _joined(found)
        return
    # Pairs are of one piece, and each piece has its share of every class, however the list is
    # sorted.
    outputs, labels = _one_of(list(found))
    by_class = labels.argsort(stable=True)
    num_pieces = -(-len(labels) // COMPARED)
    for first in range(num_pieces):
        piece = by_class[first::num_pieces]
        yield outputs[piece], labels[piece]


def _joined(found: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs and labels of several batches at a time: with a small net, loss and metrics of
    each batch by itself would take a tenth of the time.
    """
    waiting: list[tuple[Tensor, Tensor]] = []
    for piece in found:
        waiting.append(piece)
        if sum(outputs.numel() for outputs, _ in waiting) >= _NUMBERS_AT_ONCE:
            yield _one_of(waiting)
            waiting = []
    if waiting:
        yield _one_of(waiting)


def _one_of(pieces: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    outputs, labels = map(torch.cat, zip(*pieces, strict=True))
    return outputs, labels


def _looked_at(training: Training, on_look: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in training.valid.epoch():
        yield batch.outputs(training.forward, training.dtype), batch.labels
        on_look()


def _gradients(training: Training, batches: Sequence[Batch], totals: Totals | None) -> Tensor:
    """Put the gradients of some batches into the parameters; return their loss, a scalar.

    totals: what the batches are added to, or None.
    """
    clock, settings = training.clock, training.settings
    device = batches[0].images.device
    # Of the whole group, before the first backward: its labels say it.
    counts = [_count_of(training.loss, batch) for batch in batches]
    over = sum(counts)
    # Dropout depends on the seed and the step alone: a resumed run draws the same.
    _seed_device(device, stream_key(settings.seed, "dropout", training.schedule.num_steps))
    # What optimizer.zero_grad does, without its bookkeeping, and for excluded parameters too.
    for parameter in training.parameters:
        parameter.grad = None
    parts = []
    clock.lap("rest")
    for batch, count in zip(batches, counts, strict=True):
        # The model alone: a loss computes in float32, and backward follows the types of forward.
        with autocast(device, training.dtype):
            outputs = training.forward(batch.images)
        part, answers = _loss_of(training, outputs, batch, over=over)
        clock.lap("forward")
        # Batch by batch, which frees each graph: the memory is that of one batch. The gradients add
        # up to that of one large batch.
        training.scaler.scaled(part).backward()
        clock.lap("backward")
        parts.append(part.detach())
        if totals is not None:
            size = len(batch.labels)
            totals.add(part, over=over, count=count, num_images=size, **answers)
    training.scaler.unscale()
    if settings.clip_value is not None:
        _clip_values(training.optimizer_setup.trained, settings.clip_value)
    # Of the sum over all batches; without error_if_nonfinite, which waits for the device.
    if settings.clip_grad is not None:
        nn.utils.clip_grad_norm_(training.optimizer_setup.trained, settings.clip_grad)
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def _clip_values(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Bring every value of the gradients into -limit..limit, in place."""
    for parameter in parameters:
        # PyTorch's function takes none of the sparse ones.
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            parameter.grad.values().clamp_(-limit, limit)
    dense = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
    nn.utils.clip_grad_value_(dense, limit)


def _labels_of(batch: Batch) -> Tensor:
    if batch.num_crops == 1:
        return batch.labels
    # Every crop of an image is an example with the image's label.
    return batch.labels.repeat_interleave(batch.num_crops, dim=0)


def _count_of(loss: Loss, batch: Batch) -> Count:
    """Return what a batch adds to the denominator of the loss."""
    labels, mixed = _labels_of(batch), batch.mixed
    if mixed is None:
        return loss.count(labels)
    return loss.mixed_count(labels, mixed.partner_labels, mixed.share)


def _loss_of(
    training: Training, outputs: Tensor, batch: Batch, *, over: Count
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a batch's part of the loss, and `answers` with their `labels` where these can be
    compared.
    """
    loss, labels, mixed = training.loss, _labels_of(batch), batch.mixed
    if mixed is not None:
        return loss.mixed(outputs, labels, mixed.partner_labels, mixed.share, over=over), {}
    part = loss(outputs, labels, over=over)
    if not training.counts_right_answers:
        return part, {}
    return part, {"answers": loss.task.answers(outputs.detach()), "labels": labels}


def _timed(batches: Iterator[Batch], clock: Clock) -> Iterator[Batch]:
    """Time the copy of each batch; `on_ready` ends the wait before it."""
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
