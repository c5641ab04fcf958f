"""Decoded images, kept in memory, in a mapped file or on a GPU, and the batches cut out of them.

A batch of small images takes so little work that what matters is how many calls and copies it
takes. The batches are those that any other way would give.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Draws, Size
from ptkit.core.device import sent

Indices = npt.NDArray[np.int64]
Bad = tuple[tuple[int, str], ...]

_STACKED_AT_ONCE = 64
# How many batches' indices and draws are copied to a GPU at once.
_BATCHES_AT_ONCE = 8
# How many bytes of pixels are augmented at once on a CPU, where they should stay in a core's cache.
_BYTES_AT_ONCE = 1 << 19
_BYTES_MOVED_AT_ONCE = 64 << 20


class Selection(NamedTuple):
    """The images of a batch, or of a part of it: indices (n,) into the list, and the draws of each
    image, (n, num_draws).
    """

    indices: Indices
    draws: Draws

    def part(self, start: int, end: int) -> "Selection":
        return Selection(self.indices[start:end], self.draws[start:end])


@dataclass(frozen=True, eq=False)
class Layout:
    """Where images of different sizes lie: image k is sizes[k] pixels from starts[k] of
    blocks[block_of[k]].

    blocks: uint8, flat. block_of: int32 (N,). starts: int64 (N,). sizes: int32 (N, 2), height and
    width.
    """

    blocks: tuple[Pixels, ...]
    block_of: npt.NDArray[np.int32]
    starts: Indices
    sizes: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Kept:
    """The readable images of a list, decoded once: uint8 RGB after the prefix of a pipeline, in the
    list's order.

    pixels: (N, H, W, 3) where all have one size; else empty, and `layout` says where each image is.
    bad: (index in the list, reason) of every image that could not be read; image k here is the k-th
    of the others.
    origin: the file that the pixels are mapped from; None in memory.
    """

    pixels: Pixels
    bad: Bad
    layout: Layout | None = None
    origin: Path | None = None

    def __len__(self) -> int:
        return len(self.pixels) if self.layout is None else len(self.layout.starts)

    @property
    def size(self) -> Size | None:
        """(height, width) of every image, or None where they differ."""
        return None if self.layout is not None else (self.pixels.shape[1], self.pixels.shape[2])

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        if self.layout is None:
            return self.pixels.nbytes
        return 3 * int(self.layout.sizes.prod(axis=1, dtype=np.int64).sum())

    def image(self, index: int) -> Pixels:
        """Return one image (H, W, 3), not copied."""
        if self.layout is None:
            return cast(Pixels, self.pixels[index])
        height, width = self.layout.sizes[index].tolist()
        block, start = self.layout.blocks[self.layout.block_of[index]], self.layout.starts[index]
        flat: Pixels = block[start : start + height * width * 3]
        return flat.reshape(height, width, 3)

    def stacks(self, indices: Indices) -> Iterator[Pixels]:
        """Yield some images, in that order, as stacks (n, H, W, 3)."""
        if self.layout is not None:
            yield from (self.image(index)[None] for index in indices.tolist())
            return
        for start in range(0, len(indices), _STACKED_AT_ONCE):
            yield self.pixels[indices[start : start + _STACKED_AT_ONCE]]

    def subset(self, indices: Indices | list[int]) -> "Kept":
        """Return some of the images in that order; those of one size are copied."""
        if self.layout is None:
            return Kept(self.pixels[indices], (), origin=self.origin)
        layout = self.layout
        chosen = Layout(
            layout.blocks, layout.block_of[indices], layout.starts[indices], layout.sizes[indices]
        )
        return Kept(self.pixels, (), chosen, self.origin)


def starts_of(sizes: npt.NDArray[np.int32]) -> Indices:
    """Return where each image begins when images of some sizes (n, 2) lie one after the other."""
    lengths: Indices = 3 * sizes.prod(axis=1, dtype=np.int64)
    return lengths.cumsum() - lengths


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images of one size with their labels, in memory or a mapped file, and the pipeline that makes
    batches of them.

    pixels: uint8 (N, H, W, 3). labels: (N, ...).
    """

    pixels: Pixels
    labels: npt.NDArray[Any]
    pipeline: Pipeline

    def batches(self, selections: Iterable[Selection]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 (n * num_crops, 3, H, W), channels last, and labels (n, ...), in the
        order of the selections.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        remaining = iter(selections)
        for first in remaining:
            # Small batches are made several at a time.
            num_bytes = max(len(first[0]) * self.pixels[0].nbytes, 1)
            several = [first, *islice(remaining, max(_BYTES_AT_ONCE // num_bytes, 1) - 1)]
            indices, draws = (
                several[0] if len(several) == 1 else map(np.concatenate, zip(*several, strict=True))
            )
            pixels = torch.from_numpy(self.pipeline.apply_to_batch(self.pixels[indices], draws))
            labels = torch.from_numpy(self.labels[indices])
            counts = [len(some) for some, _ in several]
            # A matrix product may round differently for another batch size, so these steps get
            # one batch at a time.
            if not self.pipeline.plan.float_steps:
                pixels = self.pipeline.finish_on_device(pixels, draws)
            # The crops may be among the steps still to come.
            crops = len(pixels) // len(indices)
            parts = zip(
                several, _split(pixels, counts, each=crops), _split(labels, counts), strict=True
            )
            for (_, own), images, some in parts:
                if self.pipeline.plan.float_steps:
                    images = self.pipeline.finish_on_device(images, own)
                yield images, some


def _split(tensor: Tensor, counts: Sequence[int], *, each: int = 1) -> Sequence[Tensor]:
    """Return parts of counts * each rows; a single part is not cut, which saves a hundredth of the
    work.
    """
    return [tensor] if len(counts) == 1 else torch.split(tensor, [count * each for count in counts])


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Images of one size with their labels, on a device, and the pipeline that makes batches
    there.

    Only indices and draws are copied, for several batches at a time, and nothing waits.

    pixels: uint8 (N, H, W, 3). labels: (N, ...).
    """

    pixels: Tensor
    labels: Tensor
    pipeline: Pipeline

    def batches(self, selections: Iterable[Selection]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `InMemory.batches` does, on the device.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        remaining = iter(selections)
        while several := list(islice(remaining, _BATCHES_AT_ONCE)):
            # Whole numbers stay exact in float64, so one copy takes both.
            table = np.concatenate([np.column_stack(pair) for pair in several])
            counts = [len(indices) for indices, _ in several]
            parts = torch.split(sent(table, self.pixels.device), counts)
            for (_, draws), part in zip(several, parts, strict=True):
                index = part[:, 0].long()
                images = self.pipeline.finish_on_device(
                    self.pixels[index], draws, device_draws=part[:, 1:]
                )
                yield images, self.labels[index]


def free_gpu_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device that is free, for this process or for any."""
    # What torch's allocator keeps for itself counts as taken for the driver.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def can_move(pixels: Pixels, pipeline: Pipeline, *, free: int) -> bool:
    """Say whether images belong on the device: three quarters of it stay free, and all steps run
    there.

    pixels: (N, H, W, 3). pipeline: as `Pipeline.for_device` gives it. free: bytes.
    """
    runs_here = pipeline.plan.image_steps or pipeline.plan.batch_steps
    return pixels.ndim == 4 and not runs_here and pixels.nbytes <= free // 4


def move(
    pixels: Pixels, labels: npt.NDArray[Any], pipeline: Pipeline, *, device: torch.device
) -> OnDevice:
    """Copy images (N, H, W, 3) to a device, a part at a time: they may be mapped from a file."""
    there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    step = max(_BYTES_MOVED_AT_ONCE // max(pixels[0].nbytes, 1), 1)
    for start in range(0, len(pixels), step):
        # Copied first: a mapped file cannot be written to, and torch warns of such arrays.
        part = np.array(pixels[start : start + step])
        there[start : start + step] = torch.from_numpy(part).to(device)
    return OnDevice(there, torch.from_numpy(np.array(labels)).to(device), pipeline)


T = TypeVar("T")
Values = tuple[Tensor | npt.NDArray[Any], ...]


def copied(
    items: Iterable[tuple[T, Values]], device: torch.device
) -> Iterator[tuple[T, tuple[Tensor, ...]]]:
    """Yield each item with its tensors and arrays on a device.

    On CUDA the next item is copied in a separate stream while the model works on the one before.
    """
    if device.type != "cuda":
        for name, values in items:
            yield name, tuple(sent(value, device) for value in values)
        return
    stream = torch.cuda.Stream(device)
    under_way: deque[tuple[T, tuple[Tensor, ...], torch.cuda.Event]] = deque()
    for name, values in items:
        with torch.cuda.stream(stream):
            tensors = tuple(sent(value, device) for value in values)
            under_way.append((name, tensors, stream.record_event()))
        # One ahead is enough to hide the copy; more would only take memory.
        if len(under_way) > 1:
            yield _arrived(*under_way.popleft())
    while under_way:
        yield _arrived(*under_way.popleft())


def _arrived(
    name: T, tensors: tuple[Tensor, ...], done: torch.cuda.Event
) -> tuple[T, tuple[Tensor, ...]]:
    """Return the tensors; the device's next work waits for them, the program does not."""
    here = torch.cuda.current_stream(tensors[0].device)
    here.wait_event(done)
    for tensor in tensors:
        # Else the copying stream may get the memory again while this one still reads it.
        tensor.record_stream(here)
    return name, tensors
