"""Batch sizes by trial: the largest that fits and still gains speed, and the one that would have
fitted where memory ran out.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.data.loading.batches import Batch
from ptkit.core.device import (
    channels_last,
    free_gpu_bytes,
    is_out_of_memory,
    passing_look,
    release_memory,
    wait_for,
)
from ptkit.core.distributed import from_main
from ptkit.core.errors import UsageError
from ptkit.core.machine import free_bytes, num_processes_here
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.ranks import ALONE, being, here
from ptkit.core.training.loop import Training, make_step
from ptkit.core.training.tasks.loss import Totals

A = TypeVar("A")
T = TypeVar("T")

# Twice as large a batch must be so much faster, an image, to be worth fewer steps.
_GAIN = 1.05
_SMALLEST = 16
# With fewer steps an epoch a model learns little from it, however fast it passes.
_STEPS_AN_EPOCH = 16
# Of a size: at least so many steps, and up to so many within these seconds.
_LEAST_STEPS, _MOST_STEPS, _SECONDS = 2, 20, 0.3
# Gradients of activations and the workspace of kernels, beside the activations that are kept.
_BESIDE_ACTIVATIONS = 1.5


@dataclass(frozen=True)
class Found:
    """The images of a step in one process that were chosen, images/s of each number that was tried,
    and why no larger one. num_ranks: how many processes have as many.
    """

    part_size: int
    images_per_s: dict[int, float]
    why: str
    num_ranks: int = 1

    @property
    def batch_size(self) -> int:
        """The images of a step in all processes."""
        return self.part_size * self.num_ranks

    @property
    def note(self) -> str:
        rates = ", ".join(f"{size}: {rate:,.0f}" for size, rate in self.images_per_s.items())
        each = "" if self.num_ranks == 1 else f", {self.part_size} in each process"
        return (
            f"batch size: {self.batch_size}{each}, of those measured ({rates} images/s); {self.why}"
        )


def choose_batch_size(training: Training, batch: Batch) -> Found:
    """Measure steps with the model, optimizer, precision and images of a run; the model stays as it
    was. Of several ranks the first measures one's part of a step, and all take as many.

    training: for this alone, as its optimizer is stepped. batch: any of its batches.

    Raises:
        UsageError: not even the smallest batch fits.
    """
    num_ranks, count = here().num_ranks, len(training.train.images)
    if count < num_ranks:
        raise UsageError(f"{count} training images are too few for {num_ranks} processes")
    first = min(_SMALLEST, count // num_ranks)
    steps_an_epoch = _STEPS_AN_EPOCH * training.settings.accumulate
    largest = max(count // (steps_an_epoch * num_ranks), first)
    training.to_training_mode()

    def measured() -> Found:
        # Alone: a step must not wait for ranks that make none.
        with being(ALONE), _keeping_state(training.model), passing_look():
            return fastest(_Steps(training, batch).images_per_s, first=first, largest=largest)

    return replace(from_main(measured), num_ranks=num_ranks)


def fastest(images_per_s: Callable[[int], float], *, first: int, largest: int) -> Found:
    """Return the batch size beyond which nothing is gained; each tried is twice the one before.

    images_per_s: measures a size; may run out of memory.

    Raises:
        UsageError: the first does not fit.
    """
    rates: dict[int, float] = {}
    chosen, size = first, first
    why = f"an epoch should have {_STEPS_AN_EPOCH} steps"
    while size <= largest:
        rate = unless_out_of_memory(images_per_s, size)
        if rate is None:
            why = f"{size} does not fit into memory"
            break
        rates[size] = rate
        if rate < _GAIN * rates[chosen] and size != first:
            why = f"{size} gains less than {_GAIN - 1:.0%}"
            break
        chosen, size = size, 2 * size
    if not rates:
        raise UsageError(f"out of memory: {_nothing_fits(first)}")
    return Found(chosen, rates, why)


@contextmanager
def explained_memory(training: Training, *, left: Callable[[], str] = str) -> Iterator[None]:
    """Turn "out of memory" in the block into a line with the batch size that would have fitted.

    left: says what is left of the run, if anything.

    Raises:
        UsageError: the memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory(error)
        # Steps of one of several ranks would be added to what the others do.
        remedy = memory_remedy(training) if here().is_alone else "choose a smaller --batch-size"
        told = "; ".join(filter(None, (remedy, left())))
        raise UsageError(f"out of memory: {told}") from None


def memory_remedy(training: Training) -> str:
    """Return what to do about a run whose step did not fit into memory: the largest half, quarter
    and so on of its batch size that does.

    The steps that are tried change the model.
    """
    asked, batch_size = training.settings, training.train.sampling.batch_size
    sizes = [batch_size >> times for times in range(batch_size.bit_length() - 1)]
    training.to_training_mode()
    batch = unless_out_of_memory(next, training.train.epoch(0))
    fitting = None if batch is None else first_that_fits(sizes, _Steps(training, batch).run)
    if fitting is None:
        return _nothing_fits(batch_size)
    if fitting == batch_size:
        return (
            f"a step of {batch_size} images fits by itself, but not what came beside it: choose a"
            " smaller --batch-size, or free memory that others use"
        )
    accumulate = asked.accumulate * -(-batch_size // fitting)
    return (
        f"batches of {batch_size} images do not fit, of {fitting} they do: pass --batch-size"
        f" {fitting} --set train.accumulate={accumulate}"
    )


def first_that_fits(sizes: Iterable[int], step: Callable[[int], object]) -> int | None:
    """Return the first size whose step does not run out of memory, or None."""
    fitting = (size for size in sizes if unless_out_of_memory(_done(step), size))
    return next(fitting, None)


def unless_out_of_memory(call: Callable[[A], T], argument: A) -> T | None:
    """Return what a call returns; None, with its memory free again, where it takes too much."""
    try:
        return call(argument)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory(error)
        return None


def _nothing_fits(size: int) -> str:
    return (
        f"neither a batch of {size} images nor a smaller one fits: choose a smaller --model or"
        " --size"
    )


def _done(step: Callable[[int], object]) -> Callable[[int], bool]:
    def is_done(size: int) -> bool:
        step(size)
        return True

    return is_done


class _Steps:
    """Steps of a run over one of its batches, repeated or cut to any size."""

    def __init__(self, training: Training, batch: Batch) -> None:
        self._training, self._batch = training, batch
        self._device = batch.images.device
        # Of the activations that one image leaves for backward; known after the first step.
        self._bytes_an_image = 0.0

    def run(self, size: int) -> None:
        """Make one step of so many images, whatever the last one has left undone."""
        training = replace(self._training, scaler=self._training.scaler.renewed())
        _Steps(training, self._batch)._step(_of_size(self._batch, size))

    def images_per_s(self, size: int) -> float:
        """Return the speed of the fastest step.

        Raises:
            OutOfMemoryError: it does not fit, or would hardly.
        """
        # A CPU's memory does not end in an error: the system swaps, or kills.
        needed = _BESIDE_ACTIVATIONS * size * self._bytes_an_image
        if needed > _free_memory(self._device):
            raise torch.OutOfMemoryError(f"{size} images need about {needed:.0f} bytes")
        batch = _of_size(self._batch, size)
        seconds: list[float] = []
        if not self._bytes_an_image:
            self._bytes_an_image = (
                saved_bytes(self._training.model, lambda: self._step(batch)) / size
            )
        self._step(batch)
        begin = time.perf_counter()
        while len(seconds) < _LEAST_STEPS or (
            len(seconds) < _MOST_STEPS and time.perf_counter() - begin < _SECONDS
        ):
            last = time.perf_counter()
            self._step(batch)
            seconds.append(time.perf_counter() - last)
        return size / min(seconds)

    def _step(self, batch: Batch) -> None:
        make_step(self._training, (batch,), Totals(self._training.loss))
        wait_for(self._device)


def saved_bytes(model: nn.Module, step: Callable[[], object]) -> int:
    """Return the bytes that forward keeps for backward in a step, the model's own left out."""
    parameters = list(model.parameters())
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    # Autocast keeps copies of weights, perhaps transposed, that do not grow with the batch.
    shapes = {tuple(p.shape) for p in parameters} | {tuple(p.shape)[::-1] for p in parameters}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        is_half = tensor.dtype in (torch.float16, torch.bfloat16)
        is_cast = is_half and tuple(tensor.shape) in shapes
        if tensor.layout is torch.strided and not is_cast:
            memory = tensor.untyped_storage()
            found[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(size for place, size in found.items() if place not in own)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return free_gpu_bytes(device)
    return free_bytes() // num_processes_here()


def _of_size(batch: Batch, size: int) -> Batch:
    """Return a batch of so many images: those of another, again and again."""
    count, device = len(batch.labels), batch.images.device
    at = torch.arange(size, device=device) % count
    images = batch.images.unflatten(0, (count, batch.num_crops))[at].flatten(0, 1)
    mixed = batch.mixed and replace(
        batch.mixed,
        partner_labels=batch.mixed.partner_labels[at],
        share=batch.mixed.share[at],
    )
    return replace(
        batch,
        images=channels_last(images),
        labels=batch.labels[at],
        indices=np.resize(batch.indices, size),
        mixed=mixed,
    )


@contextmanager
def _keeping_state(model: nn.Module) -> Iterator[None]:
    """Give parameters and buffers back as they were, without gradients."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with keeping_buffers(model):
        yield
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
            parameter.grad = None
