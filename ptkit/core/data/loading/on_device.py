"""Decoded images kept on a GPU, and the batches cut out of them there."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Selection
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Draws
from ptkit.core.device import sent

# How many batches' indices and draws are copied to a GPU at once.
_BATCHES_AT_ONCE = 8
# How many bytes of finished images are made at once where that gives the same pixels: an epoch of
# CIFAR-10, whose batches would take longer to launch than to make. Each batch is a view, and keeps
# all of it. Of a small device no more than its share.
_BYTES_MADE_AT_ONCE = 640 << 20
_PARTS_OF_FREE = 8
_BYTES_MOVED_AT_ONCE = 64 << 20


@dataclass(frozen=True, eq=False)
class _Moved:
    """Images, and their copy on a device, uint8 (N, H, W, C)."""

    source: Pixels | StoredPixels
    pixels: Tensor


# By the id of its images, which a copy keeps, and device: training images are also evaluated, and
# lie there once.
_moved: WeakValueDictionary[tuple[int, torch.device], _Moved] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Images of one size with their labels, on a device, and the pipeline that makes batches
    there.

    Only indices and draws are copied, for several batches at a time, and nothing waits.

    moved: the images. labels: (N, ...). at_once: bytes of finished images that are made together.
    """

    moved: _Moved
    labels: Tensor
    pipeline: Pipeline
    at_once: int

    @property
    def pixels(self) -> Tensor:
        return self.moved.pixels

    def batches(self, selections: Iterable[Selection]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `InMemory.batches` does, on the device.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        remaining = iter(selections)
        for first in remaining:
            num_at_once, joined = self._at_once(len(first[0]))
            several = [first, *islice(remaining, num_at_once - 1)]
            # Whole numbers stay exact in float64, so one copy takes both.
            table = np.concatenate([np.column_stack(pair) for pair in several])
            there = sent(table, self.pixels.device)
            counts = [len(indices) for indices, _ in several]
            if joined:
                yield from zip(*self._made(there, table[:, 1:], counts), strict=True)
                continue
            for (_, draws), part in zip(several, torch.split(there, counts), strict=True):
                (images,), (labels,) = self._made(part, draws, [len(part)])
                yield images, labels

    def _at_once(self, batch_size: int) -> tuple[int, bool]:
        """Return how many batches to copy the draws of, and whether to make them together."""
        # What computes may round differently for another number of images.
        if self.pipeline.plan.float_steps or not self.pipeline.only_moves_pixels:
            return _BATCHES_AT_ONCE, False
        sides = self.pipeline.size or self.pixels.shape[1:3]
        pixels = math.prod(sides) * (self.pipeline.channels or self.pixels.shape[3])
        floats = 4 * pixels * self.pipeline.num_crops * batch_size
        return max(self.at_once // max(floats, 1), 1), True

    def _made(
        self, table: Tensor, draws: Draws, counts: Sequence[int]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return batches of `counts` images and their labels.

        table: on the device, a row for each image, its index and its draws.
        """
        # Numbers, not a mask: the CPU would have to wait for how many a mask takes.
        index = table[:, 0].long()
        images = self.pipeline.finish_on_device(
            self.pixels[index], draws, device_draws=table[:, 1:]
        )
        # The crops of an image lie side by side.
        crops = len(images) // max(len(index), 1)
        return (
            torch.split(images, [count * crops for count in counts]),
            torch.split(self.labels[index], list(counts)),
        )


def can_move(pixels: Pixels | StoredPixels, pipeline: Pipeline, *, free: int) -> bool:
    """Say whether images belong on the device: three quarters of what is free stay so, and all
    steps run there.

    pixels: (N, H, W, C). pipeline: as `Pipeline.for_device` gives it. free: bytes.
    """
    # Images of different sizes lie elsewhere: their `pixels` are an empty array.
    needs_cpu = pipeline.plan.image_steps or pipeline.plan.batch_steps
    return pixels.ndim == 4 and not needs_cpu and pixels.nbytes <= free // 4


def move(
    pixels: Pixels | StoredPixels,
    labels: npt.NDArray[Any],
    pipeline: Pipeline,
    *,
    device: torch.device,
    free: int,
) -> OnDevice:
    """Copy images (N, H, W, C) to a device with so many free bytes, unless they are there.

    pixels: perhaps in a file.
    """
    moved = _moved.get((id(pixels), device))
    if moved is None:
        moved = _moved[id(pixels), device] = _Moved(pixels, _copied_to(device, pixels))
    at_once = min(_BYTES_MADE_AT_ONCE, free // _PARTS_OF_FREE)
    return OnDevice(moved, torch.from_numpy(np.array(labels)).to(device), pipeline, at_once)


def is_moved(pixels: Pixels | StoredPixels, device: torch.device) -> bool:
    """Say whether images are on a device, for the batches of somebody."""
    return (id(pixels), device) in _moved


def _copied_to(device: torch.device, pixels: Pixels | StoredPixels) -> Tensor:
    """Copy images to a device, a part at a time."""
    there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    step = max(_BYTES_MOVED_AT_ONCE // max(pixels[0].nbytes, 1), 1)
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step]
        there[start : start + step] = torch.from_numpy(part).to(device)
    return there
