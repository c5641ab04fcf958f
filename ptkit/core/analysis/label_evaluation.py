"""How right a model is on images that have several labels each."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from ptkit.core.data.batches import Batches
from ptkit.core.training.prediction import predict_list
from ptkit.core.training.tasks.metrics import (
    average_precisions,
    counts_of_labels,
    mean_of_known,
    micro_rates,
    rates_of_labels,
)
from ptkit.core.training.tasks.readings import Reading


@dataclass(frozen=True)
class LabelEvaluation:
    """A model's answers for every image of a list, in the list's order.

    labels, answers: bool (N, K), which classes are there and which the model says are.
    probabilities: float32 (N, K).
    """

    labels: np.ndarray
    answers: np.ndarray
    probabilities: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each class was rightly, wrongly and not found, int64 (K, 3)."""
        return counts_of_labels(self.labels, self.answers)

    @property
    def matrices(self) -> np.ndarray:
        """The counts of each class as int64 (K, 2, 2): rows absent and present, columns said absent
        and present.
        """
        right, wrong, missed = self.counts.T
        rest = len(self.labels) - right - wrong - missed
        return np.stack([np.stack([rest, wrong], 1), np.stack([missed, right], 1)], 1)

    @cached_property
    def per_class(self) -> dict[str, np.ndarray]:
        """precision, recall, f1, support and average_precision, each (K,); nan where there is
        nothing to divide by.
        """
        found = average_precisions(self.labels, self.probabilities)
        return {**rates_of_labels(self.counts), "average_precision": found}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """map, f1, precision and recall over all classes, and accuracy: the share of images with
        every label right.
        """
        whole = float((self.labels == self.answers).all(axis=1).mean())
        mean = mean_of_known(self.per_class["average_precision"])
        return {"map": mean, **micro_rates(self.counts), "accuracy": whole}


def evaluate_labels(model: nn.Module, batches: Batches, *, reading: Reading) -> LabelEvaluation:
    """Run the model over all images and return its answers; the model is left in evaluation mode.

    batches: in the list's order, not shuffled. reading: of several labels an image (the
    checkpoint's `task`).

    Raises:
        DataError: an image that cannot be read.
    """
    assert not batches.shuffle
    found = predict_list(model, batches, reading=reading)
    return LabelEvaluation(batches.images.labels, found.answers, found.values)
