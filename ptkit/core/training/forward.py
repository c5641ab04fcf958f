"""The model on a batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ptkit.core.data.batches import Batch

# Images (n, 3, H, W) to outputs (n, num_outputs): a model, or its compiled form.
Forward = Callable[[Tensor], Tensor]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the context in which the model runs: autocast to `dtype`, or none."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def outputs_of(model: Forward, batch: Batch, dtype: torch.dtype | None = None) -> Tensor:
    """Return the outputs (n, num_outputs) of a batch's images, the mean over the crops of each."""
    with autocast(batch.images.device, dtype):
        outputs = model(batch.images)
    return (
        outputs if batch.num_crops == 1 else outputs.unflatten(0, (-1, batch.num_crops)).mean(dim=1)
    )
