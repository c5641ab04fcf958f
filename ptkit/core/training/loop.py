"""The training loop: a generator of one result per epoch; no files, screens or TensorBoard."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.config.settings import TrainSettings
from ptkit.core.data.keyed import stream_key
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.loading.batches import Batch, Batches, Forward
from ptkit.core.device import autocast, let_try_kernels, seed_device, trying_kernels
from ptkit.core.distributed import share_buffers, summed_on_device
from ptkit.core.ranks import here
from ptkit.core.replica import Replica
from ptkit.core.sharding import Sharded
from ptkit.core.training.divergence import check_finite
from ptkit.core.training.evaluating import all_sums, evaluate
from ptkit.core.training.observers import EpochResult
from ptkit.core.training.optimization.averaging import WeightAverage
from ptkit.core.training.optimization.optimizers import OptimizerSetup, freeze_statistics
from ptkit.core.training.optimization.scaling import LossScaler
from ptkit.core.training.optimization.schedules import Schedule
from ptkit.core.training.profiling import NO_CLOCK, Clock
from ptkit.core.training.rank_losses import as_rank, compared, own_share, sum_over_ranks
from ptkit.core.training.recording.gauge import NO_GAUGE, Gauge
from ptkit.core.training.tasks.loss import Count, Loss, Totals


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
    of the weights, evaluated instead of them. compiled: called instead of the model. replica: steps
    with the other ranks, if there are any.
    tries_kernels: cuDNN tries out kernels for full batches. clock: measures the parts of a step.
    gauge: measures what happens in the model.
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
    replica: Replica | Sharded | None = None
    tries_kernels: bool = False
    clock: Clock = NO_CLOCK
    gauge: Gauge = NO_GAUGE

    @property
    def forward(self) -> Forward:
        return self.model if self.compiled is None else self.compiled

    @property
    def stepped(self) -> Forward:
        """What is called for a step, whose gradients come from all ranks."""
        return self.forward if self.replica is None else self.replica

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a part of the model only."""
        return isinstance(self.replica, Sharded)

    def adding_up(self, *, is_last: bool) -> AbstractContextManager[None]:
        """See `Replica.adding_up`."""
        return nullcontext() if self.replica is None else self.replica.adding_up(is_last=is_last)

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
        if training.replica is not None:
            training.replica.renew()
        # Reading waits for the device: without it `seconds` would end before the last steps do.
        totals = train_epoch(training, epoch, on_step, begun=begun)
        totals.load(all_sums(totals))
        training.gauge.gather()
        training.clock.lap("rest")
        seconds = time.perf_counter() - begin
        # Before the schedule sees the epoch: these are the rates of its last step.
        lrs = training.schedule.rates(training.optimizer)
        # An average stays in the model until the caller has saved it: the yield is inside.
        share_buffers(training.model)
        with training.evaluated_weights():
            valid_loss, valid = evaluate(training, on_look)
            training.clock.lap("validation")
            training.schedule.after_epoch(valid_loss=valid_loss, metrics=valid)
            recorded = training.gauge.recorded(step=training.schedule.num_steps, train_s=seconds)
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
                recorded=recorded,
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
        # They are those of all ranks; they come together again at the end of the epoch.
        is_counted = here().is_main
        totals.load(
            {k: n if is_counted or k == "num_batches" else 0 for k, n in begun.sums.items()}
        )
    num_steps = -(-len(training.train) // accumulate)
    on_ready = functools.partial(training.clock.lap, "data")
    rest = training.train.epoch(epoch, first=begun.steps * accumulate, on_ready=on_ready)
    training.gauge.begin_epoch(num_steps, epochs=training.settings.epochs)
    groups = training.gauge.timed(_grouped(_timed(rest, training.clock), accumulate))
    # Of validation, where every kernel runs once a batch and is soon done, none is tried out.
    with trying_kernels(is_on=False):
        for step, group in enumerate(groups, start=begun.steps + 1):
            if training.tries_kernels:
                # What a last, smaller batch could win is less than what its try-out costs.
                full = training.train.sampling.largest_part
                let_try_kernels(is_on=all(len(batch.indices) == full for batch in group))
            training.schedule.set_rates(training.optimizer)
            training.gauge.begin_step(step, training.optimizer.param_groups[0]["lr"])
            make_step(training, group, totals)
            training.gauge.end_step()
            training.schedule.after_step()
            # On a GPU looking at the loss waits for all work queued, so it is looked at rarely.
            if totals.is_due() or step == num_steps:
                check_finite(totals, training, epoch)
            if on_step is not None:
                on_step(Progress(epoch, step, num_steps, totals, time.perf_counter() - begin))
            training.clock.lap("rest")
    return totals


def make_step(training: Training, batches: Sequence[Batch], totals: Totals) -> None:
    """Make one optimizer step over some batches whose gradients are added."""
    optimizer = training.optimizer
    if isinstance(optimizer, torch.optim.LBFGS):
        # LBFGS evaluates the loss several times a step; only the first is of the epoch's weights.
        counts = iter([totals])
        # All ranks search along the same line.
        optimizer.step(lambda: summed_on_device(_gradients(training, batches, next(counts, None))))
    else:
        _gradients(training, batches, totals)
        training.scaler.step()
    training.clock.lap("optimizer")
    if training.average is not None:
        training.average.update()


def _gradients(training: Training, batches: Sequence[Batch], totals: Totals | None) -> Tensor:
    """Put the gradients of some batches into the parameters; return their loss, a scalar.

    totals: what the batches are added to, or None.
    """
    clock, gauge = training.clock, training.gauge if totals is not None else NO_GAUGE
    device = batches[0].images.device
    # Of the whole group, before the first backward: its labels say it.
    labels = [_labels_of(training.loss, batch) for batch in batches]
    counts = [_count_of(training.loss, *pair) for pair in zip(batches, labels, strict=True)]
    over = sum_over_ranks(training.loss, batches, counts)
    # Dropout depends on the seed, the step and the rank: a resumed run draws the same.
    purpose = f"dropout {here().number}" if here().number else "dropout"
    seed_device(device, stream_key(training.settings.seed, purpose, training.schedule.num_steps))
    # What optimizer.zero_grad does, without its bookkeeping, and for excluded parameters too.
    for parameter in training.parameters:
        parameter.grad = None
    parts = []
    clock.lap("rest")
    for number, batch in enumerate(batches):
        with training.adding_up(is_last=number == len(batches) - 1):
            # The model alone: a loss computes in float32, and backward follows the types of
            # forward.
            with autocast(device, training.dtype):
                outputs = training.stepped(batch.images)
            part, answers = _loss_of(training, outputs, batch, labels[number], over=over)
            clock.lap("forward")
            # Batch by batch, which frees each graph: the memory is that of one batch. The gradients
            # add up to that of one large batch.
            training.scaler.scaled(as_rank(part, batch)).backward()
            clock.lap("backward")
        part, count = own_share(training.loss, part.detach(), counts[number])
        # What stands in for an image counts for nothing.
        parts.append(torch.zeros_like(part) if batch.is_stand_in else part)
        if totals is not None and not batch.is_stand_in:
            size = len(batch.labels)
            totals.add(part, over=over, count=count, num_images=size, **answers)
            gauge.see_batch(batch, outputs, labels[number], part)
    training.scaler.unscale()
    gauge.see_gradients()
    _clip(training, gauge)
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def _clip(training: Training, gauge: Gauge) -> None:
    """Clip the gradients of a step, in place."""
    trained, settings = training.optimizer_setup.trained, training.settings
    if settings.clip_value is not None:
        _clip_values(trained, settings.clip_value)
    # Of the sum over all batches; without error_if_nonfinite, which waits for the device.
    if settings.clip_grad is not None:
        gauge.see_norm(nn.utils.clip_grad_norm_(trained, settings.clip_grad))


def _clip_values(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Bring every value of the gradients into -limit..limit, in place."""
    for parameter in parameters:
        # PyTorch's function takes none of the sparse ones.
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            parameter.grad.values().clamp_(-limit, limit)
    dense = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
    nn.utils.clip_grad_value_(dense, limit)


def _labels_of(loss: Loss, batch: Batch) -> Tensor:
    """Return the labels that the loss of a batch sees."""
    # Every crop of an image is an example with the image's label.
    crops = batch.num_crops
    labels = batch.labels if crops == 1 else batch.labels.repeat_interleave(crops, dim=0)
    return compared(loss, labels, batch)


def _count_of(loss: Loss, batch: Batch, labels: Tensor) -> Count:
    """Return what a batch adds to the denominator of the loss."""
    mixed = batch.mixed
    if mixed is None:
        return loss.count(labels)
    return loss.mixed_count(labels, mixed.partner_labels, mixed.share)


def _loss_of(
    training: Training, outputs: Tensor, batch: Batch, labels: Tensor, *, over: Count
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a batch's part of the loss, and `answers` with their `labels` where these can be
    compared.
    """
    loss, mixed = training.loss, batch.mixed
    if mixed is not None:
        return loss.mixed(outputs, labels, mixed.partner_labels, mixed.share, over=over), {}
    part = loss(compared(loss, outputs, batch), labels, over=over)
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
