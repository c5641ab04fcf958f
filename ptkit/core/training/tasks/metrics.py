"""Counts to numbers: the confusion matrix and what follows from it."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int) -> Matrix:
    """Return the counts (K, K) of class indices: rows true, columns predicted."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def per_class(matrix: Matrix) -> dict[str, Values]:
    """Return precision, recall, f1 and support of each class (K,); 0/0 is nan."""
    hits = np.diag(matrix)
    counts = (hits, matrix.sum(axis=0) - hits, matrix.sum(axis=1) - hits)
    return rates_of_labels(np.stack(counts, axis=1))


def accuracy(matrix: Matrix) -> float:
    """Return the share of counts on the diagonal."""
    return float(np.trace(matrix) / max(matrix.sum(), 1))


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


def average_precisions(truth: npt.NDArray[np.bool_], chances: npt.NDArray[np.float32]) -> Values:
    """Return the average precision of each class (K,); nan for a class without images.

    The sum over recall steps of the precision there, images of one probability taken together
    (Manning et al., "Introduction to Information Retrieval", 2008, section 8.4).
    """
    return np.array([_average_precision(truth[:, k], chances[:, k]) for k in range(truth.shape[1])])


def _average_precision(truth: npt.NDArray[np.bool_], chances: npt.NDArray[np.float32]) -> float:
    if not truth.any():
        return float("nan")
    order = np.argsort(-chances, kind="stable")
    hits = np.cumsum(truth[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(chances[order])), len(order) - 1)
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


def interval(right: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share `right / total`: Wilson's score interval (Wilson 1927;
    Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", 2001, section 3.1.1).
    """
    z = 1.959963984540054
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + (z / total / 2) ** 2) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share_text(right: int, total: int) -> str:
    """Return a share in percent with its 95 % interval: `96.1% (91.7 to 98.2%)`."""
    low, high = interval(right, total)
    return f"{right / total:.1%} ({100 * low:.1f} to {high:.1%})"
