"""The folder of a run: everything that a run writes while it trains."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.config.layers import to_toml
from ptkit.core.config.settings import LogSettings, Settings
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.device import when_copied
from ptkit.core.errors import DivergedError
from ptkit.core.files import write_atomically, write_csv
from ptkit.core.models.checkpoints import copy_contents, read_checkpoint, rebuild, save_checkpoint
from ptkit.core.models.weight_statistics import as_text, weight_statistics
from ptkit.core.ranks import here
from ptkit.core.run_files import METRICS_FILE, Row
from ptkit.core.training.distributions import DistributionLog
from ptkit.core.training.events import Events
from ptkit.core.training.holding import Hold
from ptkit.core.training.kernel_film import KernelFilm
from ptkit.core.training.layer_log import open_layer_log
from ptkit.core.training.loop import BEGINNING, Position
from ptkit.core.training.observers import EpochResult, Item, Recorder
from ptkit.core.training.probe.report import ProbeReport
from ptkit.core.training.profiling import Profile
from ptkit.core.training.setup import Setup
from ptkit.core.training.states import checkpoint_of, last_checkpoint
from ptkit.core.training.tasks.task import METRICS, Task
from ptkit.core.training.wandb_events import WandbEvents
from ptkit.core.training.writer import Writer
from ptkit.core.wording import trained_on_note

# The newest state to resume from, and the one before it.
CHECKPOINT, LAST, PREVIOUS = "ckpt.pkl", "last.pkl", "previous.pkl"

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")


@dataclass
class History:
    """task: how the outputs of the best weights are read.

    best: epoch, loss and metrics of the best epoch. best_saved: the epoch whose weights are on disk
    as the best, if any are. start: where this process goes on. saved: where the state to resume
    from is, None before there is one. probe: what a probe found out, and
    valid_features: what it made of the validation images.
    """

    task: Task
    rows: list[Row] = field(default_factory=list)
    best: dict[str, float] | None = None
    best_saved: int | None = None
    epochs_without_better: int = 0
    start: Position = BEGINNING
    saved: Position | None = None
    probe: ProbeReport | None = None
    valid_features: torch.Tensor | None = None

    def add(self, result: EpochResult, *, metric: str) -> bool:
        """Add an epoch and return whether it is the best so far, by `metric`."""
        self.rows.append(_row_of(result))
        found = {"epoch": result.epoch, "loss": result.valid_loss, **result.valid}
        is_best = self.best is None or self._score(found, metric) > self._score(self.best, metric)
        if is_best:
            self.best = found
        self.epochs_without_better = 0 if is_best else self.epochs_without_better + 1
        return is_best

    def _score(self, found: Mapping[str, float], metric: str) -> tuple[float, float]:
        """Return what decides between epochs: the metric, then the loss; the earlier wins a tie.

        By loss, the main metric of the task settles a tie.
        """
        modes = METRICS[self.task.kind]
        name = next(iter(modes)) if metric == "loss" else metric
        value = found[name] if modes[name] == "max" else -found[name]
        return (-found["loss"], value) if metric == "loss" else (value, -found["loss"])


@dataclass(frozen=True)
class Run(Setup):
    """A run under way: what it is made of, its folder, and what its epochs have led to.

    No other code writes into the folder while it trains; of an epoch, the writer's thread does.
    Of several ranks only the first one writes.
    """

    hold: Hold
    recorders: tuple[Recorder, ...]
    history: History
    writer: Writer = field(default_factory=Writer)
    on_show: Callable[[], None] = lambda: None

    @property
    def folder(self) -> Path:
        return self.hold.folder

    @property
    def makes_steps(self) -> bool:
        """Whether it has states between its epochs; a probe is fitted in one piece."""
        return self.settings.train.method != "probe"

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint."""
        return self.folder / CHECKPOINT

    @property
    def task(self) -> Task:
        """How the outputs of the best weights are read."""
        return self.history.task

    @property
    def rows(self) -> list[Row]:
        return self.history.rows

    @property
    def num_epochs(self) -> int:
        """How many epochs are done; rows of earlier ones may be lost."""
        return int(self.rows[-1]["epoch"]) if self.rows else self.history.start.epochs

    @property
    def best(self) -> dict[str, float] | None:
        """Epoch, loss and metrics of the best epoch."""
        return self.history.best

    @contextlib.contextmanager
    def of_one_rank(self) -> Iterator["Run"]:
        """Yield the run with whole batches: those of several ranks have parts of them."""
        if here().is_alone:
            yield self
            return
        with contextlib.closing(self.data.of_one_rank()) as data:
            training = replace(self.training, train=data.train, valid=data.valid)
            if training.is_sharded:
                whole, _ = rebuild(read_checkpoint(self.checkpoint), model=self.model.call)
                training = replace(training, model=whole.to(data.train.device), replica=None)
            yield replace(self, data=data, training=training)

    def show(self, item: Item, step: int) -> None:
        """Hand an item to every recorder; step is its epoch."""
        self.on_show()
        for recorder in self.recorders:
            recorder.show(item, step)

    def record(self, result: EpochResult, *, is_best: bool, is_due: bool) -> None:
        """Copy one epoch, and begin to write it; the model has its evaluated weights.

        is_due: whether the state to resume from is written too. `writer.wait` returns when all is
        on disk.

        Raises:
            StorageError: the disk refused the epoch before.
        """
        # First, so that there is one copy in memory and not two.
        self.writer.wait()
        contents: dict[str, Any] = {}
        position = Position(result.epoch) if is_due else None
        if here().is_main or self.training.is_sharded:
            if is_best:
                contents["best"] = checkpoint_of(self, task=self.task, kind="best")
            if position is not None:
                contents["last"] = last_checkpoint(self, position)
        if not here().is_main:
            self.history.saved = position or self.history.saved
            return
        # Together: most tensors are in both.
        copies, rows = copy_contents(contents), tuple(self.rows)
        result = replace(result, is_best=is_best)
        writes = [recorder.epoch(result, self.training.model) for recorder in self.recorders]
        arrived = when_copied(self.training.train.device)

        def write() -> None:
            arrived()
            self.hold.check()
            # The log first: resuming cuts it back to the saved epoch, but could not fill a gap.
            _write_metrics(self.folder / METRICS_FILE, rows)
            if is_best:
                save_checkpoint(self.checkpoint, copies["best"])
                self.history.best_saved = result.epoch
            # Before the state to resume from, which cuts the events back: after it, a kill in
            # between would leave a gap.
            for write_events in writes:
                write_events()
            if position is not None:
                self._write_state(copies["last"], position)

        self.writer.begin(write)

    def write_divergence(self, error: DivergedError) -> None:
        """Record, after what is under way, that the loss was not finite any more."""
        self.writer.wait()
        for recorder in self.recorders:
            recorder.diverged(error)

    def save(self, position: Position) -> None:
        """Copy the state at an optimizer step, and begin to write it.

        Raises:
            StorageError: the disk refused what was written before.
        """
        self.writer.wait()
        if not here().is_main and not self.training.is_sharded:
            self.history.saved = position
            return
        with self.training.evaluated_weights():
            contents = last_checkpoint(self, position)
        if not here().is_main:
            self.history.saved = position
            return
        state = copy_contents(contents)
        arrived = when_copied(self.training.train.device)

        def write() -> None:
            arrived()
            self.hold.check()
            self._write_state(state, position)

        self.writer.begin(write)

    def _write_state(self, state: dict[str, Any], position: Position) -> None:
        """Write last.pkl, in the writer's thread; the state before it is kept as previous.pkl."""
        lengths = {name: n for recorder in self.recorders for name, n in recorder.lengths().items()}
        state["train"]["logs"] = lengths
        save_checkpoint(self.folder / LAST, state, previous=self.folder / PREVIOUS)
        self.history.saved = position

    def seen_before(self) -> str | None:
        """Return a warning of validation images that only the first weights were trained on, if
        any; those of the own training list were known, and allowed.

        After a validation, which has read the files.
        """
        earlier, valid = self.data.earlier_images, self.training.valid
        if earlier is None:
            return None
        # A resumed run finds its own images among the earlier ones.
        before = np.setdiff1d(earlier, self.training.train.image_hashes())
        count = int(np.isin(valid.image_hashes(), before).sum())
        if not count:
            return None
        return (
            f"{trained_on_note(count, len(valid.images))} before, by the weights that this run"
            " started from: its validation accuracy is inflated"
        )

    def write_probe(self, report: ProbeReport, valid_features: torch.Tensor) -> None:
        """Remember what a probe found out, and write it to probe.json."""
        self.history.probe, self.history.valid_features = report, valid_features
        if not here().is_main:
            return
        text = json.dumps(report.as_dict(), indent=2) + "\n"
        write_atomically(self.folder / "probe.json", text.encode())

    def write_profile(self, profile: Profile) -> None:
        """Write profile.json."""
        text = json.dumps(profile.as_dict(), indent=2) + "\n"
        write_atomically(self.folder / "profile.json", text.encode())


def first_image(setup: Setup) -> torch.Tensor:
    """Return a validation image as the model gets it, (1, C, H, W).

    Raises:
        DataError: it cannot be read.
    """
    return next(iter(setup.training.valid.epoch())).images[:1]


def new_run(setup: Setup, hold: Hold, example: torch.Tensor) -> Run:
    """Write the settings of a run into its folder, and the beginning of its recordings.

    example: see `first_image`.

    Raises:
        StorageError: the disk refused.
    """
    if not here().is_main:
        return Run(
            **vars(setup), hold=hold, recorders=(), history=History(setup.training.loss.task)
        )
    folder, hold.is_unfinished = hold.folder, True
    toml = write_config(folder, setup.settings)
    if setup.data.skipped:
        text = "".join(f"{reason}\n" for reason in setup.data.skipped)
        # Paths in it may hold bytes that are not UTF-8.
        write_atomically(folder / "skipped.txt", text.encode(errors="surrogateescape"))
    # Nothing of an earlier beginning is kept.
    recorders = (
        *open_layer_log(folder, setup),
        *open_recorders(folder, setup.settings.log, lengths={}),
    )
    seen = denormalise(example[0], setup.data.settings.mean, setup.data.settings.std)
    texts = {
        "config": toml,
        "data": "\n".join((*setup.data.notes, *setup.model.notes)),
    }
    if not setup.training.is_sharded:
        texts["weights before training"] = as_text(weight_statistics(setup.training.model))
    for recorder in recorders:
        recorder.start(setup.training.model, example, texts, seen)
    return Run(
        **vars(setup),
        hold=hold,
        recorders=recorders,
        history=History(setup.training.loss.task),
    )


def sweep(folder: Path) -> None:
    """Remove what a killed process had not finished writing: what write_atomically names so."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if _UNFINISHED.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)


def write_config(folder: Path, settings: Settings) -> str:
    """Write config.toml and return its text."""
    toml = to_toml(settings, folder=folder)
    write_atomically(folder / "config.toml", toml.encode())
    return toml


def open_recorders(
    run: Path,
    settings: LogSettings,
    *,
    up_to_epoch: int | None = None,
    lengths: Mapping[str, int] | None = None,
) -> tuple[Recorder, ...]:
    """Return the recorders of a run: the film of its kernels, TensorBoard, Weights & Biases.

    up_to_epoch: the last epoch that a resumed run keeps, None for a new run. lengths: of its logs
    there, where they are known.

    Raises:
        StorageError: the disk refused.
        UsageError: Weights & Biases refused.
    """
    recorders: list[Recorder] = []
    if settings.pictures:
        recorders.append(KernelFilm(run, up_to_epoch=up_to_epoch))
        recorders.append(DistributionLog(run, up_to_epoch=up_to_epoch))
    if settings.tensorboard:
        recorders.append(Events(run, settings, up_to_epoch=up_to_epoch, lengths=lengths))
    if settings.wandb:
        recorders.append(WandbEvents(run, settings))
    return tuple(recorders)


def _write_metrics(file: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv whole, with the columns of the first row."""
    # All of it each time: appending could leave half a line when the run is killed.
    columns = list(rows[0])
    cells = (
        ["" if row[c] is None else row[c] if c == "epoch" else f"{row[c]:.6g}" for c in columns]
        for row in rows
    )
    write_csv(file, columns, cells)


def _row_of(result: EpochResult) -> Row:
    """Return the row of metrics.csv for one epoch; the rate is the largest of the groups."""
    return {
        "epoch": result.epoch,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "valid_loss": result.valid_loss,
        # Every task has this column, in this place; only some fill it.
        "valid_accuracy": None,
        **{f"valid_{name}": value for name, value in result.valid.items()},
        "lr": max(result.lrs.values()),
        "seconds": result.seconds,
        "images_per_s": result.images_per_s,
    }
