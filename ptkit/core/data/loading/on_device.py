"""Batches of decoded images of one size, several at once: on the training device itself, or in
memory for a CPU.

A batch of small images takes so little work that what matters is how many calls and copies it
takes. The batches are those that any other way would give.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Draws
from ptkit.core.device import sent

Indices = npt.NDArray[np.int64]

# Indices into the images and the draws of each, (n,) and (n, num_draws).
Wanted = tuple[Indices, Draws]

# How many batches are copied to a GPU's indices and draws at once; and how many bytes of pixels are
# augmented at once on a CPU, where they should stay in a core's cache.
_BATCHES_AT_ONCE = 8
_BYTES_AT_ONCE = 1 << 19
_BYTES_MOVED_AT_ONCE = 64 << 20


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images of one size with their labels, in memory or in a mapped file, and the plan that makes
    batches of them.

    pixels: uint8 (N, H, W, 3). labels: (N, ...).
    """

    pixels: Pixels
    labels: npt.NDArray[Any]
    pipeline: Pipeline

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 (n * num_crops, 3, H, W), channels last, and labels (n, ...), in the
        order wanted.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        for several in self._together(iter(wanted)):
            indices, draws = (
                several[0] if len(several) == 1 else map(np.concatenate, zip(*several, strict=True))
            )
            pixels = torch.from_numpy(self.pipeline.apply_to_batch(self.pixels[indices], draws))
            labels = torch.from_numpy(self.labels[indices])
            counts = [len(some) for some, _ in several]
            # A matrix times a batch may round as the size of the batch says, so the tail gets
            # batches as wanted.
            if not self.pipeline.plan.float_steps:
                pixels = self.pipeline.finish_on_device(pixels, draws)
            # The tail may have the crops still to come.
            crops = len(pixels) // len(indices)
            parts = zip(
                several, _split(pixels, counts, each=crops), _split(labels, counts), strict=True
            )
            for (_, own), images, some in parts:
                if self.pipeline.plan.float_steps:
                    images = self.pipeline.finish_on_device(images, own)
                yield images, some

    def _together(self, wanted: Iterator[Wanted]) -> Iterator[list[Wanted]]:
        """Yield batches that are made together: more than one only if they are small."""
        for first in wanted:
            num_bytes = max(len(first[0]) * self.pixels[0].nbytes, 1)
            yield [first, *islice(wanted, max(_BYTES_AT_ONCE // num_bytes, 1) - 1)]


def _split(tensor: Tensor, counts: Sequence[int], *, each: int = 1) -> Sequence[Tensor]:
    """Return parts of counts * each rows; a whole tensor is not cut, which would take a hundredth
    of its work.
    """
    return [tensor] if len(counts) == 1 else tensor.split([count * each for count in counts])


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Images of one size with their labels, on a device, and the plan that makes batches of them
    there.

    Only indices and draws are copied, for several batches at a time, and nothing waits.

    pixels: uint8 (N, H, W, 3). labels: (N, ...).
    """

    pixels: Tensor
    labels: Tensor
    pipeline: Pipeline

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `InMemory.batches` does, on the device.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        wanted = iter(wanted)
        while several := list(islice(wanted, _BATCHES_AT_ONCE)):
            # Whole numbers stay exact in float64, so one copy takes both.
            table = np.concatenate([np.column_stack(pair) for pair in several])
            parts = sent(table, self.pixels.device).split([len(indices) for indices, _ in several])
            for (_, draws), part in zip(several, parts, strict=True):
                index = part[:, 0].long()
                images = self.pipeline.finish_on_device(
                    self.pixels[index], draws, device_draws=part[:, 1:]
                )
                yield images, self.labels[index]


def free_gpu_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device that is free, for this process or for any."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def can_move(pixels: Pixels, pipeline: Pipeline, *, free: int) -> bool:
    """Say whether images are better off on the device: they leave it three quarters free, and all
    steps run there.

    pixels: (N, H, W, 3). pipeline: as `Pipeline.for_device` gives it. free: bytes.
    """
    runs_there = not (pipeline.plan.image_steps or pipeline.plan.batch_steps)
    return pixels.ndim == 4 and runs_there and pixels.nbytes <= free // 4


def move(
    pixels: Pixels, labels: npt.NDArray[Any], pipeline: Pipeline, *, device: torch.device
) -> OnDevice:
    """Copy images (N, H, W, 3) to a device, a part at a time: they may be mapped from a file."""
    there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for part in _parts(pixels):
        there[part] = torch.from_numpy(np.array(pixels[part])).to(device)
    return OnDevice(there, torch.from_numpy(np.array(labels)).to(device), pipeline)


def _parts(pixels: Pixels) -> Sequence[slice]:
    step = max(_BYTES_MOVED_AT_ONCE // max(pixels[0].nbytes, 1), 1)
    return [slice(start, start + step) for start in range(0, len(pixels), step)]


T = TypeVar("T")
Values = tuple[Tensor | npt.NDArray[Any], ...]


def copied(
    items: Iterable[tuple[T, Values]], device: torch.device
) -> Iterator[tuple[T, tuple[Tensor, ...]]]:
    """Yield each item with its tensors and arrays on a device.

    On CUDA the next item is on its way, in a stream of its own, before one is yielded: it arrives
    while the model works on the one before.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    under_way: deque[tuple[T, _Copy]] = deque()
    for name, values in items:
        under_way.append((name, _started(values, device, stream)))
        if stream is None or len(under_way) > 1:
            name, copy = under_way.popleft()
            yield name, copy.arrived()
    while under_way:
        name, copy = under_way.popleft()
        yield name, copy.arrived()


@dataclass(frozen=True)
class _Copy:
    """Tensors on the device, and what says when they are there; None: they are."""

    tensors: tuple[Tensor, ...]
    done: torch.cuda.Event | None

    def arrived(self) -> tuple[Tensor, ...]:
        """Return the tensors; the device's work from here on waits for them, the program does not."""
        if self.done is not None:
            here = torch.cuda.current_stream(self.tensors[0].device)
            here.wait_event(self.done)
            for tensor in self.tensors:
                # Else the copying stream may get the memory again while this one still reads it.
                tensor.record_stream(here)
        return self.tensors


def _started(values: Values, device: torch.device, stream: torch.cuda.Stream | None) -> _Copy:
    if stream is None:
        return _Copy(tuple(sent(value, device) for value in values), None)
    with torch.cuda.stream(stream):
        tensors = tuple(sent(value, device) for value in values)
        return _Copy(tensors, stream.record_event())
