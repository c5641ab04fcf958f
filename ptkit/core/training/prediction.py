"""A model's probabilities over a list, in order, without waiting for the device between batches."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ptkit.core.data.batches import Batches
from ptkit.core.training.losses import predictions, probabilities


@dataclass(frozen=True)
class Predicted:
    """probabilities: float32 (N, K). classes: int64 (N,), the predicted ones. In the list's order."""

    probabilities: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


def predict_list(model: nn.Module, batches: Batches, *, activation: str, dtype: torch.dtype | None = None) -> Predicted:
    """Return what the model says about every image of a list; the model is left in evaluation mode.

    Raises:
        DataError: an image that cannot be read.
    """
    model.eval()
    chances, classes = [], []
    with torch.inference_mode():
        for batch in batches.epoch():
            with torch.autocast(batches.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                outputs = model(batch.images)
            chances.append(probabilities(outputs, activation))
            classes.append(predictions(outputs, activation))
    return Predicted(torch.cat(chances).cpu().numpy(), torch.cat(classes).cpu().numpy())
