"""Counts to numbers: the confusion matrix and what follows from it."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def confusion_counts(labels: Tensor, predictions: Tensor, *, num_classes: int) -> Tensor:
    """Return int64 (K, K) on the tensors' device: rows true, columns predicted; nothing waits for the device."""
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes * num_classes).view(num_classes, num_classes)


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int) -> Matrix:
    """Return the counts (K, K) of class indices: rows true, columns predicted."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def per_class(matrix: Matrix) -> dict[str, Values]:
    """Return precision, recall, f1 and support of each class (K,); 0/0 is nan."""
    hits = np.diag(matrix).astype(float)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": hits / predicted,
            "recall": hits / support,
            "f1": 2 * hits / (support + predicted),
            "support": support.astype(float),
        }


def accuracy(matrix: Matrix) -> float:
    """Return the share of counts on the diagonal."""
    return float(np.trace(matrix) / max(matrix.sum(), 1))
