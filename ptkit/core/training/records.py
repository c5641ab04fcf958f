"""What a run leaves behind: the run folder, metrics.csv, TensorBoard events. The one user of tensorboardX."""

import contextlib
import csv
import dataclasses
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ptkit.core.config import LogSettings
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder, write_atomically

if TYPE_CHECKING:
    # viz-weights writes events too and must not wait for what the loop imports.
    from ptkit.core.training.loop import EpochResult

# Column to value; train_accuracy is None where MixUp or CutMix leave no single right answer.
Row = dict[str, Any]

COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "lr",
    "seconds",
    "images_per_s",
)


def new_run_folder(parent: Path, name: str | None) -> Path:
    """Make and return parent/name; without a name the next free number.

    Raises:
        UsageError: the folder exists already, or the name is a path.
        StorageError: the disk refused.
    """
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UsageError(f"--name must be a plain folder name, found {name!r}; --out says where runs go")
    make_folder(parent)
    if name is not None:
        if (parent / name).exists():
            raise UsageError(f"the run {parent / name} exists: choose another --name, or --resume {parent / name}")
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


def row_of(result: "EpochResult") -> Row:
    """Return the row of metrics.csv for one epoch."""
    row = dataclasses.asdict(result) | {"lr": result.lrs[0]}
    return {column: row[column] for column in COLUMNS}


def write_metrics(file: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv whole: a resumed run cuts it back to the epochs that it goes on from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["" if row[c] is None else row[c] if c == "epoch" else f"{row[c]:.6g}" for c in COLUMNS])
    write_atomically(file, text.getvalue().encode())


def read_metrics(file: Path, *, up_to_epoch: int) -> list[Row]:
    """Return the rows of metrics.csv up to an epoch; none where there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(lines)]
    done: list[Row] = [row | {"epoch": int(row["epoch"] or 0)} for row in rows]
    return [row for row in done if row["epoch"] <= up_to_epoch]


def link_checkpoint(checkpoint: Path, link: Path) -> str | None:
    """Let `link` point at `checkpoint` by a relative symlink; return why not where a regular file has that name.

    The new link is renamed over the old one, and nothing is ever written through it.
    """
    if link.exists() and not link.is_symlink():
        return f"{link} is a file of its own and was left alone; the checkpoint is {checkpoint}"
    target = os.path.relpath(checkpoint, link.parent)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        return f"{link} cannot be linked here ({error.strerror}); the checkpoint is {checkpoint}"
    return None


class NoEvents:
    """Stands where TensorBoard is switched off."""

    def start(self, model: nn.Module, example: torch.Tensor, texts: Mapping[str, str]) -> None: ...
    def epoch(self, result: "EpochResult", model: nn.Module, group_names: Sequence[str]) -> None: ...
    def figure(self, tag: str, figure: Any, step: int) -> None: ...
    def close(self) -> None: ...


class Events(NoEvents):
    """TensorBoard events of one run."""

    def __init__(self, folder: Path, settings: LogSettings) -> None:
        self.settings = settings
        self._writer = _writer(folder, filename_suffix=settings.filename_suffix)

    def start(self, model: nn.Module, example: torch.Tensor, texts: Mapping[str, str]) -> None:
        """Write the texts and the model's graph, traced on one example."""
        for tag, text in texts.items():
            self._writer.add_text(tag, f"    {text.replace(chr(10), chr(10) + '    ')}")
        if self.settings.graph:
            _add_graph(self._writer, model, example)

    def epoch(self, result: "EpochResult", model: nn.Module, group_names: Sequence[str]) -> None:
        """Write one epoch: common charts for training and validation, rates, histograms."""
        step = result.epoch
        self._writer.add_scalars("loss", {"train": result.train_loss, "valid": result.valid_loss}, step)
        accuracies = {"train": result.train_accuracy, "valid": result.valid_accuracy}
        self._writer.add_scalars("accuracy", {k: v for k, v in accuracies.items() if v is not None}, step)
        for number, (name, lr) in enumerate(zip(group_names, result.lrs, strict=True)):
            self._writer.add_scalar(f"learning_rate/{number} {name}", lr, step)
        self._writer.add_scalar("images_per_s", result.images_per_s, step)
        if self.settings.histograms:
            self._histograms(model, step)
        self._writer.flush()

    def figure(self, tag: str, figure: Any, step: int) -> None:
        self._writer.add_figure(tag, figure, step, close=False)

    def close(self) -> None:
        self._writer.close()

    def _histograms(self, model: nn.Module, step: int) -> None:
        for name, parameter in model.named_parameters():
            self._writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu().numpy(), step)
            if parameter.grad is not None:
                gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                self._writer.add_histogram(f"gradients/{name}", gradient.float().cpu().numpy(), step)


def open_events(run: Path, settings: LogSettings) -> NoEvents:
    """Return the writer of a run's events, or one that writes nothing where they are switched off."""
    if not settings.tensorboard:
        return NoEvents()
    return Events(run / f"tensorboard{settings.comment}", settings)


def write_images(folder: Path, images: Mapping[str, npt.NDArray[np.uint8]], step: int = 0) -> None:
    """Write pictures, uint8 (H, W, 3), as TensorBoard images into an event file of `folder`.

    Raises:
        StorageError: the disk refused.
    """
    writer = _writer(folder)
    for tag, image in images.items():
        writer.add_image(tag, image, step, dataformats="HWC")
    writer.close()


def _writer(folder: Path, **arguments: Any) -> Any:
    from tensorboardX import SummaryWriter

    try:
        return SummaryWriter(str(folder), **arguments)
    except OSError as error:
        raise StorageError(f"cannot write TensorBoard events into {folder}: {error.strerror}") from error


def _add_graph(writer: Any, model: nn.Module, example: torch.Tensor) -> None:
    was_training = model.training
    model.eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The tracer warns about every shape that a model looks at, and prints where it fails.
        warnings.simplefilter("ignore")
        try:
            writer.add_graph(model, example)
        except Exception:  # a model that cannot be traced still trains; its graph is left out
            writer.add_text("graph", "this model cannot be traced, so there is no graph of it")
    model.train(was_training)
