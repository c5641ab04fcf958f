"""How right a model is on a list of images, and where it is wrong."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from ptkit.core.data.lists import ImageList, classes_file, read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.errors import CheckpointError, DataError
from ptkit.core.training.prediction import predict_list
from ptkit.core.training.tasks.metrics import (
    accuracy,
    average_precisions,
    confusion_matrix,
    counts_of_labels,
    mean_of_known,
    micro_rates,
    per_class,
    rates_of_labels,
)
from ptkit.core.training.tasks.task import Task, label_kind_of
from ptkit.looking.subject import Subject


@dataclass(frozen=True)
class Evaluation:
    """A model's answers for every image of a list, in the list's order.

    labels, predictions: int64 (N,). probabilities: float32 (N, K).
    """

    labels: np.ndarray
    probabilities: np.ndarray
    predictions: np.ndarray

    @cached_property
    def matrix(self) -> np.ndarray:
        """Counts, int64 (K, K): rows true, columns predicted."""
        return confusion_matrix(self.labels, self.predictions, self.probabilities.shape[1])

    @cached_property
    def per_class(self) -> dict[str, np.ndarray]:
        """precision, recall, f1 and support, each (K,); nan where there is nothing to divide by."""
        return per_class(self.matrix)

    @property
    def accuracy(self) -> float:
        return accuracy(self.matrix)

    @property
    def standard_error(self) -> float:
        """Of the accuracy, as that of a share of N independent images."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / len(self.labels)))


@dataclass(frozen=True)
class ConfusedPair:
    """count images of class `true` were taken for class `predicted`; share: of all images of class
    `true`.
    """

    true: int
    predicted: int
    count: int
    share: float


def evaluate(model: nn.Module, batches: Batches, *, num_classes: int, task: Task) -> Evaluation:
    """Run the model over all images and return its answers; the model is left in evaluation mode.

    batches: in the list's order, not shuffled. task: of one class an image (the checkpoint's
    `task`).

    Raises:
        CheckpointError: the model gives another number of scores than `num_classes`.
        DataError: an image that cannot be read.
    """
    assert not batches.sampling.shuffle
    found = predict_list(model, batches, task=task)
    if found.values.shape[1:] != (num_classes,):
        num_scores = found.values.shape[1]
        raise CheckpointError(
            f"the model gives {num_scores} scores an image, expected {num_classes}"
        )
    return Evaluation(batches.images.labels, found.values, found.answers)


def read_matching_list(
    file: Path, subject: Subject, *, classes: Path | None = None
) -> tuple[ImageList, tuple[str, ...]]:
    """Read a list whose labels mean the subject's classes; return it and the class names.

    Bare weights without names get those that stand beside the list.

    Raises:
        DataError: class names that differ, labels beyond the subject's classes, or an unreadable
            list.
    """
    images = read_list(file, classes=classes, kind=label_kind_of(subject.task.kind))
    names, known = images.class_names, subject.class_names
    beside = classes_file(file, classes)
    if beside is None:
        if len(names) > len(known):
            raise DataError(
                f"{file} has label {len(names) - 1}, but {subject.path} knows the classes 0 to"
                f" {len(known) - 1}"
            )
        return images.with_classes(known), known
    if len(names) != len(known):
        raise DataError(
            f"{beside} has {len(names):,} classes, but {subject.path} knows {len(known):,}"
        )
    if not subject.has_class_names:
        return images, names
    for index, (name, own) in enumerate(zip(names, known, strict=True)):
        if name != own:
            raise DataError(
                f"class {index} is {name!r} in {beside} but {own!r} in {subject.path}: these are"
                " other classes"
            )
    return images, known


def most_confused(matrix: np.ndarray, limit: int) -> list[ConfusedPair]:
    """Return the pairs of classes with the most mistakes; ties go to the larger share of the true
    class.
    """
    # Of 10,000 classes a matrix has 100 million cells, nearly all empty: only the others are
    # calculated with.
    cells = np.argwhere(matrix)
    true, predicted = cells[cells[:, 0] != cells[:, 1]].T
    counts = matrix[true, predicted]
    shares = counts / np.maximum(matrix.sum(axis=1), 1)[true]
    order = np.lexsort((predicted, true, -shares, -counts))[:limit]
    columns = (column[order].tolist() for column in (true, predicted, counts, shares))
    return [ConfusedPair(*pair) for pair in zip(*columns, strict=True)]


def worst_mistakes(evaluation: Evaluation, limit: int | None = None) -> np.ndarray:
    """Return the indices of wrong answers, those with the smallest probability of the true class
    first.
    """
    wrong = np.flatnonzero(evaluation.predictions != evaluation.labels)
    chances = evaluation.probabilities[wrong, evaluation.labels[wrong]]
    return wrong[np.argsort(chances, kind="stable")][:limit]


def mistakes_of(evaluation: Evaluation, pair: ConfusedPair, limit: int) -> np.ndarray:
    """Return the indices of the images behind one confused pair, the surest mistakes first."""
    worst = worst_mistakes(evaluation)
    is_pair = (evaluation.labels[worst] == pair.true) & (
        evaluation.predictions[worst] == pair.predicted
    )
    return worst[is_pair][:limit]


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


def evaluate_labels(model: nn.Module, batches: Batches, *, task: Task) -> LabelEvaluation:
    """Run the model over all images and return its answers; the model is left in evaluation mode.

    batches: in the list's order, not shuffled. task: of several labels an image (the
    checkpoint's `task`).

    Raises:
        DataError: an image that cannot be read.
    """
    assert not batches.sampling.shuffle
    found = predict_list(model, batches, task=task)
    return LabelEvaluation(batches.images.labels, found.answers, found.values)
