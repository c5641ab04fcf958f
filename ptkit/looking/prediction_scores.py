"""How right a model's answers are, where some of the images have labels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.shares import interval
from ptkit.core.training.tasks import metrics as compute
from ptkit.looking.answers import UNKNOWN, Answers

RATES = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Wrong:
    """An image whose answer is not its label: both in words, and the probability of the answer."""

    path: str
    true: str
    answer: str
    probability: float | None


@dataclass(frozen=True, eq=False)
class Scores:
    """The answers for the images that have a label and can be read, against these.

    labels, answers: int64 (N,), or bool (N, K); num_images: that can be read, with and without a
    label.
    unknown: bool (N,), which images were said to be of no class: they count as wrong.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    answers: np.ndarray
    unknown: np.ndarray
    num_images: int

    @property
    def num_labelled(self) -> int:
        """How many images are scored."""
        return len(self.labels)

    @property
    def has_several(self) -> bool:
        """Whether an image can have several classes."""
        return self.labels.ndim == 2

    @property
    def is_right(self) -> np.ndarray:
        """Which images are right, with every label, bool (N,)."""
        same = self.labels == self.answers
        right: np.ndarray = (same.all(axis=1) if same.ndim == 2 else same) & ~self.unknown
        return right

    @property
    def num_right(self) -> int:
        return int(self.is_right.sum())

    @property
    def accuracy(self) -> float:
        return self.num_right / len(self.labels)

    @property
    def num_unknown(self) -> int:
        return int(self.unknown.sum())

    @property
    def majority(self) -> compute.Majority | None:
        """The most frequent class; None where images have several."""
        return None if self.has_several else compute.majority_of(self.labels, self.class_names)

    @property
    def per_class(self) -> dict[str, np.ndarray]:
        """precision, recall, f1 and support of each class (K,); nan where there is nothing to
        divide by.
        """
        return compute.rates_of_labels(self._counts())

    def means(self) -> dict[str, dict[str, float]]:
        """Return the macro and the weighted mean of precision, recall and f1.

        scikit-learn's, with 0 for 0/0: macro is the mean over the classes that are true or answered
        for some image (of all where images have several), weighted by the images of each.
        """
        counts, rates = self._counts(), self.per_class
        occur = counts.sum(axis=1) > 0 if not self.has_several else np.ones(len(counts), bool)
        support = rates["support"][occur]
        known = {name: np.nan_to_num(rates[name][occur]) for name in RATES}
        total = max(float(support.sum()), 1.0)
        return {
            "macro": {name: float(values.mean()) for name, values in known.items()},
            "weighted": {name: float(v @ support / total) for name, v in known.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values; None where a rate is unknown."""
        rates = self.per_class
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": interval(self.num_right, len(self.labels)),
            "majority": self.majority and self.majority.as_dict(),
            "num_images": self.num_images,
            "num_labelled": self.num_labelled,
            "num_unknown": self.num_unknown,
            **self.means(),
            "classes": [
                {
                    "class": name,
                    **{rate: _plain(rates[rate][k]) for rate in RATES},
                    "images": int(rates["support"][k]),
                }
                for k, name in enumerate(self.class_names)
            ],
        }

    @property
    def places(self) -> list[int]:
        """Which classes are true or answered for some image, (n,) of 0..K-1."""
        found: list[int] = np.flatnonzero(self._counts().any(axis=1)).tolist()
        return found

    def _counts(self) -> np.ndarray:
        """Return int64 (K, 3): of each class how often it was rightly, wrongly and not found."""
        if self.has_several:
            return compute.counts_of_labels(self.labels, self.answers)
        # One more class for the unknown ones: they are found of none, and missed of their own.
        num_classes = len(self.class_names)
        answers = np.where(self.unknown, num_classes, self.answers)
        return compute.counts_of_classes(self.labels, answers, num_classes + 1)[:num_classes]


@dataclass(frozen=True)
class NumberScores:
    """The errors of numbers, over the images that have a label and can be read: mae, rmse, r2."""

    errors: dict[str, float]
    num_labelled: int
    num_images: int

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {**self.errors, "num_images": self.num_images, "num_labelled": self.num_labelled}


class Tally:
    """Counts the answers of a prediction, part by part, and keeps what scores need of them."""

    def __init__(self) -> None:
        self.num_images = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._last: Answers | None = None

    def add(self, part: Answers) -> None:
        """Count some answers."""
        self.num_images += len(part.paths) - len(part.errors)
        if part.labels is None or not len(rows := _compared(part)):
            return
        unknown = np.zeros(len(part.paths), bool) if part.unknown is None else part.unknown
        self._last = part
        self._parts.append((part.labels[rows], part.answers[rows], unknown[rows]))

    def scores(self) -> Scores | NumberScores | None:
        """Return the scores; None where no image has a label."""
        if self._last is None:
            return None
        labels, answers, unknown = map(np.concatenate, zip(*self._parts, strict=True))
        if self._last.kind == REGRESSION:
            errors = compute.errors_of_numbers(labels, answers)
            return NumberScores(errors, len(labels), self.num_images)
        return Scores(self._last.class_names, labels, answers, unknown, self.num_images)


def scores_of(parts: Iterable[Answers]) -> Scores | NumberScores | None:
    """Return how right some answers are; None where no image has a label."""
    tally = Tally()
    for part in parts:
        tally.add(part)
    return tally.scores()


def wrong_of(part: Answers) -> Iterator[Wrong]:
    """Yield the images whose answer is not their label, in order; none where labels are numbers."""
    if part.labels is None or part.kind == REGRESSION:
        return
    rows = _compared(part)
    unlike = part.labels[rows] != part.answers[rows]
    is_wrong = unlike.any(axis=1) if unlike.ndim == 2 else unlike
    if part.unknown is not None:
        is_wrong |= part.unknown[rows]
    names = part.class_names
    for row in rows[is_wrong].tolist():
        path = part.paths[row] or ""
        if part.kind == MULTI:
            true, said = (
                ", ".join(names[k] for k in np.flatnonzero(some[row]).tolist()) or "none"
                for some in (part.labels, part.answers)
            )
            yield Wrong(path, true, said, None)
            continue
        answer = int(part.answers[row])
        is_unknown = part.unknown is not None and bool(part.unknown[row])
        said = UNKNOWN if is_unknown else names[answer]
        yield Wrong(path, names[int(part.labels[row])], said, float(part.values[row, answer]))


def surest(wrong: Sequence[Wrong], limit: int | None = None) -> list[Wrong]:
    """Return wrong answers, those with the largest probability first; equal ones in order."""
    return sorted(wrong, key=lambda one: -(one.probability or 0))[:limit]


def _compared(part: Answers) -> np.ndarray:
    """Return the rows that have a label and an answer."""
    assert part.known is not None
    is_compared = part.known.copy()
    is_compared[list(part.errors)] = False
    return np.flatnonzero(is_compared)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
