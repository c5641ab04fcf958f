"""Calibrating a checkpoint in its place, and undoing that."""

import filecmp
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.models.locate import find_weights
from ptkit.core.models.weights import Weights
from ptkit.core.training.holding import held
from ptkit.looking.calibrating import Calibration, Wishes, calibrate_list
from ptkit.looking.subject import subject_of


def calibrate(
    path: Path,
    list_file: Path,
    wishes: Wishes,
    **how: Any,
) -> tuple[Calibration, Weights, Path | None]:
    """Calibrate a checkpoint in its place; return what was found, the checkpoint as it was, and
    where that is kept if it was not calibrated before. how: see `calibrate_list`.

    Raises:
        CheckpointError, DataError, UsageError: see `calibrate_list`.
        UsageError: its run is being written. StorageError: the disk refused.
    """
    with _alone(_checkpoint(path).run):
        # Read again: training may have saved a better one before it let its run go.
        subject = subject_of(_checkpoint(path))
        weights = subject.weights
        found = calibrate_list(subject, list_file, wishes, **how)
        old = weights.checkpoint or {}
        kept = _save(weights.path, calibrated(old, found), old)
        return found, weights, None if kept is None else weights.shown_path.with_name(kept)


def remove_calibration(path: Path) -> Path:
    """Undo all calibrations of a checkpoint in its place; return its file.

    Raises:
        CheckpointError: no checkpoint. UsageError: it has none, or its run is being written.
        StorageError: the disk refused.
    """
    with _alone(_checkpoint(path).run):
        weights = _checkpoint(path)
        contents = uncalibrated(weights.checkpoint or {}, path)
        save_checkpoint(weights.path.resolve(), contents)
    return weights.shown_path


def calibrated(checkpoint: Mapping[str, Any], found: Calibration) -> dict[str, Any]:
    """Return a checkpoint with what was found."""
    task, old = found.task, checkpoint["task"]
    # What was there before the first calibration is what --remove brings back.
    first = checkpoint.get("calibration") or {"thresholds": old.get("thresholds")}
    new = dict(old)
    if found.temperature is not None:
        new["temperature"] = task.temperature
    if found.thresholds is not None or found.temperature is not None:
        new["thresholds"] = None if task.thresholds is None else task.thresholds.tolist()
    if found.strange is not None:
        assert task.strangers is not None
        new["unknown"] = task.strangers.as_dict()
    return {**checkpoint, "task": new, "calibration": first}


def uncalibrated(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint as it was before its first calibration.

    Raises:
        UsageError: it was never calibrated.
    """
    if "calibration" not in checkpoint:
        raise UsageError(f"{path} has no calibration to remove")
    before = checkpoint["calibration"].get("thresholds")
    task = {**checkpoint["task"], "temperature": None, "unknown": None, "thresholds": before}
    left = {key: value for key, value in checkpoint.items() if key != "calibration"}
    return {**left, "task": task}


def _checkpoint(path: Path) -> Weights:
    """Find a checkpoint, which alone has a place for what is found."""
    weights = find_weights(str(path))
    if weights.checkpoint is None:
        raise CheckpointError(
            f"{weights.source} holds weights only: `ptkit calibrate` needs a ptkit checkpoint to"
            " save in"
        )
    return weights


def _alone(run: Path | None) -> AbstractContextManager[object]:
    return nullcontext() if run is None else held(run)


def _save(path: Path, contents: Mapping[str, Any], old: Mapping[str, Any]) -> str | None:
    """Save a checkpoint and return the name under which the old one is kept, if it is."""
    # Behind a link is the file of the run.
    file = path.resolve()
    kept = None if "calibration" in old else _kept_beside(file)
    is_new = kept is not None and not os.path.lexists(kept)
    save_checkpoint(file, contents, previous=kept if is_new else None)
    return None if kept is None else kept.name


def _kept_beside(file: Path) -> Path:
    """Return where a checkpoint is kept as it was: where it is already, or nothing is yet."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    places = (file.with_name(f"{file.stem}-uncalibrated{n}{file.suffix}") for n in numbers)
    return next(place for place in places if not os.path.lexists(place) or _are_same(place, file))


def _are_same(one: Path, other: Path) -> bool:
    try:
        return one.is_file() and filecmp.cmp(one, other, shallow=False)
    except OSError:  # one that cannot be read is someone's
        return False
