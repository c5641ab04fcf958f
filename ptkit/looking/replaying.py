"""Real images through an exported file and through the model that it is of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptkit.core.comparing.runs import read_run
from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import spread
from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.data.lists import ImageList, check_image
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.exporting.answering import Run
from ptkit.core.models.hooks import evaluating
from ptkit.core.training.prediction import Predicted
from ptkit.core.training.tasks.task import Task
from ptkit.looking.evaluation import read_matching_list
from ptkit.looking.image_sources import find_images
from ptkit.looking.subject import Subject

# How far a probability may be off, and of int8 the share of right answers.
LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-2}
# Two answers this near in probability are a tie, which rounding decides.
_TIE = 1e-6
# And two that are this near to the limit of strangers, in its own standard deviations.
_NEAR_LIMIT = 1e-2
# In half precision so many of the images may be unknown to the one and not to the other.
_HALF_UNKNOWN = 0.05
# So many images are decoded before they are run, or so many bytes of them: a graph makes floats of
# them several times over.
_AT_ONCE, _BYTES_AT_ONCE = 32, 1 << 24

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Images to replay, and whether their labels are known."""

    images: ImageList
    has_labels: bool

    def some(self, count: int) -> "Labelled":
        """Return at most so many of them, spread over the list."""
        rows = np.array(spread(range(len(self.images)), count))
        return Labelled(self.images.subset(rows), self.has_labels)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """How an exported file compares with its model.

    difference: the largest between two probabilities, or numbers, those in standard deviations of
    the labels. num_changed: how many answers are others; num_unknown_changed: how many images are
    unknown to the one and not to the other, None where none ever is. metric: what the scores are;
    None without labels. has_numbers: the results are numbers, not probabilities.
    """

    num_images: int
    difference: float
    num_changed: int
    num_unknown_changed: int | None = None
    metric: str | None = None
    score: float | None = None
    original_score: float | None = None
    has_numbers: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: value for name, value in vars(self).items() if name != "has_numbers"}

    def fault(self, precision: str) -> str | None:
        """Say why this is not near enough for a precision, if it is not."""
        limit = LIMITS[precision]
        if precision == "int8":
            assert self.score is not None
            assert self.original_score is not None
            # An exact point passes: shares of images are not exact.
            if self.score >= self.original_score - limit - 1e-9:
                return None
            return (
                f"its accuracy on {self.num_images:,} images is {self.score:.2%}, the model's"
                f" {self.original_score:.2%}: int8 costs more than a point; --precision fp16 costs"
                " less"
            )
        if not math.isfinite(self.difference):
            why = ": numbers of this model are too large for fp16, --precision fp32 takes them"
            return f"its results are not finite{why if precision == 'fp16' else ''}"
        if self.difference > limit:
            return (
                f"its results differ from the model's by up to {self.difference:.2g} on"
                f" {self.num_images} images, {limit:g} is allowed of {precision}"
            )
        if precision == "fp32" and self.num_changed:
            return f"{self.num_changed} of {self.num_images} answers are others than the model's"
        allowed = _HALF_UNKNOWN * self.num_images if precision == "fp16" else 0
        if (self.num_unknown_changed or 0) > allowed:
            return (
                f"{self.num_unknown_changed} of {self.num_images} images are unknown to the file"
                " and not to the model, or the other way round"
            )
        return None


def find_replayed(subject: Subject, images: str | None, *, root: Path | None) -> Labelled:
    """Return the images of a list, a folder, or of the run's validation list.

    Raises:
        UsageError: none is named, and the model is not in a run.
        DataError: they cannot be read, or are of other classes.
    """
    if images is None:
        if subject.weights.run is None:
            raise UsageError(
                f"{subject.weights.source} is not in a run, whose validation images would be"
                " replayed: name a list or a folder with --images"
            )
        data = read_run(subject.weights.run).settings.data
        file = Path(data.valid)
        if root is None and data.root:
            root = Path(data.root)
        if not file.is_file():
            raise DataError(
                f"the run's validation list {file} is not there: name another list with --images"
            )
        classes = Path(data.classes) if data.classes else None
        return _of_list(file, subject, root=root, classes=classes)
    if Path(images).suffix == ".txt":
        return _of_list(Path(images), subject, root=root)
    found = find_images([images], subject.class_names, root=root)
    # Before anything is exported: its name may be wrong.
    decoder.read(found.image_path(0))
    return Labelled(found, has_labels=False)


def _of_list(
    file: Path, subject: Subject, *, root: Path | None, classes: Path | None = None
) -> Labelled:
    listed, _ = read_matching_list(file, subject, classes=classes, root=root)
    # Not those of classes that the loss ignored: what the model says of them is no mistake.
    listed = listed.subset(subject.task.counted_rows(listed.labels))
    if not len(listed):
        raise DataError(f"{file} has no image of a class that counts: name another with --images")
    check_image(listed, 0)
    return Labelled(listed, has_labels=True)


@dataclass(frozen=True)
class Inputs:
    """What an exported file takes: decoded images as they are, or after the pipeline."""

    pipeline: Pipeline
    as_pixels: bool

    @property
    def num_crops(self) -> int:
        """How many inputs an image is."""
        return 1 if self.as_pixels else self.pipeline.num_crops

    def batches(self, images: ImageList) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield rows of a list with what the file takes for them; images of one size together.

        Raises:
            DataError: an image that cannot be read.
        """
        by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        count = num_bytes = 0
        for row in range(len(images)):
            one = self._of(images.image_path(row))
            by_size.setdefault(one.shape, []).append((row, one))
            count, num_bytes = count + 1, num_bytes + one.nbytes
            if count == _AT_ONCE or num_bytes >= _BYTES_AT_ONCE or row == len(images) - 1:
                for group in by_size.values():
                    yield [row for row, _ in group], np.concatenate([one for _, one in group])
                by_size.clear()
                count = num_bytes = 0

    def _of(self, path: str) -> np.ndarray:
        pixels = decoder.read(path, alpha=self.pipeline.alpha)
        if self.as_pixels:
            return pixels[None]
        view = self.pipeline.view(pixels)
        found: np.ndarray = view.reshape(-1, *view.shape[-3:]).numpy()
        return found


def replay(
    subject: Subject, labelled: Labelled, run: Run, inputs: Inputs, *, workers: int = 0
) -> Replayed:
    """Run images through both and compare.

    Raises:
        DataError: an image that cannot be read.
    """
    images, task = labelled.images, subject.task
    expected = _original(subject, images, inputs, workers=workers)
    found, strangeness = np.empty_like(expected.values), np.zeros(len(images), np.float32)
    for rows, batch in inputs.batches(images):
        values, *told = run(batch)
        found[rows] = values.reshape(len(rows), inputs.num_crops, -1).mean(axis=1)
        if told:
            strangeness[rows] = told[0]
    answers = _answers(found, task)
    difference = np.abs(found - expected.values)
    if task.kind == REGRESSION and task.scale is not None:
        difference = difference / np.maximum(task.scale.numpy(), 1e-12)
    score = _score(answers, labelled, task)
    return Replayed(
        num_images=len(images),
        # Not max of the array alone: it would pass NaN by.
        difference=float(difference.max()),
        num_changed=_num_changed(answers, expected.values, expected.answers, task),
        num_unknown_changed=_num_unknown_changed(found, strangeness, expected.unknown, task),
        metric=None if score is None else _metric(task),
        score=score,
        original_score=_score(expected.answers, labelled, task),
        has_numbers=task.kind == REGRESSION,
    )


def _original(subject: Subject, images: ImageList, inputs: Inputs, *, workers: int) -> Predicted:
    """Return what the model itself says."""
    if inputs.num_crops == 1:
        return subject.predict(images, device="cpu", workers=workers)[0]
    # A file gives an answer for each crop, of which the mean is compared: not what the model says
    # of the image, which is of the mean of its outputs.
    model, task = subject.model.to("cpu"), subject.task
    parts, places = [], []
    with evaluating(model), torch.inference_mode():
        for rows, batch in inputs.batches(images):
            values = task.values(model(torch.from_numpy(batch)).float()).numpy()
            parts.append(values.reshape(len(rows), inputs.num_crops, -1).mean(axis=1))
            places += rows
    values = np.concatenate(parts)[np.argsort(places)]
    return Predicted(values, _answers(values, task))


def _answers(values: Values, task: Task) -> npt.NDArray[Any]:
    if task.kind == REGRESSION:
        return values
    if task.kind == MULTI:
        return np.asarray(values >= _thresholds(task))
    return np.asarray(values.argmax(axis=1))


def _thresholds(task: Task) -> Any:
    return 0.5 if task.thresholds is None else task.thresholds.numpy()


def _num_changed(
    answers: npt.NDArray[Any], values: Values, expected: npt.NDArray[Any], task: Task
) -> int:
    """Return how many images have another answer that is not a tie."""
    if task.kind == REGRESSION:
        return 0
    if task.kind == MULTI:
        is_tie = np.abs(values - _thresholds(task)) <= _TIE
        return int(((answers != expected) & ~is_tie).any(axis=1).sum())
    rows = np.arange(len(values))
    return int((values[rows, expected] - values[rows, answers] > _TIE).sum())


def _num_unknown_changed(
    values: Values, strangeness: Values, expected: npt.NDArray[np.bool_] | None, task: Task
) -> int | None:
    """Return how many images are unknown to the one and not to the other, ties aside."""
    if expected is None:
        return None
    is_unknown, is_tie = np.zeros(len(values), bool), np.zeros(len(values), bool)
    if task.thresholds is not None:
        spare = values.max(axis=1) - task.thresholds.numpy()[values.argmax(axis=1)]
        is_unknown, is_tie = spare < 0, np.abs(spare) <= _TIE
    if task.strangers is not None:
        beyond = strangeness - task.strangers.limit
        is_unknown, is_tie = is_unknown | (beyond > 0), is_tie | (np.abs(beyond) <= _NEAR_LIMIT)
    return int(((is_unknown != expected) & ~is_tie).sum())


def _metric(task: Task) -> str:
    return {MULTI: "every label right", REGRESSION: "mean absolute error"}.get(
        task.kind, "accuracy"
    )


def _score(answers: npt.NDArray[Any], labelled: Labelled, task: Task) -> float | None:
    if not labelled.has_labels:
        return None
    labels = labelled.images.labels
    if task.kind == REGRESSION:
        return float(np.abs(answers - labels).mean())
    same = answers == labels
    return float((same.all(axis=1) if same.ndim == 2 else same).mean())
