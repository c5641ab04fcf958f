"""What of a step's loss is whose, where several processes have a part of each batch.

A loss of single images is a sum, to which each adds its part. One that compares images is computed
by all, of the outputs of all; its gradient comes back to each for its own images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptkit.core.data.loading.batches import Batch
from ptkit.core.distributed import summed_on_device
from ptkit.core.ranks import here
from ptkit.core.replica import rows_of_all
from ptkit.core.training.tasks.loss import Count, Loss


def sum_over_ranks(loss: Loss, batches: Sequence[Batch], counts: Sequence[Count]) -> Count:
    """Return what the loss of a step is divided by: the counts of its batches in all ranks."""
    if here().is_alone or loss.compares:
        return sum(counts)
    total = sum(c for b, c in zip(batches, counts, strict=True) if not b.is_stand_in)
    if not loss.weighs_images:
        return sum(batch.whole_size * batch.num_crops for batch in batches)
    return summed_on_device(
        torch.as_tensor(total, dtype=torch.float32, device=batches[0].labels.device)
    )


def compared(loss: Loss, rows: Tensor, batch: Batch) -> Tensor:
    """Return what a loss sees of the rows of a batch: those of all ranks, if it compares images."""
    if here().is_alone or not loss.compares:
        return rows
    if rows.is_floating_point():
        # The loss computes in float32, and gloo does not know every type.
        rows = rows.float()
    return rows_of_all(rows, [n * batch.num_crops for n in here().parts_of(batch.whole_size)])


def as_rank(part: Tensor, batch: Batch) -> Tensor:
    """Return what of this rank's part of a loss goes backward: over the ranks torch takes the mean
    of the gradients, where their sum is wanted.
    """
    if here().is_alone:
        return part
    return part * (0 if batch.is_stand_in else here().num_ranks)


def own_share(loss: Loss, part: Tensor, count: Count) -> tuple[Tensor, Count]:
    """Return what this rank tells of a loss and of its count, so that the ranks add up: what all
    compute is told by the first one.
    """
    if here().is_main or not loss.compares:
        return part, count
    # Not a zero: it may not be a number.
    return part * 0, 0
