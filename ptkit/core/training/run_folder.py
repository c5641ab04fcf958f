"""The folder of a run: everything that a run writes, and opening it again to resume."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.config import Settings
from ptkit.core.config_layers import to_toml
from ptkit.core.data.transforms.pipeline import denormalise
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder, write_atomically, write_csv
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.weight_statistics import as_text, weight_statistics
from ptkit.core.training.history import History, Row
from ptkit.core.training.loop import EpochResult
from ptkit.core.training.observers import Item, Recorder
from ptkit.core.training.profiling import Profile
from ptkit.core.training.recorders import open_recorders
from ptkit.core.training.saved_state import (
    SavedState,
    checkpoint_of,
    last_checkpoint,
    restore,
)
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.task import Task, read_task


@dataclass(frozen=True)
class RunFolder:
    """Writes all that a run leaves behind; no other code writes into the folder while it trains."""

    path: Path
    recorders: tuple[Recorder, ...]

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint."""
        return self.path / "ckpt.pkl"

    def show(self, item: Item, step: int) -> None:
        """Hand an item to every recorder; step is its epoch."""
        for recorder in self.recorders:
            recorder.show(item, step)

    def record(self, run: "Run", result: EpochResult, *, is_best: bool) -> None:
        """Write one epoch; the model has its evaluated weights.

        Raises:
            StorageError: the disk refused.
        """
        # The log first: resuming cuts it back to the saved epoch, but could not fill a gap.
        _write_metrics(self.path / "metrics.csv", run.rows)
        if is_best:
            save_checkpoint(
                self.checkpoint, checkpoint_of(run, run.history, task=run.task, kind="best")
            )
        # Before the state to resume from, which cuts the events back: after it, a kill in between
        # would leave a gap.
        for recorder in self.recorders:
            recorder.epoch(result, run.training.model)
        train = run.settings.train
        if result.epoch % train.save_every == 0 or result.epoch == train.epochs:
            save_checkpoint(self.path / "last.pkl", last_checkpoint(run, run.history))
            run.history.saved_epoch = result.epoch

    def link_from(self, link: Path) -> str | None:
        """Make `link` a relative symlink to the best checkpoint; return why not if that fails.

        The new link is renamed over the old one, and nothing is ever written through it.
        """
        if link.exists() and not link.is_symlink():
            return (
                f"{link} is a regular file and was left alone; the checkpoint is {self.checkpoint}"
            )
        target = os.path.relpath(self.checkpoint, link.parent)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        try:
            os.symlink(target, temporary)
            os.replace(temporary, link)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            return (
                f"{link} cannot be linked here ({error.strerror}); the checkpoint is"
                f" {self.checkpoint}"
            )
        return None

    def write_profile(self, profile: Profile) -> None:
        """Write profile.json."""
        text = json.dumps(profile.as_dict(), indent=2) + "\n"
        write_atomically(self.path / "profile.json", text.encode())

    def close(self) -> None:
        """End the recordings."""
        for recorder in self.recorders:
            recorder.close()


@dataclass(frozen=True)
class Run(Setup):
    """A run under way: what it is made of, its folder, and what its epochs have led to."""

    files: RunFolder
    history: History

    @property
    def folder(self) -> Path:
        return self.files.path

    @property
    def checkpoint(self) -> Path:
        return self.files.checkpoint

    @property
    def task(self) -> Task:
        """How the outputs of the best weights are read."""
        return self.history.task

    @property
    def rows(self) -> list[Row]:
        return self.history.rows

    @property
    def best(self) -> dict[str, float] | None:
        """Epoch, loss and metrics of the best epoch."""
        return self.history.best

    def show(self, item: Item, step: int) -> None:
        """Hand an item to every recorder; step is its epoch."""
        self.files.show(item, step)


def new_run(setup: Setup, *, parent: Path, name: str | None) -> Run:
    """Make the folder of a run, with its settings and the beginning of its recordings.

    name: of the folder; None for the next free number.

    Raises:
        DataError: an image that cannot be read.
        UsageError: the folder exists already, or the name is a path.
        StorageError: the disk refused.
    """
    # Before the folder is made: an unreadable image must not leave an empty one.
    example = next(iter(setup.training.valid.epoch())).images[:1]
    folder = _new_folder(parent, name)
    toml = _write_config(folder, setup.settings)
    if setup.data.skipped:
        text = "".join(f"{reason}\n" for reason in setup.data.skipped)
        write_atomically(folder / "skipped.txt", text.encode(errors="surrogateescape"))
    files = RunFolder(folder, open_recorders(folder, setup.settings.log))
    seen = denormalise(example[0], setup.data.settings.mean, setup.data.settings.std)
    texts = {
        "config": toml,
        "data": "\n".join((*setup.data.notes, *setup.model.notes)),
        "weights before training": as_text(weight_statistics(setup.training.model)),
    }
    for recorder in files.recorders:
        recorder.start(setup.training.model, example, texts, seen)
    return _run(setup, files, History(setup.training.loss.task))


def resumed_run(setup: Setup, saved: SavedState) -> tuple[Run, str]:
    """Put a saved state into a fresh setup, in place; return the run, and how exactly it continues.

    Raises:
        DataError, UsageError, CheckpointError: see `restore`.
        StorageError: the disk refused.
    """
    how_exact = restore(saved, setup)
    folder, train = saved.folder, saved.checkpoint["train"]
    history = History(
        task=read_task(read_checkpoint(folder / "ckpt.pkl")["task"]),
        rows=_read_metrics(folder / "metrics.csv", up_to_epoch=saved.epoch),
        best=dict(train["best"]),
        epochs_without_better=train["epochs_without_better"],
        saved_epoch=saved.epoch,
    )
    _write_config(folder, setup.settings)
    recorders = open_recorders(folder, setup.settings.log, up_to_epoch=saved.epoch)
    return _run(setup, RunFolder(folder, recorders), history), how_exact


def _run(setup: Setup, files: RunFolder, history: History) -> Run:
    return Run(
        setup.settings, setup.data, setup.model, setup.training, setup.metric, files, history
    )


def _write_config(folder: Path, settings: Settings) -> str:
    toml = to_toml(settings, folder=folder)
    write_atomically(folder / "config.toml", toml.encode())
    return toml


def _new_folder(parent: Path, name: str | None) -> Path:
    """Make and return parent/name; without a name the next free number."""
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UsageError(
            f"--name must be a plain folder name, found {name!r}; --out says where runs go"
        )
    make_folder(parent)
    if name is not None:
        if (parent / name).exists():
            raise UsageError(
                f"the run {parent / name} exists: choose another --name, or --resume"
                f" {parent / name}"
            )
        return make_folder(parent / name)
    numbers = [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
    number = max(numbers, default=0) + 1
    while True:
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # another run took it at this moment
            number += 1
        except OSError as error:
            raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
        else:
            return folder


def _write_metrics(file: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv whole, with the columns of the first row."""
    columns = list(rows[0])
    cells = (
        ["" if row[c] is None else row[c] if c == "epoch" else f"{row[c]:.6g}" for c in columns]
        for row in rows
    )
    write_csv(file, columns, cells)


def _read_metrics(file: Path, *, up_to_epoch: int) -> list[Row]:
    """Return the rows of metrics.csv up to an epoch; none where there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(lines)
        ]
    done: list[Row] = [row | {"epoch": int(row["epoch"] or 0)} for row in rows]
    return [row for row in done if row["epoch"] <= up_to_epoch]
