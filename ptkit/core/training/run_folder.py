"""What a run leaves behind: the run folder, metrics.csv, the link to its checkpoint."""

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ptkit import __version__
from ptkit.core.config import Settings
from ptkit.core.config_layers import to_layer
from ptkit.core.errors import CheckpointError, DataError, StorageError, UsageError
from ptkit.core.files import make_folder, write_csv
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.transfer import load_state_dict
from ptkit.core.training.loop import Training
from ptkit.core.training.setup import Row, Run
from ptkit.core.training.tasks.task import Task

if TYPE_CHECKING:
    from ptkit.core.training.loop import EpochResult


def new_run_folder(parent: Path, name: str | None) -> Path:
    """Make and return parent/name; without a name the next free number.

    Raises:
        UsageError: the folder exists already, or the name is a path.
        StorageError: the disk refused.
    """
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


def row_of(result: "EpochResult") -> Row:
    """Return the row of metrics.csv for one epoch; the rate is that of the first group."""
    return {
        "epoch": result.epoch,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "valid_loss": result.valid_loss,
        "valid_accuracy": None,
        **{f"valid_{name}": value for name, value in result.valid.items()},
        "lr": next(iter(result.lrs.values())),
        "seconds": result.seconds,
        "images_per_s": result.images_per_s,
    }


def write_metrics(file: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv whole, with the columns of the first row: a resumed run cuts it back to
    where it goes on.
    """
    columns = list(rows[0])
    cells = (
        ["" if row[c] is None else row[c] if c == "epoch" else f"{row[c]:.6g}" for c in columns]
        for row in rows
    )
    write_csv(file, columns, cells)


def read_metrics(file: Path, *, up_to_epoch: int) -> list[Row]:
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


def link_checkpoint(checkpoint: Path, link: Path) -> str | None:
    """Let `link` point at `checkpoint` by a relative symlink; return why not where a regular file
    has that name.

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


def checkpoint_of(run: Run, task: Task, *, kind: str) -> dict[str, Any]:
    """Return the contents of ckpt.pkl: the weights that are evaluated now, and all that is needed
    to use them.

    task: of these weights. kind: "best" or "last".
    """
    training, data, settings = run.training, run.data, run.settings
    pipeline = training.valid.pipeline
    return {
        "kind": kind,
        "model": {"call": run.model.call, "num_classes": run.model.num_outputs},
        "classes": list(data.class_names),
        "task": task.as_dict(),
        "pipeline": {
            "calls": list(pipeline.calls),
            "tensors": pipeline.tensors,
            "size": data.size,
            "mean": list(data.settings.mean),
            "std": list(data.settings.std),
        },
        "state_dict": training.model.state_dict(),
        "metrics": {**run.rows[-1], "best": dict(run.best or {})},
        "data": {
            "seed": settings.train.seed,
            "list_sha256": training.train.images.sha256,
            "valid_sha256": training.valid.images.sha256,
            "num_images": len(training.train.images),
        },
        "env": environment(run),
        "config": to_layer(settings),
    }


def last_checkpoint(run: Run) -> dict[str, Any]:
    """Return the contents of last.pkl: the same after the last epoch, and what training needs to go
    on.
    """
    training = run.training
    # An embedding's places of the classes belong to the best weights.
    contents = checkpoint_of(run, training.loss.task, kind="last")
    raw: dict[str, Any] = {}
    if training.average is not None:
        # While the average stands in the model, the weights that the optimizer steps stand in its
        # place.
        state = training.average.state_dict()
        raw = {
            "raw_state_dict": contents["state_dict"] | state["averages"],
            "num_averaged": state["num_updates"],
        }
    return contents | {
        "train": {
            **raw,
            "epoch": int(run.rows[-1]["epoch"]),
            "step": training.schedule.num_steps,
            "optimizer": training.optimizer.state_dict(),
            "scheduler": training.schedule.state_dict(),
            "best": dict(run.best or {}),
            "epochs_without_better": run.epochs_without_better,
        },
    }


def environment(run: Run) -> dict[str, Any]:
    """Return what the numbers of a run depend on beside its settings."""
    import cv2
    import torchvision

    return {
        "ptkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "opencv": str(cv2.__version__),
        "device": run.training.train.device.type,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if run.settings.train.channels_last else "contiguous",
    }


# What may differ from the run that is resumed; anything else would make it another run.
# Paths may, because what they name is compared by content; the weights that a run started from are
# not read again.
_MAY_CHANGE = {"train.epochs", "train.device", "train.save_every", "train.patience", "data.workers", "data.cache",
               "data.train", "data.valid", "data.classes", "model.weights", "train.profile"}  # fmt: skip
_EXACT_KEYS = ("torch", "torchvision", "opencv", "device", "processor", "threads", "memory_format")


@dataclass(frozen=True)
class SavedState:
    """The last saved state of a run folder."""

    folder: Path
    checkpoint: dict[str, Any]

    @property
    def epoch(self) -> int:
        return self.checkpoint["train"]["epoch"]

    @property
    def best(self) -> dict[str, float]:
        return self.checkpoint["train"]["best"]


def read_saved_state(folder: Path) -> SavedState:
    """Return what last.pkl of a run folder holds.

    Raises:
        UsageError: not a run folder, or nothing was saved yet.
        CheckpointError: last.pkl is damaged.
    """
    if not (folder / "config.toml").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.toml")
    if not (folder / "last.pkl").is_file():
        raise UsageError(
            f"{folder} cannot be resumed: no epoch was finished, so it has no last.pkl"
        )
    checkpoint = read_checkpoint(folder / "last.pkl")
    if "train" not in checkpoint:
        raise CheckpointError(f"{folder / 'last.pkl'} holds no training state")
    return SavedState(folder, checkpoint)


def check_same_run(saved: Mapping[str, Mapping[str, Any]], settings: Settings) -> None:
    """Refuse settings that would make another run of it.

    Raises:
        UsageError: they differ; the message has each difference.
    """
    # A run of an earlier version lacks the settings that came later: it ran with their defaults.
    before = {
        section: {**values, **saved.get(section, {})}
        for section, values in to_layer(Settings()).items()
    }
    differences = [
        f"{section}.{key} is {_shown(value)}, was {_shown(before[section][key])}"
        for section, values in to_layer(settings).items()
        for key, value in values.items()
        if section != "log" and f"{section}.{key}" not in _MAY_CHANGE
        if _shown(value) != _shown(before[section][key])
    ]
    if differences:
        raise UsageError(f"--resume goes on with the same run, but {'; '.join(differences)}")


def restore(saved: SavedState, run: Run) -> str:
    """Put a saved state into a freshly prepared run, in place; return how exactly it goes on.

    Raises:
        DataError: the training list is another one.
        UsageError: other settings, or no epoch left.
        CheckpointError: the state does not fit the model.
    """
    checkpoint, training = saved.checkpoint, run.training
    _check_same_data(saved, run)
    check_same_run(checkpoint["config"], run.settings)
    if saved.epoch >= training.settings.epochs:
        raise UsageError(
            f"{saved.folder} is done ({saved.epoch} epochs): ask for more with --epochs"
        )
    is_longer = training.settings.epochs != checkpoint["config"]["train"]["epochs"]
    try:
        training.prepared.unfreeze(saved.epoch)
        _restore_weights(checkpoint, training)
        training.optimizer.load_state_dict(checkpoint["train"]["optimizer"])
        if is_longer:
            training.schedule.go_on_from(checkpoint["train"]["scheduler"], epochs_done=saved.epoch)
        else:
            training.schedule.load_state_dict(checkpoint["train"]["scheduler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{saved.folder / 'last.pkl'} does not fit: {' '.join(str(error).split())}"
        ) from error
    here, there = environment(run), checkpoint.get("env", {})
    changed = [key for key in _EXACT_KEYS if here[key] != there.get(key)]
    if is_longer:
        changed.append("epochs, and so the schedule")
    return (
        f"same samples and augmentations; changed: {', '.join(changed)}" if changed else "bit-exact"
    )


def _restore_weights(checkpoint: Mapping[str, Any], training: Training) -> None:
    """Give the model the weights that the optimizer steps, and the average those that were
    evaluated.
    """
    evaluated, state = checkpoint["state_dict"], checkpoint["train"]
    load_state_dict(training.model, state.get("raw_state_dict", evaluated))
    if training.average is not None:
        names = training.average.state_dict()["averages"]
        averages = {name: evaluated[name] for name in names}
        training.average.load_state_dict(
            {"num_updates": state["num_averaged"], "averages": averages}
        )


def _check_same_data(saved: SavedState, run: Run) -> None:
    data = saved.checkpoint["data"]
    for images, key in (
        (run.training.train.images, "list_sha256"),
        (run.training.valid.images, "valid_sha256"),
    ):
        if data[key] != images.sha256:
            raise DataError(f"{images.file} is not the list that {saved.folder} was trained with")
    if saved.checkpoint["classes"] != list(run.data.class_names):
        raise DataError(f"the class names are not those that {saved.folder} was trained with")


def _shown(value: Any) -> Any:
    """Return lists and tuples in one form: a checkpoint knows only lists."""
    return list(value) if isinstance(value, tuple) else value
