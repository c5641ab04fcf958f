"""How right a model is on a list of images, and where it is wrong."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.data.labels import REGRESSION
from ptkit.core.data.lists import ImageList, check_image, classes_file, read_list
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.shares import interval
from ptkit.core.training.tasks import metrics as compute
from ptkit.core.training.tasks.task import TOP, is_in_top, label_kind_of
from ptkit.looking.subject import Subject

# Of more classes, confusion.csv has only the pairs that occur, and as_dict no matrix: nearly all of
# a million cells and more are 0.
MAX_MATRIX = 1000
# How many images are looked at together.
_AT_ONCE = 1024


@dataclass(frozen=True)
class Evaluation:
    """A model's answers for every image of a list, in the list's order.

    class_names: of the columns. probabilities: float32 (N, K). answers: int64 (N,) classes; where
    images have several, bool (N, K). source: of the model, for people: its file and epoch. run: the
    run folder that the file is in, if any. num_ignored: images of classes that the model's loss
    ignored; they are left out of everything else. notes: what was done to get bare weights, a line
    each. trained_on: bool (N,), which images the weights were trained on; None where unknown.
    skipped: why other images of the list were left out. unknown: bool (N,), for which images
    `ptkit predict` would withhold the answer; None where it never does. alpha: what the model saw
    of transparency, see `images.read`.
    """

    images: ImageList
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    answers: np.ndarray
    source: str = ""
    run: Path | None = None
    num_ignored: int = 0
    notes: tuple[str, ...] = ()
    trained_on: np.ndarray | None = None
    skipped: tuple[str, ...] = ()
    alpha: str = "drop"
    unknown: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """What is true, like `answers`."""
        return self.images.labels

    @property
    def has_several(self) -> bool:
        """Whether an image can have several classes."""
        return self.answers.ndim == 2

    @cached_property
    def matrix(self) -> np.ndarray:
        """Counts, int64 (K, K): rows true, columns predicted.

        Where images have several classes (K, 2, 2): rows absent and present, columns predicted
        absent and present.
        """
        if not self.has_several:
            return compute.confusion_matrix(self.labels, self.answers, len(self.class_names))
        right, wrong, missed = compute.counts_of_labels(self.labels, self.answers).T
        rest = len(self.labels) - right - wrong - missed
        return np.stack([np.stack([rest, wrong], 1), np.stack([missed, right], 1)], 1)

    @cached_property
    def per_class(self) -> dict[str, np.ndarray]:
        """precision, recall, f1, support, and average_precision where images have several classes.

        Each is (K,); nan where there is nothing to divide by.
        """
        if not self.has_several:
            return compute.per_class(self.matrix)
        return {
            **compute.rates_of_labels(compute.counts_of_labels(self.labels, self.answers)),
            "average_precision": compute.average_precisions(self.labels, self.probabilities),
        }

    @cached_property
    def metrics(self) -> dict[str, float]:
        """accuracy, macro_f1, balanced_accuracy; auroc, of images of two classes at least; top5, of
        more than five classes. Where images have several classes: map, f1, precision, recall and
        accuracy.

        Accuracy is the share of images that are right, with every label.
        """
        if not self.has_several:
            counts = compute.counts_of_classes(self.labels, self.answers, len(self.class_names))
            found = compute.class_metrics(counts)
            areas = compute.areas_under_roc(self.labels, self.probabilities)
            if not np.isnan(areas).all():
                found["auroc"] = compute.mean_of_known(areas)
            if len(self.class_names) > TOP:
                found["top5"] = float(np.mean(self._is_in_top()))
            return found
        return {
            "map": compute.mean_of_known(self.per_class["average_precision"]),
            **compute.micro_rates(compute.counts_of_labels(self.labels, self.answers)),
            "accuracy": self.accuracy,
        }

    @property
    def accuracy(self) -> float:
        return self.num_right / len(self.labels)

    @cached_property
    def num_right(self) -> int:
        """How many images are right, with every label."""
        is_right = self.labels == self.answers
        return int((is_right.all(axis=1) if self.has_several else is_right).sum())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, Wilson's."""
        return interval(self.num_right, len(self.labels))

    @property
    def num_answered(self) -> int:
        """How many of the images are not unknown."""
        return len(self.labels) - (0 if self.unknown is None else int(self.unknown.sum()))

    @property
    def num_right_answered(self) -> int:
        """How many of those are right; of one class an image."""
        is_right = self.labels == self.answers
        return int(is_right.sum() if self.unknown is None else (is_right & ~self.unknown).sum())

    @property
    def majority(self) -> compute.Majority | None:
        """The most frequent class; None where images have several."""
        return None if self.has_several else compute.majority_of(self.labels, self.class_names)

    @property
    def num_trained_on(self) -> int | None:
        """How many of the images the weights were trained on, if that is known."""
        return None if self.trained_on is None else int(self.trained_on.sum())

    @cached_property
    def unseen(self) -> "Evaluation | None":
        """The same without the images that the weights were trained on; None without others."""
        if self.trained_on is None or self.trained_on.all():
            return None
        rows = np.flatnonzero(~self.trained_on)
        return replace(
            self,
            images=self.images.subset(rows),
            probabilities=self.probabilities[rows],
            answers=self.answers[rows],
            trained_on=self.trained_on[rows],
            unknown=None if self.unknown is None else self.unknown[rows],
        )

    @property
    def rates(self) -> tuple[str, ...]:
        """The names of the rates in a row of `class_rows`."""
        return tuple(name for name in self.per_class if name != "support")

    def recall_intervals(self) -> list[tuple[float, float] | None]:
        """Return the 95 % interval of each class's recall, None where it has no images."""
        found, support = self.per_class["recall"], self.per_class["support"]
        return [
            interval(round(recall * total), int(total)) if total else None
            for recall, total in zip(found.tolist(), support.tolist(), strict=True)
        ]

    def class_rows(self) -> list[tuple[Any, ...]]:
        """Return a row for each class: its name, its rates (None where unknown), its images."""
        columns = [_plain(self.per_class[name]) for name in self.rates]
        support = self.per_class["support"].astype(int).tolist()
        return list(zip(self.class_names, *columns, support, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return metrics, matrix and rates as plain values; None where there are none.

        f1, precision and recall are those of each class; over all classes together they are called
        micro_f1, micro_precision and micro_recall.
        """
        is_large = not self.has_several and len(self.class_names) > MAX_MATRIX
        names = self.rates if self.has_several else ("precision", "recall")
        unseen = self.unseen
        return (
            {
                **{
                    f"micro_{name}" if name in names else name: v
                    for name, v in self.metrics.items()
                },
                "accuracy_interval": self.accuracy_interval,
                "majority": self.majority and self.majority.as_dict(),
                "num_images": len(self.labels),
                **({"num_ignored": self.num_ignored} if self.num_ignored else {}),
                "num_trained_on": self.num_trained_on,
                "accuracy_without_trained_on": unseen and unseen.accuracy,
                "accuracy_without_trained_on_interval": unseen and unseen.accuracy_interval,
                "classes": self.class_names,
                "matrix": None if is_large else self.matrix.tolist(),
                **{name: _plain(self.per_class[name]) for name in names},
                "recall_interval": self.recall_intervals(),
            }
            | self._doubts()
            | ({"skipped": list(self.skipped)} if self.skipped else {})
        )

    def _doubts(self) -> dict[str, Any]:
        """Return what there is to say where answers may be withheld."""
        if self.unknown is None:
            return {}
        right, total = self.num_right_answered, self.num_answered
        return {
            "coverage": total / len(self.labels),
            "accuracy_of_answered": right / total if total else None,
            "accuracy_of_answered_interval": interval(right, total) if total else None,
        }

    def _is_in_top(self) -> np.ndarray:
        """Return for which images the true class is among the TOP most probable ones, bool (N,)."""
        rows = map(torch.from_numpy, (self.probabilities, self.labels))
        # In parts: what is compared takes several times the memory of the probabilities.
        parts = zip(*(some.split(_AT_ONCE) for some in rows), strict=True)
        return np.concatenate([is_in_top(*part).numpy() for part in parts])


@dataclass(frozen=True)
class ConfusedPair:
    """count images of class `true` were taken for class `predicted`; share: of all images of class
    `true`.
    """

    true: int
    predicted: int
    count: int
    share: float


def evaluate_list(
    subject: Subject,
    list_file: Path,
    *,
    classes: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "stop",
    root: Path | None = None,
) -> Evaluation:
    """Test a model on a list of labelled images.

    classes: a file of class names, by default classes.txt beside the list. on_bad: `skip` leaves
    out images that cannot be read. root: see `read_list`.

    Raises:
        CheckpointError: the model gives another number of scores than there are classes.
        DataError: other classes than the model's, or an image or list that cannot be read.
        UsageError: the model gives numbers, which are not classes.
    """
    ckpt = subject.weights.source
    if subject.task.kind == REGRESSION:
        raise UsageError(
            f"{ckpt} gives numbers, and numbers are not confused with each other: `ptkit predict"
            f" {ckpt} {list_file}` shows them, and a run's metrics.csv has their errors in"
            " validation"
        )
    listed, names = read_matching_list(list_file, subject, classes=classes, root=root)
    if on_bad == "stop":
        check_image(listed, 0)
    images = _counted(listed, subject)
    bad: dict[int, str] = {}
    found, trained_on = subject.predict(
        images, device=device, workers=workers, bad=bad if on_bad == "skip" else None
    )
    skipped = tuple(bad[index] for index in sorted(bad))
    if len(bad) == len(images):
        raise DataError(f"no image of {list_file} can be read; the first: {skipped[0]}")
    good = np.setdiff1d(np.arange(len(images)), list(bad))
    if found.values.shape[1:] != (len(names),):
        raise CheckpointError(
            f"the model gives {found.values.shape[1]} scores an image, expected {len(names)}"
        )
    weights = subject.weights
    return Evaluation(
        images.subset(good) if bad else images,
        names,
        found.values[good],
        found.answers[good],
        source=weights.described,
        run=weights.run,
        num_ignored=len(listed) - len(images),
        notes=weights.lines,
        trained_on=None if trained_on is None else trained_on[good],
        skipped=skipped,
        alpha=weights.alpha,
        unknown=None if found.unknown is None else found.unknown[good],
    )


def _counted(listed: ImageList, subject: Subject) -> ImageList:
    """Return the images of a list that the model's loss did not ignore."""
    if subject.task.counted is None:
        return listed
    rows = subject.task.counted_rows(listed.labels)
    if not len(rows):
        raise DataError(f"{listed.file} has only images of classes that the model's loss ignored")
    return listed.subset(rows)


def read_matching_list(
    file: Path, subject: Subject, *, classes: Path | None = None, root: Path | None = None
) -> tuple[ImageList, tuple[str, ...]]:
    """Read a list whose labels mean the subject's classes; return it and the class names.

    Bare weights without names get those beside the list.

    Raises:
        DataError: class names that differ, labels beyond the subject's classes, or an unreadable
            list.
    """
    known_names = subject.class_names if subject.has_class_names else None
    images = read_list(
        file, classes=classes, kind=label_kind_of(subject.task.kind), known=known_names, root=root
    )
    names, known, model = images.class_names, subject.class_names, subject.weights.path
    beside = classes_file(file, classes)
    if beside is None:
        if images.has_named_labels and known_names is None:
            raise DataError(
                f"{file} names its classes, but {model} does not say what its classes are called:"
                " pass --classes FILE"
            )
        if len(names) > len(known):
            raise DataError(
                f"{file} has label {len(names) - 1}, but {model} knows the classes 0 to"
                f" {len(known) - 1}"
            )
        return images.with_classes(known), known
    if len(names) != len(known):
        raise DataError(f"{beside} has {len(names):,} classes, but {model} knows {len(known):,}")
    if not subject.has_class_names:
        return images, names
    if names != known:
        index = next(k for k, name in enumerate(names) if name != known[k])
        raise DataError(
            f"class {index} is {names[index]!r} in {beside} but {known[index]!r} in {model}: these"
            " are other classes"
        )
    return images, known


def most_confused(matrix: np.ndarray, limit: int | None = None) -> list[ConfusedPair]:
    """Return the pairs of classes with the most mistakes, all without a limit; ties go to the
    larger share of the true class.
    """
    # Of 10,000 classes a matrix has 100 million cells, nearly all 0: compute with the others only.
    cells = np.argwhere(matrix)
    true, predicted = cells[cells[:, 0] != cells[:, 1]].T
    counts = matrix[true, predicted]
    shares = counts / np.maximum(matrix.sum(axis=1), 1)[true]
    order = np.lexsort((predicted, true, -shares, -counts))[:limit]
    columns = (column[order].tolist() for column in (true, predicted, counts, shares))
    return [ConfusedPair(*pair) for pair in zip(*columns, strict=True)]


def worst_mistakes(evaluation: Evaluation) -> np.ndarray:
    """Return the indices of wrong answers, those with the smallest probability of the true class
    first.
    """
    wrong = np.flatnonzero(evaluation.answers != evaluation.labels)
    probabilities = evaluation.probabilities[wrong, evaluation.labels[wrong]]
    return wrong[np.argsort(probabilities, kind="stable")]


def mistakes_of(evaluation: Evaluation, pair: ConfusedPair, limit: int) -> np.ndarray:
    """Return the indices of the images behind one confused pair, the surest mistakes first."""
    worst = worst_mistakes(evaluation)
    is_true, is_answer = evaluation.labels == pair.true, evaluation.answers == pair.predicted
    found: np.ndarray = worst[(is_true & is_answer)[worst]]
    return found[:limit]


def _plain(values: np.ndarray) -> list[float | None]:
    """Return numbers as plain values, None for nan."""
    return [None if math.isnan(value) else float(value) for value in values]
