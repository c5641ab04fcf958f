"""Fitting a task to outputs and labels: a temperature, thresholds, and the limit of strangers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.calibration.strangers import Strangers
from ptkit.core.calibration.temperature import (
    best_temperature,
    binary_cross_entropy,
    cross_entropy,
    expected_calibration_error,
    is_at_the_end,
    two_halves,
)
from ptkit.core.calibration.thresholds import Threshold, find_threshold
from ptkit.core.data.labels import MULTI
from ptkit.core.training.tasks.task import Task

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FittedTemperature:
    """A temperature, fitted to all images, and what temperatures fitted to either half of them do
    to the other half.

    is_found: whether none of them ran to the end of what is looked for. is_used: whether they are,
    and that lowers the cross-entropy; otherwise the temperature stays 1.
    """

    fitted: float
    halves: tuple[float, float]
    ece: tuple[float, float]
    loss: tuple[float, float]

    @property
    def is_found(self) -> bool:
        return not any(map(is_at_the_end, (self.fitted, *self.halves)))

    @property
    def is_used(self) -> bool:
        return self.is_found and self.loss[1] < self.loss[0]

    @property
    def value(self) -> float:
        """The temperature that is kept."""
        return self.fitted if self.is_used else 1.0


@dataclass(frozen=True)
class Answering:
    """Of images that did not help to fit: how many there are, are answered, and are right.

    Of several labels, all classes of all images together: named, and rightly so; `total` counts
    the images.
    """

    total: int
    answered: int
    right: int


class AnswerFit:
    """Fits a task to outputs (N, num_outputs) and labels of images that it was not trained on;
    `task` has what was fitted so far.

    precision: the share of answers that should be right, of each class. known: the share of images
    that are no strangers. seed: of the halves.
    """

    def __init__(
        self,
        task: Task,
        outputs: Tensor,
        labels: np.ndarray,
        *,
        precision: float,
        known: float,
        seed: int,
    ) -> None:
        self.task = replace(task, strangers=None).on(torch.device("cpu"))
        self.outputs, self.labels = outputs, labels
        self.precision, self.known = precision, known
        first, second = two_halves(len(labels), seed=seed)
        self.both_ways = ((first, second), (second, first))

    def fit_temperature(self) -> FittedTemperature:
        """Fit the temperature, and both ways on halves."""
        found = self._temperature()
        self.task = _with_temperature(self.task, found.value)
        return found

    def fit_thresholds(self) -> tuple[tuple[Threshold, ...], Answering]:
        """Fit a threshold for each class; and both ways on halves."""
        found, answering = self._thresholds(np.arange(len(self.labels))), self._answering()
        values = torch.tensor([each.value for each in found])
        self.task = replace(self.task, thresholds=values)
        return found, answering

    def limited(self, strangers: Strangers, features: Tensor) -> tuple[Strangers, int]:
        """Return strangers with the limit that lets the wished share of the images pass; and how
        many images do not pass the limit of the half that they are not in.
        """
        probabilities = self.task.plain_probabilities(self.outputs)
        strangers = strangers.scaled(probabilities, features)
        scores = strangers.scores(probabilities, features).numpy()
        limit = float(np.quantile(scores, self.known))
        strange = sum(
            int((scores[scored] > np.quantile(scores[fitted], self.known)).sum())
            for fitted, scored in self.both_ways
        )
        return replace(strangers, limit=limit), strange

    def _temperature(self) -> FittedTemperature:
        rows = np.arange(len(self.labels))
        before = replace(self.task, temperature=None).values(self.outputs).numpy()
        after, halves = np.empty_like(before), []
        for fitted, scored in self.both_ways:
            halves.append(best_temperature(self._loss_at(fitted)))
            scaled = replace(self.task, temperature=halves[-1])
            after[scored] = scaled.values(self.outputs[scored]).numpy()
        ece, losses = [], []
        for probabilities in (before, after):
            ece.append(expected_calibration_error(*self._confidence(probabilities)))
            losses.append(self._loss(probabilities, rows))
        return FittedTemperature(
            best_temperature(self._loss_at(rows)),
            (halves[0], halves[1]),
            (ece[0], ece[1]),
            (losses[0], losses[1]),
        )

    def _loss_at(self, rows: np.ndarray) -> Callable[[float], float]:
        outputs = self.outputs[rows]
        return lambda t: self._loss(replace(self.task, temperature=t).values(outputs).numpy(), rows)

    def _loss(self, probabilities: np.ndarray, rows: np.ndarray) -> float:
        loss = binary_cross_entropy if self.task.kind == MULTI else cross_entropy
        return loss(probabilities, self.labels[rows])

    def _confidence(self, probabilities: np.ndarray) -> tuple[np.ndarray, BoolArray]:
        """Return probabilities, and which of them are of what is true."""
        if self.task.kind == MULTI:
            return probabilities.ravel(), self.labels.ravel()
        answers = self.task.answers(self.outputs).numpy()
        return probabilities[np.arange(len(answers)), answers], answers == self.labels

    def _thresholds(self, rows: np.ndarray) -> tuple[Threshold, ...]:
        """Return the threshold of each class that some images give."""
        probabilities, labels = self.task.values(self.outputs[rows]).numpy(), self.labels[rows]
        several, old = self.task.kind == MULTI, self.task.thresholds
        answers = None if several else self.task.answers(self.outputs[rows]).numpy()
        found = []
        for k in range(probabilities.shape[1]):
            own = np.arange(len(rows)) if answers is None else np.flatnonzero(answers == k)
            right = labels[:, k] if several else labels[own] == k
            usual = 0.5 if several else 0.0
            otherwise = usual if old is None else float(old[k])
            found.append(
                find_threshold(
                    probabilities[own, k],
                    right,
                    precision=self.precision,
                    otherwise=otherwise,
                )
            )
        return tuple(found)

    def _answering(self) -> Answering:
        counts = np.zeros(2, int)
        for fitted, scored in self.both_ways:
            values = torch.tensor([each.value for each in self._thresholds(fitted)])
            task = replace(self.task, thresholds=values)
            outputs, labels = self.outputs[scored], self.labels[scored]
            answers = task.answers(outputs).numpy()
            if self.task.kind == MULTI:
                counts += answers.sum(), (answers & labels).sum()
                continue
            unknown = task.is_unknown(outputs)
            assert unknown is not None
            is_answered = ~unknown.numpy()
            counts += is_answered.sum(), (is_answered & (answers == labels)).sum()
        return Answering(len(self.labels), *counts.tolist())


def _with_temperature(task: Task, value: float) -> Task:
    """Return a task with another temperature; of several labels the thresholds that it has mean
    the same as before, and of one class it has none any more.
    """
    old = task.temperature or 1.0
    if task.kind == MULTI and task.thresholds is not None:
        moved = torch.sigmoid(torch.logit(task.thresholds) * old / value)
        # Above 1 it says that a class is never answered.
        moved = torch.where(task.thresholds > 1, task.thresholds, moved)
        return replace(task, thresholds=moved, temperature=value)
    # By how much each would move depends on the other classes.
    return replace(task, thresholds=task.thresholds if value == old else None, temperature=value)
