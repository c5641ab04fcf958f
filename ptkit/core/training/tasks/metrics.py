"""Counts to numbers: the confusion matrix and what follows from it; and how sure a share is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
# How many classes are looked at together.
_AT_ONCE = 32


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int) -> Matrix:
    """Return the counts (K, K) of class indices: rows true, columns predicted."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def per_class(matrix: Matrix) -> dict[str, Values]:
    """Return precision, recall, f1 and support of each class (K,); 0/0 is nan."""
    hits = np.diag(matrix)
    counts = (hits, matrix.sum(axis=0) - hits, matrix.sum(axis=1) - hits)
    return rates_of_labels(np.stack(counts, axis=1))


def counts_of_classes(labels: npt.ArrayLike, answers: npt.ArrayLike, num_classes: int) -> Matrix:
    """Return int64 (K, 3) of class indices (n,): of each class how often it was rightly, wrongly
    and not found. Of 10,000 classes a confusion matrix would have 100 million cells.
    """
    true, said = np.asarray(labels, np.int64), np.asarray(answers, np.int64)
    hits, wrong, missed = (
        np.bincount(classes, minlength=num_classes)
        for classes in (true[true == said], said[true != said], true[true != said])
    )
    return np.stack([hits, wrong, missed], axis=1)


def class_metrics(counts: Matrix) -> dict[str, float]:
    """Return accuracy, macro_f1 and balanced_accuracy, from `counts_of_classes`; 0 of nothing.

    scikit-learn's: f1 is the mean over the classes that are true or answered for some image, 0
    where none of these is right; balanced accuracy is the mean recall of the classes that have
    images.
    """
    rates = rates_of_labels(counts)
    return {
        "accuracy": float(counts[:, 0].sum() / max(counts[:, [0, 2]].sum(), 1)),
        "macro_f1": mean_of_known(rates["f1"]),
        "balanced_accuracy": mean_of_known(rates["recall"]),
    }


def areas_under_roc(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> Values:
    """Return the area under the ROC curve of each class against the rest (K,); nan for a class that
    no image has, or that all have.

    The share of pairs of an image of the class and another one in which the first has the larger
    probability; equal ones count for a half (Fawcett, "An introduction to ROC analysis", 2006,
    section 7).

    labels: class indices (n,). probabilities: (n, K).
    """
    areas: list[float] = []
    for start in range(0, probabilities.shape[1], _AT_ONCE):
        # Copied as rows: a column of a large table is read at the speed of memory, not of caches.
        columns = np.ascontiguousarray(probabilities[:, start : start + _AT_ONCE].T)
        areas += [_area(labels == start + k, column) for k, column in enumerate(columns)]
    return np.array(areas)


def _area(truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]) -> float:
    """Return the area from the ranks of the images of a class among all, equal ones sharing theirs
    (the statistic of Mann and Whitney, 1947).
    """
    inside, num_outside = np.sort(probabilities[truth]), np.count_nonzero(~truth)
    if not len(inside) or not num_outside:
        return float("nan")
    every = np.sort(probabilities)
    below, up_to = (np.searchsorted(every, inside, side=side) for side in ("left", "right"))
    ranks = (below.sum() + up_to.sum() + len(inside)) / 2
    return float((ranks / len(inside) - (len(inside) + 1) / 2) / num_outside)


def counts_of_labels(truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]) -> Matrix:
    """Return int64 (K, 3) of bool (N, K) rows: of each class how often it was rightly, wrongly and
    not found.
    """
    return np.stack(
        [(truth & found).sum(0), (~truth & found).sum(0), (truth & ~found).sum(0)], axis=1
    ).astype(np.int64)


def rates_of_labels(counts: Matrix) -> dict[str, Values]:
    """Return precision, recall, f1 and support of each class (K,), from `counts_of_labels`; 0/0 is
    nan.
    """
    right, wrong, missed = counts.T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / (right + wrong),
            "recall": right / (right + missed),
            "f1": 2 * right / (2 * right + wrong + missed),
            "support": right + missed,
        }


def micro_rates(counts: Matrix) -> dict[str, float]:
    """Return f1, precision and recall over all classes together; 0 where there is nothing to divide
    by.
    """
    rates = rates_of_labels(counts.sum(axis=0, keepdims=True))
    return {key: float(np.nan_to_num(rates[key][0])) for key in ("f1", "precision", "recall")}


def average_precisions(
    truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]
) -> Values:
    """Return the average precision of each class (K,); nan for a class without images.

    The sum over recall steps of the precision there, images of one probability taken together
    (Manning et al., "Introduction to Information Retrieval", 2008, section 8.4).
    """
    return np.array(
        [_average_precision(truth[:, k], probabilities[:, k]) for k in range(truth.shape[1])]
    )


def _average_precision(
    truth: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]
) -> float:
    if not truth.any():
        return float("nan")
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(truth[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    precision, recall = hits[last_of_tie] / (last_of_tie + 1), hits[last_of_tie] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def mean_of_known(values: Values) -> float:
    """Return the mean without nan; 0 if there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def errors_of_numbers(
    truth: npt.NDArray[np.float32], found: npt.NDArray[np.float32]
) -> dict[str, float]:
    """Return mae, rmse and r2 over all numbers (N, D); r2 is the mean over the D numbers.

    r2 is 1 - squared error / squared distance from the mean; 0 for numbers that are all the same.
    """
    error = found.astype(np.float64) - truth
    spread = np.square(truth - truth.mean(axis=0, dtype=np.float64)).sum(axis=0)
    left = np.square(error).sum(axis=0) / np.where(spread > 0, spread, np.inf)
    r2 = np.where(spread > 0, 1 - left, 0.0)
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "r2": float(r2.mean()),
    }


@dataclass(frozen=True)
class Majority:
    """The most frequent class of a list, and its share of the images: the accuracy of answering
    nothing else.
    """

    name: str
    share: float

    def __str__(self) -> str:
        return f'always "{self.name}" {self.share:.1%}'

    def as_dict(self) -> dict[str, str | float]:
        """Return what `--json` gives."""
        return {"class": self.name, "share": self.share}


def majority_of(labels: npt.NDArray[np.int64], class_names: Sequence[str]) -> Majority:
    """Return the most frequent class of some images (n,), of equal ones the first."""
    counts = np.bincount(labels)
    most = int(counts.argmax())
    return Majority(class_names[most], float(counts[most] / len(labels)))
