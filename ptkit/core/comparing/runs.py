"""What run folders say of themselves: settings, epochs, and the answers for the validation images.

Nothing of a run is executed or unpickled; code that its settings name is not imported.
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.comparing.ranking import Ranking, read_ranking
from ptkit.core.config.layers import read_toml, resolve, to_layer
from ptkit.core.config.settings import Settings
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.errors import DataError, UsageError
from ptkit.core.run_files import read_metrics, resume_command
from ptkit.core.run_folders import run_of
from ptkit.core.shares import interval, is_less_better
from ptkit.core.training.holding import is_unfinished
from ptkit.core.training.tasks import metrics as compute
from ptkit.core.training.tasks.task import METRICS

# What cannot change a result, or says where and how it was made.
_ALIKE = {"data.workers", "data.cache", "train.save_every", "train.profile", "train.device"}
# What differs between folds, with their images.
_OF_FOLD = ("data.train", "data.valid", "data.classes", "data.mean", "data.std")
_NUM_RESAMPLES = 500


@dataclass(frozen=True)
class Predictions:
    """A run's answers for its validation images.

    kind: of the labels. names: of the classes or numbers. truth and answers: int64 (N,) classes,
    bool (N, K) labels given, or float32 (N, D) numbers. probabilities: float32 (N, K) of several
    labels; of one class an image (N, 2), of the answer and of the true class.
    """

    kind: str
    paths: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray
    answers: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """Which images are right, of several labels all of them: bool (N,); not of numbers."""
        same = np.equal(self.answers, self.truth)
        return np.asarray(same.all(axis=1) if same.ndim == 2 else same)

    @property
    def errors(self) -> np.ndarray:
        """The mean absolute error of each image's numbers, (N,)."""
        found: np.ndarray = np.abs(self.answers.astype(np.float64) - self.truth).mean(axis=1)
        return found

    def words(self, values: np.ndarray) -> str:
        """Return one row of `truth` or `answers` as people read it."""
        if self.kind == SINGLE:
            return self.names[int(values)]
        if self.kind == MULTI:
            return ", ".join(name for name, has in zip(self.names, values, strict=True) if has)
        return ", ".join(f"{value:.6g}" for value in values)

    def metrics(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Return what can be computed from the answers, of some rows, the main metric first."""
        truth, answers = self.truth[rows], self.answers[rows]
        if self.kind == SINGLE:
            return compute.class_metrics(compute.counts_of_classes(truth, answers, len(self.names)))
        if self.kind == REGRESSION:
            return compute.errors_of_numbers(truth, answers)
        assert self.probabilities is not None
        precisions = compute.average_precisions(truth, self.probabilities[rows])
        rates = compute.micro_rates(compute.counts_of_labels(truth, answers))
        return {"map": compute.mean_of_known(precisions), **rates}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of `metrics`: Wilson's of the accuracy, of the others the percentiles
        of 500 resamples of the images (Efron and Tibshirani, "An introduction to the bootstrap",
        1993, chapter 13), the same ones every time.
        """
        generator, count = np.random.default_rng(0), len(self.paths)
        drawn = [self.metrics(generator.integers(0, count, count)) for _ in range(_NUM_RESAMPLES)]
        found = {}
        for name in self.metrics():
            low, high = np.percentile([each[name] for each in drawn], (2.5, 97.5))
            found[name] = (float(low), float(high))
        if self.kind == SINGLE:
            found["accuracy"] = interval(int(self.right.sum()), count)
        return found


@dataclass(frozen=True)
class FoundRun:
    """rows: of metrics.csv, an epoch each. predictions: None of a run that did not reach its
    end.
    """

    folder: Path
    settings: Settings
    rows: tuple[Mapping[str, float], ...]
    predictions: Predictions | None

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def main(self) -> str:
        """The metric that runs of this kind are compared by."""
        if self.predictions is not None:
            return next(iter(self.predictions.metrics()))
        return self._recorded

    @property
    def _recorded(self) -> str:
        """The first metric of its kind of labels that metrics.csv has."""
        known = {name for row in self.rows for name in row}
        firsts = (next(iter(modes)) for modes in METRICS.values())
        return next((name for name in firsts if f"valid_{name}" in known), "accuracy")

    @cached_property
    def best(self) -> Mapping[str, float]:
        """The row of the best epoch by the run's own rule: its metric, then the loss."""
        metric = self.settings.train.metric
        if metric == "auto":
            metric = self._recorded
        is_least = is_less_better(metric)

        def order(row: Mapping[str, float]) -> tuple[float, float]:
            loss = row.get("valid_loss", math.inf)
            value = row.get(f"valid_{metric}", loss if is_least else 0.0)
            return -value if is_least else value, -loss

        return max(self.rows, key=order)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Of the answers and of the ranking; of a run that did not reach its end, those of its best
        epoch.
        """
        if self.predictions is not None:
            ranked = {} if self.ranking is None else self.ranking.metrics
            return {**self.predictions.metrics(), **ranked}
        return {
            name.removeprefix("valid_"): value
            for name, value in self.best.items()
            if name.startswith("valid_") and name != "valid_loss"
        }

    @cached_property
    def ranking(self) -> Ranking | None:
        """Of the validation images; None where images have no single class, and of runs that kept
        no outputs.
        """
        found = self.predictions
        if found is None or found.kind != SINGLE:
            return None
        return read_ranking(self.folder, found.truth, found.answers)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of `metrics` over the images; of a run that did not reach its end, and
        where the spread is not known, there is none.
        """
        if self.predictions is None:
            return {}
        ranked = {} if self.ranking is None else self.ranking.intervals
        return {**self.predictions.intervals, **ranked}

    @property
    def is_fold(self) -> bool:
        """Whether it is one of `ptkit train --folds`."""
        return self.folder.name.startswith("fold-")

    @property
    def is_of_series(self) -> bool:
        """Whether it is one of several that `ptkit train` made together."""
        return self.is_fold or self.folder.name.startswith("seed-")

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Every setting that can change a result, by its name."""
        layer = to_layer(self.settings)
        layer.pop("log")
        flat = {f"{section}.{key}": value for section, keys in layer.items()
                for key, value in keys.items()}  # fmt: skip
        return {name: value for name, value in flat.items() if name not in _ALIKE}

    @property
    def pooled_by(self) -> tuple[tuple[str, str], ...]:
        """What runs of one setting have in common: all but the seed, and of folds the lists."""
        own = {"train.seed", *(_OF_FOLD if self.is_fold else ())}
        return tuple(
            (name, value_text(value)) for name, value in self.setting.items() if name not in own
        )


def value_text(value: Any) -> str:
    """Return a setting's value with six digits: no run is another one for a rounding error."""
    if isinstance(value, tuple):
        return ", ".join(map(value_text, value)) or "-"
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_DEPTHS = ("*", "*/*", "*/*/*")


def find_runs(places: Sequence[Path]) -> list[FoundRun]:
    """Read runs, and all runs in folders of runs, those of series too; each once.

    Raises:
        UsageError: a place that is neither. DataError: a file of a run that cannot be read.
    """
    folders: dict[str, Path] = {}
    for place in map(run_of, places):
        found = run_folders(place)
        if not found:
            what = "is not a run folder and holds none" if place.exists() else "does not exist"
            raise UsageError(f"{place} {what}; `ptkit train` writes runs, into runs/ by default")
        # One run may be named in several ways.
        for folder in found:
            folders.setdefault(os.path.realpath(folder), folder)
    return [read_run(folder) for folder in folders.values()]


def run_folders(place: Path) -> list[Path]:
    """Return a run folder itself, or those in a folder of runs, in its series, and in folders of
    such folders, 2 before 10.
    """
    if (place / "config.toml").is_file():
        return [place]
    found = {file.parent for depth in _DEPTHS for file in place.glob(f"{depth}/config.toml")}
    return sorted(found, key=_in_order)


def _in_order(folder: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part)
            for part in str(folder).replace("-", os.sep).split(os.sep)]  # fmt: skip


def read_run(folder: Path) -> FoundRun:
    """Read one run folder; a run that was killed has its epochs only.

    Raises:
        UsageError: settings that cannot be read. DataError, StorageError: a table that cannot be.
    """
    settings = resolve(read_toml(folder / "config.toml"))
    rows = tuple(
        {name: value for name, value in row.items() if value is not None}
        for row in read_metrics(folder)
    )
    file = folder / "valid_predictions.csv"
    # While a run that is done already trains on, they are of the epochs before.
    is_done = file.is_file() and not is_unfinished(folder)
    threshold = settings.loss.threshold
    predictions = read_predictions(file, threshold=threshold) if is_done else None
    return FoundRun(folder, settings, rows, predictions)


def read_predictions(file: Path, *, threshold: float | None = None) -> Predictions:
    """Read valid_predictions.csv; threshold: of several labels, from which on one is given.

    Raises:
        DataError: not such a table.
    """
    rows = _table(file)
    try:
        return _parsed(rows, 0.5 if threshold is None else threshold)
    except (KeyError, ValueError, IndexError):
        raise DataError(
            f"{file} is not as `ptkit train` writes it; evaluate the run again with"
            f" `{resume_command(file.parent)}`"
        ) from None


def _parsed(rows: list[dict[str, str]], threshold: float) -> Predictions:
    # Images of a class that the loss ignores are in no accuracy.
    rows = [row for row in rows if row.get("counts") != "0"]
    columns = list(rows[0])
    paths = tuple(row["path"] for row in rows)
    if "predicted" in columns:
        names = tuple(sorted({row[key] for row in rows for key in ("true", "predicted")}))
        index = {name: number for number, name in enumerate(names)}
        truth, answers = (
            np.array([index[row[key]] for row in rows]) for key in ("true", "predicted")
        )
        keys = ("probability", "probability_of_true")
        probabilities = np.array([[float(row[key]) for key in keys] for row in rows], np.float32)
        return Predictions(SINGLE, paths, names, truth, answers, probabilities)
    # path, then `true NAME` and what was found, by turns.
    names = tuple(column.removeprefix("true ") for column in columns[1::2])
    truth, found = (
        np.array([[float(row[c]) for c in columns[first::2]] for row in rows], np.float32)
        for first in (1, 2)
    )
    if columns[2].startswith("predicted "):
        return Predictions(REGRESSION, paths, names, truth, found)
    return Predictions(MULTI, paths, names, truth > 0, found >= threshold, found)


def _table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    return list(csv.DictReader(text.splitlines(keepends=True)))
