"""What a run recorded, read from its folder: numbers only, and also of a run that was killed."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.config.dependents import one_cycle
from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.config.settings import Settings
from ptkit.core.diagnosis.rates import rate_flag
from ptkit.core.errors import DataError
from ptkit.core.run_files import (
    LAYERS,
    Outputs,
    Row,
    floats,
    read_layers,
    read_metrics,
    read_outputs,
    resume_command,
    why_no_run,
)

Floats = npt.NDArray[np.float64]

# Of the largest rate; the part of a run above it is where updates are judged.
_PEAK = 0.5
# What rules read of layers.jsonl: of its first line, of an epoch, of a weight in the first line.
_OF_START = ("num_classes", "class_counts", "valid_counts", "weights", "head", "initial")
_OF_EPOCH = ("epoch", "loss", "lr", "wait_s", "grad_norm", "sampled", "weights", "activations",
             "train_s")  # fmt: skip
_OF_WEIGHT = ("shape", "trained", "lr_scale", "weight_decay")


@dataclass(frozen=True)
class Evidence:
    """What only the model and the data can tell; None where it is not known.

    clean_train_accuracy: of the best weights on so many training images (num_clean), without
    augmentation. num_leaked: of so many validation images (num_looked_at) those whose bytes are
    among those of the training images. temperature: what the checkpoint divides outputs by, since
    it was calibrated. why_none: why nothing is known of the images. has_other_lists: whether a
    list was changed after the run.
    """

    clean_train_accuracy: float | None = None
    num_clean: int = 0
    num_leaked: int | None = None
    num_looked_at: int = 0
    temperature: float | None = None
    why_none: str = ""
    has_other_lists: bool = False


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
    def is_balanced(self) -> bool:
        """Whether each class was drawn as often as the others."""
        return self.settings.data.sampler == "balanced"

    @property
    def guessing(self) -> float | None:
        """The loss of the best answer that is the same for every image; None where unknown."""
        return self.start.get("guessing")

    @property
    def fitted(self) -> frozenset[str]:
        """Weights that the model set from images before training: other first values are lost."""
        return frozenset(self.start.get("fitted", ()))

    @property
    def again(self) -> str:
        """The command that repeats the run."""
        return f"ptkit train --config {shlex.quote(str(self.config))}"

    @property
    def config(self) -> Path:
        """The file of its settings."""
        return self.folder / "config.toml"

    @property
    def longer(self) -> str:
        """The command that trains for more epochs: those that are left, or twice as many."""
        num_epochs = self.settings.train.epochs
        # With patience fewer may be all: what has ended is not resumed.
        if len(self.epochs) < num_epochs and self.settings.train.patience is None:
            return resume_command(self.folder)
        return f"{self.again} --epochs {2 * num_epochs}"

    @property
    def quoted_folder(self) -> str:
        """As a command names it."""
        return shlex.quote(str(self.folder))

    @property
    def quoted_train(self) -> str:
        """The training list as a command names it."""
        return shlex.quote(self.settings.data.train)

    @property
    def quoted_valid(self) -> str:
        """The validation list as a command names it."""
        return shlex.quote(self.settings.data.valid)

    def at_rate(self, factor: float, *, digits: int = 3) -> str:
        """Return the command that repeats the run at so many times its rate."""
        lr, schedule = self.settings.optimizer.lr or 0.0, self.settings.scheduler.call
        return f"{self.again} {rate_flag(lr, schedule, factor=factor, digits=digits)}"

    def with_groups(self, *lines: str) -> str:
        """Return the command that repeats the run with more parameter groups; "" where the
        optimizer takes none, or OneCycleLR's max_lr does not go with them.
        """
        if (self.settings.optimizer.call or "").startswith("LBFGS"):
            return ""
        # A list has one rate a group; a number is the rate of all.
        if (cycle := one_cycle(self.settings.scheduler.call)) is not None:
            has_rates = isinstance(cycle["max_lr"], list | tuple)
            if has_rates or any("lr=" in line for line in lines):
                return ""
        # A flag replaces the lines of --config: the run's own come first, and later ones win.
        return self._with_lines("--group", (*self.settings.optimizer.groups, *lines))

    def with_inits(self, *lines: str) -> str:
        """Return the command that repeats the run with more initial weights."""
        return self._with_lines("--init", (*self.settings.model.init, *lines))

    def _with_lines(self, flag: str, lines: Sequence[str]) -> str:
        return " ".join([self.again, *(f"{flag} {shlex.quote(line)}" for line in lines)])

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

    def samples(self, name: str, what: str) -> Floats:
        """Return norms of a weight at every sample: "weight" of the whole run, "gradient" and
        "update" since the epoch in which it began to train.
        """
        epochs = self.epochs if what == "weight" else self._trained_in(name)
        return floats([v for e in epochs for v in e["weights"].get(name, {}).get(what, [])])

    def updates(self, name: str) -> Floats:
        """Return ‖Δw‖/‖w‖ of a weight at the samples at the peak of the rate."""
        update, weight = self.samples(name, "update"), self.samples(name, "weight")
        is_at_peak = self._rates(self._trained_in(name)) >= _PEAK * self._largest_rate
        if len(update) != len(is_at_peak) or len(weight) < len(update):
            return np.zeros(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (update / weight[len(weight) - len(update) :])[is_at_peak]
        return ratios[np.isfinite(ratios)]

    def median_update(self, name: str) -> float:
        """Return the median of `updates`, NaN without any."""
        found = self.updates(name)
        return float(np.median(found)) if len(found) else float("nan")

    @cached_property
    def _largest_rate(self) -> float:
        """Of all samples."""
        return float(self._rates(self.epochs).max(initial=0))

    def _rates(self, epochs: Sequence[Mapping[str, Any]]) -> Floats:
        """Return the rates at the samples of some epochs."""
        parts = [np.asarray(e["lr"], float)[np.asarray(e["sampled"], int) - 1] for e in epochs]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _trained_in(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return the epochs in which a weight was trained: it may have waited for its own."""
        # Runs of an earlier version do not say.
        first = self.start.get("weights", {}).get(name, {}).get("from_epoch", 1)
        return [epoch for epoch in self.epochs if epoch["epoch"] >= first]

    def _steps(self, key: str) -> Floats:
        return floats([value for epoch in self.epochs for value in epoch[key]])


def read_records(folder: Path) -> Recorded:
    """Read a run folder.

    Raises:
        DataError: not a run folder, or one of its files is damaged.
        StorageError: a file that cannot be read. UsageError: settings that cannot be read.
    """
    if (why := why_no_run(folder)) is not None:
        raise DataError(why)
    settings = resolve(read_toml(folder / "config.toml"))
    lines = read_layers(folder)
    by_kind = {kind: [x for x in lines if x.get("kind") == kind] for kind in ("start", "epoch")}
    diverged = [line for line in lines if line.get("kind") == "diverged"]
    metrics, outputs = _columns(read_metrics(folder)), read_outputs(folder)
    try:
        start = by_kind["start"][0] if by_kind["start"] else {}
        _check_keys(start, by_kind["epoch"])
        return Recorded(
            folder,
            settings,
            _class_names(start),
            metrics,
            start,
            by_kind["epoch"],
            diverged[-1] if diverged else None,
            outputs,
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{folder / LAYERS} is damaged: {error!r}") from error


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


def _check_keys(start: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> None:
    """Ask lines of layers.jsonl for what rules read; a KeyError or a TypeError tells what there is
    not.
    """
    lines = [(start, _OF_START)] if start else []
    for line, keys in (*lines, *((epoch, _OF_EPOCH) for epoch in epochs)):
        for key in keys:
            line[key]
    for about in start.get("weights", {}).values():
        for key in _OF_WEIGHT:
            about[key]


def _columns(rows: Sequence[Row]) -> dict[str, Floats]:
    """Return rows of metrics.csv as columns, NaN where there is no value."""
    names = rows[0] if rows else {}
    return {name: floats([row[name] for row in rows]) for name in names}


def _class_names(start: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that a run recorded; numbers of one of an earlier version."""
    count = int(start.get("num_classes", 0))
    names = tuple(map(str, start.get("class_names", ())))
    return names if len(names) == count else tuple(map(str, range(count)))
