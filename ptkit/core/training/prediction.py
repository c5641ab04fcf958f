"""A model's probabilities over a list, in order, without waiting for the device between batches."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ptkit.core.data.batches import Batches
from ptkit.core.training.losses import probabilities


def predict_list(
    model: nn.Module, batches: Batches, *, activation: str, dtype: torch.dtype | None = None
) -> npt.NDArray[np.float32]:
    """Return probabilities (N, K) in the list's order; the model is left in evaluation mode.

    Raises:
        DataError: an image that cannot be read.
    """
    model.eval()
    found = []
    with torch.inference_mode():
        for batch in batches.epoch():
            with torch.autocast(batches.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                outputs = model(batch.images)
            found.append(probabilities(outputs, activation))
    return torch.cat(found).cpu().numpy()
