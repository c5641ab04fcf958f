"""Batches cut out of kept images in the thread that asks for them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Indices, Selection
from ptkit.core.data.loading.batch_memory import BatchMemory
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Draws

# How many bytes of pixels are augmented at once on a CPU, where they should stay in a core's cache.
_BYTES_AT_ONCE = 1 << 19


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images of one size with their labels and the pipeline that makes batches of them.

    A batch of small images takes so little work that what matters is how many calls and copies it
    takes. The batches are those that any other way would give.

    pixels: uint8 (N, H, W, C). labels: (N, ...).
    """

    pixels: Pixels
    labels: npt.NDArray[Any]
    pipeline: Pipeline
    memory: BatchMemory = field(default_factory=BatchMemory)

    def batches(self, selections: Iterable[Selection]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 (n * num_crops, C, H, W), channels last, and labels (n, ...), in the
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
            # A matrix product may round differently for another batch size, so these steps get
            # one batch at a time.
            if self.pipeline.plan.float_steps:
                pixels = self._unfinished(indices, draws)
            else:
                pixels = self._in_parts(indices, draws)
            labels = torch.from_numpy(self.labels[indices])
            counts = [len(some) for some, _ in several]
            # The crops may be among the steps still to come.
            crops = len(pixels) // len(indices)
            parts = zip(
                several, _split(pixels, counts, each=crops), _split(labels, counts), strict=True
            )
            for (_, own), images, some in parts:
                if self.pipeline.plan.float_steps:
                    images = self.pipeline.finish_on_device(images, own)
                yield images, some

    def _unfinished(self, indices: Indices, draws: Draws) -> Tensor:
        """Return uint8 (n * num_crops, H, W, C)."""
        # Indexing copies: the steps may write into the batch, and never reach what is kept.
        return torch.from_numpy(self.pipeline.apply_to_batch(self.pixels[indices], draws))

    def _in_parts(self, indices: Indices, draws: Draws) -> Tensor:
        """Return float32 (n * num_crops, C, H, W), in memory that was a batch's before."""
        step = max(_BYTES_AT_ONCE // max(self.pixels[0].nbytes, 1), 1)
        whole = crops = None
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            made = self._unfinished(indices[part], draws[part])
            if whole is None or crops is None:
                crops = len(made) // len(indices[part])
                whole = self.memory.floats((len(indices) * crops, *made.shape[1:]))
            place = whole[start * crops : start * crops + len(made)]
            self.pipeline.normalise_batch(made, out=place)
        assert whole is not None
        return whole.permute(0, 3, 1, 2)


def _split(tensor: Tensor, counts: Sequence[int], *, each: int = 1) -> Sequence[Tensor]:
    """Return parts of counts * each rows; a single part is not cut, which saves a hundredth of the
    work.
    """
    return [tensor] if len(counts) == 1 else torch.split(tensor, [count * each for count in counts])
