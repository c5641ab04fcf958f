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

# Bytes of pixels to augment ahead of the model. Running the model pushes the code and arrays of
# these steps out of the core's cache: the first call after it takes three times as long as the
# next.
_BYTES_AHEAD = 1 << 22
# Most bytes of pixels in one call, so that they stay in a core's cache.
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
            num_bytes = len(first[0]) * self.pixels[0].nbytes
            # Steps for floats need a whole batch, so a large one is not divided.
            if num_bytes > _BYTES_AT_ONCE and not self.pipeline.plan.float_steps:
                yield self._in_parts(first), torch.from_numpy(self.labels[first[0]])
                continue
            # Each crop of an image takes as much memory as the image.
            ahead = _num_fitting(_BYTES_AHEAD, num_bytes * self.pipeline.num_crops)
            several = [first, *islice(remaining, ahead - 1)]
            indices = np.concatenate([some for some, _ in several])
            labels = _split(torch.from_numpy(self.labels[indices]), several)
            yield from zip(self._ahead(several), labels, strict=True)

    def _ahead(self, several: Sequence[Selection]) -> Iterator[Tensor]:
        """Yield the images of each batch, float32 (n * num_crops, C, H, W); the pixels of all are
        augmented before the first is yielded.
        """
        # Several batches of tiny images fill one call.
        together = _num_fitting(_BYTES_AT_ONCE, len(several[0][0]) * self.pixels[0].nbytes)
        groups = [several[k : k + together] for k in range(0, len(several), together)]
        augmented = [self._unfinished(*_joined(group)) for group in groups]
        for pixels, group in zip(augmented, groups, strict=True):
            yield from self._finished(pixels, group)

    def _finished(self, pixels: Tensor, group: Sequence[Selection]) -> Iterator[Tensor]:
        """Yield the images of each batch of a group, float32 (n * num_crops, C, H, W).

        pixels: the group's, augmented, uint8 (m, H, W, C).
        """
        # The crops may be among the steps still to come.
        crops = len(pixels) // sum(len(indices) for indices, _ in group)
        if not self.pipeline.plan.float_steps:
            out = self.memory.floats(pixels.shape)
            yield from _split(self.pipeline.normalise_batch(pixels, out=out), group, each=crops)
            return
        # A matrix product may round differently for another batch size, so these steps get one
        # batch at a time.
        for part, (_, draws) in zip(_split(pixels, group, each=crops), group, strict=True):
            yield self.pipeline.finish_on_device(part, draws)

    def _unfinished(self, indices: Indices, draws: Draws) -> Tensor:
        """Return uint8 (n * num_crops, H, W, C)."""
        plan, first = self.pipeline.plan, int(indices[0])
        # Images in the order of the list, to which nothing is done but to normalise them: a view.
        is_run = indices[-1] - first == len(indices) - 1 and bool((np.diff(indices) == 1).all())
        if is_run and not (plan.batch_steps or plan.device_steps) and self.pixels.flags.writeable:
            return torch.from_numpy(self.pixels[first : first + len(indices)])
        # Indexing copies: the steps may write into the batch, and never reach what is kept.
        return torch.from_numpy(self.pipeline.apply_to_batch(self.pixels[indices], draws))

    def _in_parts(self, selection: Selection) -> Tensor:
        """Return a batch, float32 (n * num_crops, C, H, W), in memory that was a batch's before."""
        indices, draws = selection
        step = _num_fitting(_BYTES_AT_ONCE, self.pixels[0].nbytes)
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


def _joined(several: Sequence[Selection]) -> Selection:
    """Return several selections as one; a single one is returned as it is."""
    if len(several) == 1:
        return several[0]
    return Selection(*map(np.concatenate, zip(*several, strict=True)))


def _split(tensor: Tensor, several: Sequence[Selection], *, each: int = 1) -> Sequence[Tensor]:
    """Return the part of each batch, `each` rows an image; a single part is not cut."""
    if len(several) == 1:
        return [tensor]
    return torch.split(tensor, [len(indices) * each for indices, _ in several])


def _num_fitting(num_bytes: int, each: int) -> int:
    """Return how many items of `each` bytes fit into `num_bytes`, at least one."""
    return max(num_bytes // max(each, 1), 1)
