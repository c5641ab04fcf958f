"""The files that `ptkit diagnose` and others read: layers.jsonl, valid_outputs.npz, margins.npz."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DivergedError, StorageError
from ptkit.core.files import write_atomically
from ptkit.core.run_files import (
    LAYERS,
    MARGINS,
    MOST_BYTES_OF_LISTS,
    VALID_OUTPUTS,
    sound_arrays,
    write_arrays,
)
from ptkit.core.training.observers import EpochResult, Recorder, Write
from ptkit.core.training.recording.gauge import Recorded
from ptkit.core.training.setup import Setup

Outputs = npt.NDArray[np.float32]


def open_layer_log(
    run: Path,
    setup: Setup,
    *,
    up_to_epoch: int | None = None,
    lengths: Mapping[str, int] | None = None,
) -> tuple[Recorder, ...]:
    """Return the log of a run's layers, if it has one.

    up_to_epoch: the last epoch that a resumed run keeps, None for a new run. lengths: of its logs
    there, where they are known.

    Raises:
        StorageError: the disk refused.
    """
    if setup.layers is None:
        return ()
    training, length = setup.training, (lengths or {}).get(LAYERS)
    lists = training.train.images, training.valid.images
    counted = training.loss.task.counted
    return (
        LayerLog(
            run,
            setup.layers,
            lists=lists,
            counted=None if counted is None else counted.cpu().numpy(),
            up_to_epoch=up_to_epoch,
            length=length,
        ),
    )


class LayerLog(Recorder):
    """Writes what the gauge of a run has measured.

    start: the first line. lists: of training and validation. counted: bool (K,), the classes that
    count in accuracy; None for all. up_to_epoch: see `open_layer_log`.
    length: bytes of layers.jsonl until there, where it is known.
    """

    def __init__(
        self,
        run: Path,
        start: Mapping[str, Any],
        *,
        lists: tuple[ImageList, ImageList],
        counted: npt.NDArray[np.bool_] | None = None,
        up_to_epoch: int | None = None,
        length: int | None = None,
    ) -> None:
        self._run, self._file, (self._train, self._valid) = run, run / LAYERS, lists
        self._counted = counted
        # Epoch and outputs.
        self._best: tuple[int, Outputs] | None = None
        kept = b""
        if up_to_epoch is not None:
            kept = _kept(self._file, up_to_epoch, length)
            self._best = _best_of(run / VALID_OUTPUTS)
        write_atomically(self._file, kept or _line(start))

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Return what writes the epoch, all of which is on the CPU."""
        recorded = result.recorded
        return (lambda: None) if recorded is None else lambda: self._write(result, recorded)

    def diverged(self, error: DivergedError) -> None:
        """Add a line that says where."""
        _append(self._file, _line({"kind": "diverged", "step": error.step, "where": error.where}))

    def lengths(self) -> dict[str, int]:
        """Return the bytes of layers.jsonl, all of them on the disk."""
        return {LAYERS: self._file.stat().st_size}

    def _write(self, result: EpochResult, recorded: Recorded) -> None:
        epoch = result.epoch
        _append(self._file, _line({"kind": "epoch", "epoch": epoch, **_numbers(recorded)}))
        if recorded.margins is not None:
            total, count = (recorded.margins[name].numpy() for name in ("sum", "count"))
            arrays = {"sum": total.astype(np.float32), "count": count.astype(np.int32)}
            write_arrays(self._run / MARGINS, **arrays, **_rows(self._train))
        if recorded.valid_outputs is not None:
            self._write_outputs(epoch, recorded.valid_outputs.numpy(), is_best=result.is_best)

    def _write_outputs(self, epoch: int, outputs: Outputs, *, is_best: bool) -> None:
        if is_best:
            self._best = epoch, outputs
        # A run that is resumed may have lost its best ones: nothing is said then.
        if self._best is None:
            return
        best_epoch, best = self._best
        arrays = {
            "labels": self._valid.labels.astype(np.int64),
            "best": best,
            "last": outputs,
            "best_epoch": np.int64(best_epoch),
            "last_epoch": np.int64(epoch),
        }
        if self._counted is not None:
            arrays["counts"] = self._counted[self._valid.labels]
        write_arrays(self._run / VALID_OUTPUTS, **arrays, **_rows(self._valid))


def _rows(images: ImageList) -> dict[str, npt.NDArray[np.int64]]:
    """Return where the images of a list are in its file, if some of it were left out."""
    return {} if images.rows is None else {"rows": images.rows}


def _numbers(recorded: Recorded) -> dict[str, Any]:
    """Return what layers.jsonl has of an epoch."""
    values = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(recorded)}
    return {k: v for k, v in values.items() if k not in ("margins", "valid_outputs")}


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(values), separators=(",", ":")).encode() + b"\n"


def _finite(value: Any) -> Any:
    """Return plain values with seven digits, which float32 has, and None for what is not finite:
    JSON has no NaN.
    """
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def _append(file: Path, line: bytes) -> None:
    try:
        with file.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror or error}") from error


def _kept(file: Path, up_to_epoch: int, length: int | None) -> bytes:
    """Return what a resumed run keeps of layers.jsonl; nothing where it is not there."""
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    if length is not None:
        return found[:length]
    # It was resumed without log.layers in between.
    lines = [x for x in found.splitlines(keepends=True) if b'"kind":"diverged"' not in x]
    return b"".join(line for line in lines if _is_whole(line) and _epoch_of(line) <= up_to_epoch)


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"}\n")


def _epoch_of(line: bytes) -> int:
    # Without reading the numbers, of which there may be millions.
    found = re.match(rb'\{"kind":"epoch","epoch":(\d+)', line)
    return int(found[1]) if found else 0


def _best_of(file: Path) -> tuple[int, Outputs] | None:
    """Return epoch and outputs of the best epoch, None where the file is missing or damaged."""
    found = sound_arrays(file, most_bytes=MOST_BYTES_OF_LISTS)
    epoch, outputs = found.get("best_epoch"), found.get("best")
    if epoch is None or outputs is None or epoch.size != 1:
        return None
    return int(epoch.item()), outputs
