"""Decoded images kept on a GPU, and the batches cut out of them there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Selection
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import sent

# How many batches' indices and draws are copied to a GPU at once.
_BATCHES_AT_ONCE = 8
_BYTES_MOVED_AT_ONCE = 64 << 20


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Images of one size with their labels, on a device, and the pipeline that makes batches
    there.

    Only indices and draws are copied, for several batches at a time, and nothing waits.

    pixels: uint8 (N, H, W, C). labels: (N, ...).
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
                # Numbers, not a mask: the CPU would have to wait for how many a mask takes.
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

    pixels: (N, H, W, C). pipeline: as `Pipeline.for_device` gives it. free: bytes.
    """
    # Images of different sizes lie elsewhere: their `pixels` are an empty array.
    runs_here = pipeline.plan.image_steps or pipeline.plan.batch_steps
    return pixels.ndim == 4 and not runs_here and pixels.nbytes <= free // 4


def move(
    pixels: Pixels, labels: npt.NDArray[Any], pipeline: Pipeline, *, device: torch.device
) -> OnDevice:
    """Copy images (N, H, W, C) to a device, a part at a time: they may be mapped from a file."""
    there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    step = max(_BYTES_MOVED_AT_ONCE // max(pixels[0].nbytes, 1), 1)
    for start in range(0, len(pixels), step):
        # Copied first: a mapped file cannot be written to, and torch warns of such arrays.
        part = np.array(pixels[start : start + step])
        there[start : start + step] = torch.from_numpy(part).to(device)
    return OnDevice(there, torch.from_numpy(np.array(labels)).to(device), pipeline)
