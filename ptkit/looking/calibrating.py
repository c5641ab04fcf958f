"""Fit to a list what a checkpoint's answers lack: a temperature for its probabilities, thresholds
per class, and what tells strangers from the images it was trained on.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.calibration.strangers import Strangers, fit_strangers
from ptkit.core.calibration.thresholds import Threshold
from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.training.changed_lists import TRAINING, check_same_lists
from ptkit.core.training.prediction import run_list
from ptkit.core.training.setup_lists import read_lists
from ptkit.core.training.tasks.calibration import AnswerFit, Answering, FittedTemperature
from ptkit.core.training.tasks.task import Task
from ptkit.looking.evaluation import read_matching_list
from ptkit.looking.subject import Subject

TEMPERATURE, THRESHOLDS, UNKNOWN = PARTS = ("temperature", "thresholds", "unknown")
# Fewer images say nothing of any of them.
MIN_IMAGES = 20
# More training images give the same distances.
_MOST_TRAINING = 10_000

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Wishes:
    """What is fitted, of PARTS, None for all that the kind of task has; and how.

    precision: the share of answers that should be right, of each class. known: the share of images
    that are not to be called strangers. train: the list that the model was trained with, by
    default that of its run. seed: of the halves.
    """

    parts: tuple[str, ...] | None = None
    precision: float = 0.95
    known: float = 0.95
    train: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Calibration:
    """What was fitted to the images of a list; None for what was not.

    task: with all of it. probabilities: (N, K), before and after. answers: int64 (N,), or bool
    (N, K) of several labels. answering: with thresholds of the other half. strange: how many of the
    other half are called strangers, by limits of either half. num_trained_on: images of the list
    that were left out, for the model was trained on them.
    """

    images: ImageList
    task: Task
    probabilities: tuple[np.ndarray, np.ndarray]
    answers: np.ndarray
    temperature: FittedTemperature | None = None
    thresholds: tuple[Threshold, ...] | None = None
    answering: Answering | None = None
    strange: int | None = None
    num_trained_on: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    @property
    def right(self) -> np.ndarray:
        """Which answers are right, bool (N,); of several labels which classes are there (N, K)."""
        return self.labels if self.answers.ndim == 2 else self.labels == self.answers

    def confidence(self, *, is_after: bool) -> np.ndarray:
        """The probability of each answer (N,); of several labels those of all classes (N, K)."""
        probabilities = self.probabilities[is_after]
        if self.answers.ndim == 2:
            return probabilities
        found: np.ndarray = probabilities[np.arange(len(probabilities)), self.answers]
        return found


def calibrate_list(
    subject: Subject,
    list_file: Path,
    wishes: Wishes,
    *,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "stop",
    root: Path | None = None,
) -> Calibration:
    """Fit to a list of labelled images that the model was not trained on.

    root: the folder that the images of this list and of the training list are in now.

    Raises:
        CheckpointError: the outputs are not finite, or user code is not named again.
        DataError: other classes, an image that cannot be read, too few images, or no training list.
        UsageError: numbers, or a part that this kind of task does not have.
    """
    parts = _parts_of(subject, wishes)
    images, _ = read_matching_list(list_file, subject, root=root)
    training = _training_images(subject, wishes, root) if UNKNOWN in parts else None
    bad: dict[int, str] | None = {} if on_bad == "skip" else None
    runs = _Runs(subject, device=device, workers=workers, bad=bad)
    outputs, features, trained_on = runs.over(images, has_features=UNKNOWN in parts)
    skipped = tuple((bad or {})[k] for k in sorted(bad or {}))
    rows, num_trained_on = _rows_to_fit(subject, images, trained_on, bad or {})
    _check_classes(subject, images.labels[rows], list_file)
    _check_enough(rows, list_file, num_trained_on=num_trained_on)
    outputs = outputs[rows]
    features = None if features is None else features[rows]
    fit = AnswerFit(
        subject.task,
        outputs,
        images.labels[rows],
        precision=wishes.precision,
        known=wishes.known,
        seed=wishes.seed,
    )
    temperature = fit.fit_temperature() if TEMPERATURE in parts else None
    thresholds, answering = fit.fit_thresholds() if THRESHOLDS in parts else (None, None)
    strangers, strange = None, None
    if training is not None and features is not None:
        strangers = runs.strangers(training)
        strangers, strange = fit.limited(strangers, features)
    task = fit.task if strangers is None else replace(fit.task, strangers=strangers)
    return Calibration(
        images.subset(rows),
        task,
        (subject.task.plain_probabilities(outputs).numpy(), fit.task.values(outputs).numpy()),
        fit.task.answers(outputs).numpy(),
        temperature,
        thresholds,
        answering,
        strange,
        num_trained_on,
        skipped,
    )


def _rows_to_fit(
    subject: Subject,
    images: ImageList,
    trained_on: npt.NDArray[np.bool_] | None,
    bad: Mapping[int, str],
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the rows that can be read, count, and were not trained on; and how many were."""
    left_out = np.zeros(len(images), bool) if trained_on is None else trained_on.copy()
    left_out[list(bad)] = True
    counted = subject.task.counted_rows(images.labels)
    return counted[~left_out[counted]], int(left_out.sum()) - len(bad)


def _parts_of(subject: Subject, wishes: Wishes) -> tuple[str, ...]:
    task, source = subject.task, subject.weights.source
    if task.kind == REGRESSION:
        raise UsageError(f"{source} gives numbers, which have no probabilities to calibrate")
    for name, share in (("--target-precision", wishes.precision), ("--known", wishes.known)):
        if not 0 < share < 1:
            raise UsageError(f"{name} must be between 0 and 1, found {share:g}")
    can = [TEMPERATURE] if task.has_temperature else []
    can += [THRESHOLDS, *([UNKNOWN] if task.kind == SINGLE else [])]
    if wishes.parts is None:
        return tuple(can)
    if not wishes.parts:
        raise UsageError(f"no part to fit: name one of {', '.join(can)}, or none for all")
    for part in wishes.parts:
        if part not in PARTS:
            raise UsageError(f"--only must be one of {', '.join(PARTS)}, found {part!r}")
        if part not in can:
            reason = (
                "its loss gives probabilities, which no temperature changes"
                if part == TEMPERATURE
                else f"it is a {task.kind} model, and strangers are told where an image has one"
                " class"
            )
            raise UsageError(f"{source} cannot have --only {part}: {reason}")
    is_left = TEMPERATURE in wishes.parts and THRESHOLDS not in wishes.parts
    if is_left and task.kind != MULTI and task.thresholds is not None:
        raise UsageError(
            f"the thresholds of {source} belong to its old temperature: add --only thresholds"
        )
    return wishes.parts


def _check_classes(subject: Subject, labels: npt.NDArray[Any], list_file: Path) -> None:
    """Refuse a list of one class, of which every answer that names it looks right."""
    names = subject.class_names
    if labels.ndim == 1 and len(names) > 1 and len(found := np.unique(labels)) == 1:
        raise DataError(
            f"{list_file} has images of the class {names[int(found[0])]} alone: calibration needs"
            " images of all classes"
        )


def _check_enough(rows: npt.NDArray[np.int64], list_file: Path, *, num_trained_on: int) -> None:
    if len(rows) < MIN_IMAGES:
        more = " more" if len(rows) else ""
        known = f"; {num_trained_on:,}{more} were trained on" if num_trained_on else ""
        raise DataError(
            f"{list_file} has {len(rows):,} images that the model was not trained on{known}:"
            f" calibration needs {MIN_IMAGES}, and hundreds to be worth it"
        )


def _training_images(subject: Subject, wishes: Wishes, root: Path | None) -> ImageList:
    """Return the images that a checkpoint was trained on, or a sample of them."""
    source, run = subject.weights.source, subject.weights.run
    if wishes.train is not None:
        images, _ = read_matching_list(wishes.train, subject, root=root)
    elif run is None:
        raise DataError(
            f"{source} is in no run folder that names its training list, to which the check for"
            " strangers is fitted: pass --train LIST, or only --only temperature --only thresholds"
        )
    else:
        settings = resolve(read_toml(run / "config.toml")).data
        images, _ = read_lists(settings if root is None else replace(settings, root=str(root)))
        checkpoint = subject.weights.checkpoint
        check_same_lists(
            checkpoint,
            {TRAINING: images},
            source,
            relabel=settings.relabel,
            advice="pass --train LIST",
        )
    rows = subject.task.counted_rows(images.labels)
    if len(rows) > _MOST_TRAINING:
        rows = np.sort(np.random.default_rng(wishes.seed).permutation(rows)[:_MOST_TRAINING])
    return images.subset(rows)


@dataclass(frozen=True)
class _Runs:
    """Runs the model over lists. bad: gets the images of the first that cannot be read."""

    subject: Subject
    device: str
    workers: int
    bad: dict[int, str] | None

    def over(
        self, images: ImageList, *, has_features: bool
    ) -> tuple[Tensor, Tensor | None, BoolArray | None]:
        """Return outputs and features on the CPU, and which images were trained on."""
        outputs, features, known = self._run(images, self.bad, has_features=has_features)
        good = np.setdiff1d(np.arange(len(images)), list(self.bad or {}))
        if not bool(outputs[good].isfinite().all()):
            raise CheckpointError(
                f"{self.subject.weights.source} gives NaN or infinite outputs: its weights are"
                " damaged"
            )
        return outputs, features, known

    def strangers(self, images: ImageList) -> Strangers:
        """Return the distance to some training images; those that cannot be read do not count."""
        bad: dict[int, str] = {}
        _, features, _ = self._run(images, bad, has_features=True)
        assert features is not None
        good = np.setdiff1d(np.arange(len(images)), list(bad))
        if len(good) < MIN_IMAGES:
            raise DataError(
                f"{images.file} has {len(good):,} images that can be read: the check for strangers"
                f" needs {MIN_IMAGES}"
            )
        labels = torch.from_numpy(images.labels[good])
        return fit_strangers(features[good], labels, len(self.subject.class_names))

    def _run(
        self, images: ImageList, bad: dict[int, str] | None, *, has_features: bool
    ) -> tuple[Tensor, Tensor | None, BoolArray | None]:
        batches = self.subject.batches(images, device=self.device, workers=self.workers)
        count = len(self.subject.class_names) if has_features else None
        with closing(batches):
            model = self.subject.model.to(batches.device)
            outputs, features = run_list(model, batches, bad=bad, num_classes=count)
            known = self.subject.trained_on(batches)
        # Out of inference mode, whose tensors numpy cannot have.
        return outputs.cpu().clone(), None if features is None else features.cpu().clone(), known
