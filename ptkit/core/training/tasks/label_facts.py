"""What a loss needs to know about the labels of the training list."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data.labels import NUMBERS, SEVERAL
from ptkit.core.data.lists import ImageList


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """kind: of the labels, as ImageList.label_kind. num_classes: or how many numbers an image has.

    counts: (K,) images of each class; empty for numbers. mean, std: (D,) of the numbers; empty for
    classes. lowest: the smallest number; 0 for classes.
    """

    kind: str
    num_classes: int
    num_images: int
    counts: Tensor
    mean: Tensor
    std: Tensor
    lowest: float = 0.0


def facts_of(images: ImageList) -> LabelFacts:
    """Return what the labels of a list are like."""
    kind, labels, none = images.label_kind, images.labels, torch.empty(0)
    counts = mean = std = none
    lowest = 0.0
    if kind == NUMBERS:
        mean = torch.tensor(labels.mean(axis=0, dtype=np.float64), dtype=torch.float32)
        spread = torch.tensor(labels.std(axis=0, dtype=np.float64), dtype=torch.float32)
        lowest = float(labels.min())
        std = torch.where(spread > 0, spread, torch.ones_like(spread))
    else:
        found = (
            labels.sum(axis=0)
            if kind == SEVERAL
            else np.bincount(labels, minlength=images.num_classes)
        )
        counts = torch.from_numpy(found.astype(np.float32))
    return LabelFacts(kind, images.num_classes, len(images), counts, mean, std, lowest)
