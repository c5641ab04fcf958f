"""`ptkit calibrate` in Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.errors import UsageError
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from ptkit.looking.calibrating import Calibration


@dataclass(frozen=True)
class CalibrateResult:
    """What was fitted, and the checkpoint that it was saved in; the result can be passed as its
    path.

    named: the checkpoint as the caller named it. kept: a copy of it from before; None if it had
    been calibrated already. run: its run folder, if it has one. source: its file and epoch, to be
    shown. precision, known: the shares that were asked for.
    """

    found: "Calibration"
    checkpoint: Path
    named: StrPath
    kept: Path | None
    run: Path | None
    source: str
    precision: float
    known: float

    def __fspath__(self) -> str:
        return str(self.checkpoint)


def calibrate(
    ckpt: StrPath,
    list_file: StrPath,
    *,
    only: Sequence[str] | None = None,
    target_precision: float | None = None,
    known: float | None = None,
    train: StrPath | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "stop",
    root: StrPath | None = None,
) -> CalibrateResult:
    """Calibrate a checkpoint in its place: what `ptkit calibrate` does, without its pictures.

    ckpt: a checkpoint or a run folder. only: of temperature, thresholds and unknown. The rest is
    explained by `ptkit calibrate --help`; `uncalibrate` undoes it.

    >>> ptkit.calibrate("ckpt.pkl", "valid.txt", only=["temperature"]).found.temperature.value > 0
    True

    Raises:
        CheckpointError: no such checkpoint, or damaged. StorageError: the disk refused.
        DataError: a list that cannot be read, too few images new to the model, no training list.
        UsageError: a part that cannot be fitted, or a setting of a part that is not.
    """
    from ptkit.core.config.settings import ON_BAD
    from ptkit.core.device import choose_device
    from ptkit.looking.calibrated_checkpoints import calibrate as calibrate_in_place
    from ptkit.looking.calibrating import Wishes

    of_parts = {"target_precision": target_precision, "known": known, "train": train}
    _check_parts(only, [name for name, value in of_parts.items() if value is not None])
    wishes = Wishes(
        None if only is None else tuple(dict.fromkeys(only)),
        precision=0.95 if target_precision is None else target_precision,
        known=0.95 if known is None else known,
        train=path_or_none(train),
        seed=seed,
    )
    check_choice("--on-bad", on_bad, ON_BAD)
    check_at_least(0, workers=workers, seed=seed)
    choose_device(device)
    found, of, kept = calibrate_in_place(
        Path(ckpt),
        Path(list_file),
        wishes,
        device=device,
        workers=workers,
        on_bad=on_bad,
        root=path_or_none(root),
    )
    shares = wishes.precision, wishes.known
    return CalibrateResult(found, of.shown_path, ckpt, kept, of.run, of.described, *shares)


def _check_parts(only: Sequence[str] | None, given: Sequence[str]) -> None:
    """Refuse settings of a part that is not fitted."""
    from ptkit.looking.calibrating import THRESHOLDS, UNKNOWN

    parts = {"target_precision": THRESHOLDS, "known": UNKNOWN, "train": UNKNOWN}
    for name in given:
        if only is not None and parts[name] not in only:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for the part {parts[name]}: add --only {parts[name]}")


def uncalibrate(ckpt: StrPath) -> Path:
    """Undo the calibration of a checkpoint in its place and return its file.

    Raises:
        CheckpointError: no such checkpoint, or damaged. StorageError: the disk refused.
        UsageError: it has none.

    >>> ptkit.uncalibrate("ckpt.pkl").name
    'ckpt.pkl'
    """
    from ptkit.looking.calibrated_checkpoints import remove_calibration

    return remove_calibration(Path(ckpt))
