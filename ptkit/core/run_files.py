"""The numbers that a run leaves in its folder, read back: metrics.csv, layers.jsonl and arrays."""

import csv
import io
import json
import shlex
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.errors import DataError, StorageError
from ptkit.core.files import write_atomically
from ptkit.core.wording import reason_of

METRICS_FILE, LAYERS = "metrics.csv", "layers.jsonl"
VALID_OUTPUTS, MARGINS = "valid_outputs.npz", "margins.npz"
# Of what grows with the lists: outputs of two epochs, or margins.
MOST_BYTES_OF_LISTS = 1 << 30
_MOST_BYTES = 64 << 20

# A row of metrics.csv, column to value; None where an image has no single right answer.
Row = dict[str, Any]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outputs:
    """Outputs of the best epoch for the images of the validation list that count in accuracy,
    before softmax, float (n, K), and their labels (n,). rows: where the images are in the list
    file, (n,), None of all of them in order: images that cannot be read may have been left out.
    """

    values: Floats
    labels: Indices
    rows: Indices | None = None

    @cached_property
    def probabilities(self) -> Floats:
        """Their softmax, (n, K)."""
        return softmax(self.values)

    @cached_property
    def answers(self) -> Indices:
        """The class with the largest output, (n,)."""
        found: Indices = self.values.argmax(axis=1)
        return found

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.labels).mean())

    def divided_by(self, temperature: float) -> "Outputs":
        """Return them as a calibrated model has them."""
        return self if temperature == 1 else replace(self, values=self.values / temperature)


@dataclass(frozen=True)
class RunMargins:
    """Of each training image, (n,): the sum over the epochs of the output of its label minus the
    largest other one, and how many are in it. rows: see `Outputs`.
    """

    total: Floats
    count: Indices
    rows: Indices | None = None


def resume_command(run: Path) -> str:
    """Return the command that continues a run, or a series of runs."""
    return f"ptkit train --resume {shlex.quote(str(run))}"


def has_diverged(run: Path) -> bool:
    """Say whether a run's records end with a loss that became NaN or infinite; no of records that
    cannot be read.
    """
    try:
        return any(line.get("kind") == "diverged" for line in read_layers(run)[-1:])
    except (DataError, StorageError):
        return False


def why_no_run(folder: Path) -> str | None:
    """Return why a folder is not that of a run; None of one that is."""
    if (folder / "config.toml").is_file():
        return None
    if not folder.exists():
        why = "does not exist"
        if folder.is_symlink():
            why = f"is a link to {folder.readlink()}, which is not there any more"
        return f"{folder} {why}: expected a run folder, such as runs/1"
    if folder.is_file():
        is_inside = (folder.parent / "config.toml").is_file()
        wanted = str(folder.parent) if is_inside else "a run folder, such as runs/1"
        return f"{folder} is a file: expected {wanted}"
    inside = min(folder.glob("*/config.toml"), default=None)
    hint = "" if inside is None else f"; it holds runs, such as {inside.parent}"
    return f"{folder} is not a run folder: it has no config.toml{hint}"


def read_metrics(run: Path) -> list[Row]:
    """Return the rows of metrics.csv; none where there is no such file.

    Raises:
        DataError: it is damaged. StorageError: it cannot be read.
    """
    file = run / METRICS_FILE
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [
                # A cell that is missing is None, and an error.
                {key: None if value == "" else float(value) for key, value in row.items()}
                for row in csv.DictReader(lines, strict=True)
            ]
        return [row | {"epoch": int(row["epoch"] or 0)} for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise DataError(f"{file} is damaged ({reason_of(error)})") from error


def read_layers(run: Path) -> list[dict[str, Any]]:
    """Return the lines of layers.jsonl; none where it is missing. The end of a killed run may be
    half a line, which is left out.

    Raises:
        DataError: another line is damaged. StorageError: it cannot be read.
    """
    file = run / LAYERS
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: damaged: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{file}, line {number}: damaged: not an object")
        found.append(values)
    return found


def read_outputs(run: Path) -> Outputs | None:
    """Return the outputs of the best epoch; None where there are none, or not all are finite.

    Raises:
        DataError: the file is damaged. StorageError: it cannot be read.
    """
    file = run / VALID_OUTPUTS
    arrays = read_arrays(file, most_bytes=MOST_BYTES_OF_LISTS)
    if arrays is None:
        return None
    with _taken_apart(file):
        # Of an earlier version without rows.
        values, labels, rows = arrays["best"], arrays["labels"], arrays.get("rows")
        found = Outputs(values.astype(float), _integers(labels), _integers(rows))
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise DataError(f"{file} is damaged: outputs {values.shape} for labels {labels.shape}")
    if found.rows is not None and found.rows.shape != labels.shape:
        raise DataError(f"{file} is damaged: {found.rows.shape} rows for {labels.shape} images")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise DataError(f"{file} is damaged: labels up to {labels.max()} of {values.shape[1]}")
    if (counts := arrays.get("counts")) is not None:
        if counts.shape != labels.shape or counts.dtype != np.bool_:
            raise DataError(f"{file} is damaged: counts of the shape {counts.shape}")
        places = np.arange(len(labels)) if found.rows is None else found.rows
        found = Outputs(found.values[counts], found.labels[counts], places[counts])
    return found if np.isfinite(found.values).all() and len(found.labels) else None


def read_margins(run: Path) -> RunMargins | None:
    """Return the margins of the training images; None of a run that recorded none.

    Raises:
        DataError: the file is damaged. StorageError: it cannot be read.
    """
    file = run / MARGINS
    arrays = read_arrays(file, most_bytes=MOST_BYTES_OF_LISTS)
    if arrays is None:
        return None
    with _taken_apart(file):
        total, count, rows = arrays["sum"], arrays["count"], arrays.get("rows")
        found = RunMargins(total.astype(float), _integers(count), _integers(rows))
    shapes = {each.shape for each in (found.total, found.count, found.rows) if each is not None}
    if len(shapes) > 1 or found.total.ndim != 1:
        raise DataError(f"{file} is damaged: arrays of the shapes {sorted(shapes)}")
    return found


def write_arrays(file: Path, **arrays: Any) -> None:
    """Write arrays as .npz, whole or not at all.

    Raises:
        StorageError: the disk refused.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(file, content.getvalue())


def read_arrays(file: Path, *, most_bytes: int = _MOST_BYTES) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a .npz file; None where there is no such file.

    Raises:
        DataError: it is damaged, or far too large. StorageError: it cannot be read.
    """
    try:
        # From memory: numpy leaves the handle of a damaged file open.
        content = io.BytesIO(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        with zipfile.ZipFile(content) as archive:
            # A packed file of a few kilobytes may hold gigabytes of zeros.
            if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
                raise DataError(f"{file} is damaged: it would take over {most_bytes:,} bytes")
        with np.load(content, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    # Damaged archives raise nearly anything.
    except (ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError, OSError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise DataError(f"{file} is damaged ({reason_of(error)})") from error


def sound_arrays(file: Path, *, most_bytes: int = _MOST_BYTES) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a .npz file; none where it is missing or cannot be read."""
    try:
        return read_arrays(file, most_bytes=most_bytes) or {}
    except (DataError, StorageError):
        return {}


def sound_layers(run: Path) -> list[dict[str, Any]]:
    """Return the lines of layers.jsonl; none where it is missing or cannot be read."""
    try:
        return read_layers(run)
    except (DataError, StorageError):
        return []


def floats(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Return numbers of a line, NaN where there is none or it was not finite."""
    return np.array([np.nan if value is None else value for value in values], float)


def softmax(values: Floats) -> Floats:
    """Return probabilities (n, K)."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


@contextmanager
def _taken_apart(file: Path) -> Iterator[None]:
    """Call arrays that are missing, or are no numbers, damage."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({reason_of(error)})") from error


def _integers(values: Any) -> Any:
    """Return an array as int64; None stays None."""
    return None if values is None else values.astype(np.int64)
