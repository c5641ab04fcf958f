"""What a run recorded, read from its folder: numbers only, and also of a run that was killed."""

import csv
import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.config.settings import Settings
from ptkit.core.errors import DataError

Floats = npt.NDArray[np.float64]

# Of the largest rate; the part of a run above it is where updates are judged.
_PEAK = 0.5


@dataclass(frozen=True)
class Evidence:
    """What only the model and the data can tell; None where it is not known.

    clean_train_accuracy: of the best weights on so many training images (num_clean), without
    augmentation. num_leaked: validation images whose bytes are among those of the training images.
    """

    clean_train_accuracy: float | None = None
    num_clean: int = 0
    num_leaked: int | None = None


@dataclass(frozen=True)
class Outputs:
    """Raw outputs of the best epoch for the validation list, float (n, K), and its labels (n,)."""

    values: Floats
    labels: npt.NDArray[np.int64]

    @cached_property
    def probabilities(self) -> Floats:
        """Their softmax, (n, K)."""
        return softmax(self.values)

    @cached_property
    def answers(self) -> npt.NDArray[np.int64]:
        """The class with the largest output, (n,)."""
        found: npt.NDArray[np.int64] = self.values.argmax(axis=1)
        return found

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.labels).mean())


@dataclass(frozen=True)
class Recorded:
    """A run's files.

    metrics: columns of metrics.csv. start, epochs, diverged: lines of layers.jsonl; `start` is
    empty where nothing was recorded, `diverged` None where nothing diverged.
    """

    folder: Path
    settings: Settings
    class_names: tuple[str, ...]
    metrics: Mapping[str, Floats]
    start: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    diverged: Mapping[str, Any] | None = None
    outputs: Outputs | None = None
    evidence: Evidence = Evidence()

    @property
    def num_classes(self) -> int:
        return int(self.start["num_classes"]) if self.start else len(self.class_names)

    @property
    def is_from_scratch(self) -> bool:
        return self.settings.model.weights is None

    @property
    def guessing(self) -> float | None:
        """The loss of the best answer that is the same for every image; None where unknown."""
        return self.start.get("guessing")

    @property
    def again(self) -> str:
        """The command that repeats the run."""
        return f"ptkit train --config {shlex.quote(str(self.folder / 'config.toml'))}"

    @cached_property
    def loss(self) -> Floats:
        """Of every step."""
        return self._steps("loss")

    @cached_property
    def lr(self) -> Floats:
        return self._steps("lr")

    @cached_property
    def grad_norm(self) -> Floats:
        """Total norm of the gradient of every step, before clipping."""
        return self._steps("grad_norm")

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of the weights that the optimizer steps, in the order in which they run."""
        weights = self.start.get("weights", {})
        return tuple(name for name, about in weights.items() if about["trained"])

    @cached_property
    def at_peak(self) -> npt.NDArray[np.bool_]:
        """Which samples were taken while the rate was at least half of its largest, (samples,)."""
        rates = self._sampled_rates
        return rates >= _PEAK * rates.max() if len(rates) else np.zeros(0, bool)

    @cached_property
    def _sampled_rates(self) -> Floats:
        parts = [np.asarray(e["lr"], float)[np.asarray(e["sampled"], int) - 1] for e in self.epochs]
        return np.concatenate(parts) if parts else np.zeros(0)

    def samples(self, name: str, what: str) -> Floats:
        """Return norms of a weight at every sample of the run: "weight", "gradient", "update"."""
        return _floats([v for e in self.epochs for v in e["weights"].get(name, {}).get(what, [])])

    def updates(self, name: str) -> Floats:
        """Return ‖Δw‖/‖w‖ of a weight at the samples at the peak of the rate."""
        update, weight = self.samples(name, "update"), self.samples(name, "weight")
        if len(update) != len(self.at_peak):
            return np.zeros(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = update / weight
        ratios = ratios[self.at_peak]
        return ratios[np.isfinite(ratios)]

    def median_update(self, name: str) -> float:
        """Return the median of `updates`, NaN without any."""
        found = self.updates(name)
        return float(np.median(found)) if len(found) else float("nan")

    def _steps(self, key: str) -> Floats:
        return _floats([value for epoch in self.epochs for value in epoch[key]])


def read_run(folder: Path) -> Recorded:
    """Read a run folder.

    Raises:
        DataError: not a run folder, or one of its files is damaged.
    """
    config = folder / "config.toml"
    if not config.is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.toml")
    settings = resolve(read_toml(config))
    lines = _read_lines(folder / "layers.jsonl")
    by_kind = {kind: [x for x in lines if x.get("kind") == kind] for kind in ("start", "epoch")}
    diverged = [line for line in lines if line.get("kind") == "diverged"]
    try:
        return Recorded(
            folder,
            settings,
            _class_names(settings, by_kind["start"]),
            _read_metrics(folder / "metrics.csv"),
            by_kind["start"][0] if by_kind["start"] else {},
            by_kind["epoch"],
            diverged[-1] if diverged else None,
            _read_outputs(folder / "valid_outputs.npz"),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{folder / 'layers.jsonl'} is damaged: {error!r}") from error


def softmax(values: Floats) -> Floats:
    """Return probabilities (n, K)."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def running_median(values: Floats, width: int) -> Floats:
    """Return medians over `width` steps; there are width - 1 fewer."""
    medians: Floats = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    return medians


def smoothed(values: Floats, width: int) -> Floats:
    """Return running means over `width` steps; there are width - 1 fewer."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    means: Floats = (sums[width:] - sums[:-width]) / width
    return means


def least(values: Floats) -> float:
    """Return the smallest of the values that are numbers, infinity without any."""
    return float(np.fmin.reduce(values, initial=np.inf))


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], float)


def _class_names(settings: Settings, starts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    count = int(starts[0]["num_classes"]) if starts else 0
    file = Path(settings.data.classes or Path(settings.data.train).parent / "classes.txt")
    try:
        names = tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        names = ()
    return names if len(names) == count else tuple(map(str, range(count)))


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Return what each whole line holds; the last one of a killed run may be cut off."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: damaged: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{file}, line {number}: damaged: not an object")
        found.append(values)
    return found


def _read_metrics(file: Path) -> dict[str, Floats]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        return {}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    try:
        return {
            name: np.array([float(row[name] or "nan") for row in rows])
            for name in (rows[0] if rows else ())
        }
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(f"{file} is damaged: {error}") from error


def _read_outputs(file: Path) -> Outputs | None:
    """Return the outputs of the best epoch; None where there are none, or not all are finite."""
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            values, labels = arrays["best"].astype(float), arrays["labels"].astype(np.int64)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise DataError(f"{file} is damaged: outputs {values.shape} for labels {labels.shape}")
    return Outputs(values, labels) if np.isfinite(values).all() else None
