"""Which recorders a run has: TensorBoard, Weights & Biases, the film of the first kernels."""

from pathlib import Path

from ptkit.core.config import LogSettings
from ptkit.core.errors import UsageError
from ptkit.core.training.events import Events
from ptkit.core.training.kernel_film import KernelFilm
from ptkit.core.training.observers import Recorder
from ptkit.core.training.wandb_events import WandbEvents, check_wandb


def check_log(settings: LogSettings) -> None:
    """Refuse log settings that cannot take effect, before anything is written.

    Raises:
        UsageError: a comment or suffix that cannot be in a file name, settings of events that are
            switched off, or Weights & Biases without its package or its key.
    """
    for key in ("comment", "filename_suffix"):
        value = getattr(settings, key)
        if any(character in value for character in '/\\\0:*?"<>|\n'):
            raise UsageError(f"log.{key} becomes a part of a file name and cannot hold {value!r}")
    named = [key for key in ("folder", "comment", "filename_suffix") if getattr(settings, key)]
    if named and not settings.tensorboard:
        raise UsageError(
            f"log.{named[0]} is for TensorBoard events, which log.tensorboard=false switches off"
        )
    if settings.wandb:
        check_wandb()


def open_recorders(
    run: Path, settings: LogSettings, *, up_to_epoch: int = 0
) -> tuple[Recorder, ...]:
    """Return the recorders of a run; none where all are switched off.

    up_to_epoch: the last epoch that a resumed run keeps, 0 for a new run.

    Raises:
        StorageError: the disk refused.
        UsageError: Weights & Biases refused.
    """
    recorders: list[Recorder] = []
    if settings.pictures:
        recorders.append(KernelFilm(run, up_to_epoch=up_to_epoch))
    if settings.tensorboard:
        recorders.append(Events(run, settings, up_to_epoch=up_to_epoch))
    if settings.wandb:
        recorders.append(WandbEvents(run, settings))
    return tuple(recorders)
