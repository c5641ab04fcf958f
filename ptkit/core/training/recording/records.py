"""What a run leaves behind: the run folder, metrics.csv, the link to its checkpoint."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder, write_atomically

if TYPE_CHECKING:
    from ptkit.core.training.loop import EpochResult

# Column to value; train_accuracy is None where an image has no single right answer.
Row = dict[str, Any]


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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(rows[0])
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            ["" if row[c] is None else row[c] if c == "epoch" else f"{row[c]:.6g}" for c in columns]
        )
    write_atomically(file, text.getvalue().encode())


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
