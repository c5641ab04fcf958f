"""Which recorders a run has: TensorBoard, Weights & Biases, the film of the first kernels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ptkit.core.config import LogSettings
from ptkit.core.errors import UsageError
from ptkit.core.models.transfer import TransferReport
from ptkit.core.training.events import Box, Events, NoEvents, Pixels
from ptkit.core.training.kernel_film import KernelFilm
from ptkit.core.training.loop import EpochResult, Progress
from ptkit.core.training.wandb_events import WandbEvents, check_wandb

if TYPE_CHECKING:
    from ptkit.core.training.loop import EpochResult


def check_log(settings: LogSettings) -> None:
    """Refuse log settings that cannot take effect, before anything is written.

    Raises:
        UsageError: a comment or suffix that is no part of a file name, settings of events that are
            switched off, or Weights & Biases without its package or its key.
    """
    for key in ("comment", "filename_suffix"):
        value = getattr(settings, key)
        if any(character in value for character in '/\\\0:*?"<>|\n'):
            raise UsageError(f"log.{key} becomes a part of a file name and cannot hold {value!r}")
    named = [key for key in ("folder", "comment", "filename_suffix") if getattr(settings, key)]
    if named and not settings.tensorboard:
        raise UsageError(
            f"log.{named[0]} is of TensorBoard's events, which log.tensorboard=false switches off"
        )
    if settings.wandb:
        check_wandb()


def open_events(run: Path, settings: LogSettings, *, up_to_epoch: int = 0) -> NoEvents:
    """Return what records a run; it writes nothing where all is switched off.

    up_to_epoch: the epoch after which a resumed run goes on, 0 for a new one.

    Raises:
        StorageError: the disk refused.
        UsageError: Weights & Biases refused.
    """
    recorders: list[NoEvents] = []
    if settings.pictures:
        recorders.append(KernelFilm(run, up_to_epoch=up_to_epoch))
    if settings.tensorboard:
        recorders.append(Events(run, settings, up_to_epoch=up_to_epoch))
    if settings.wandb:
        recorders.append(WandbEvents(run, settings))
    return recorders[0] if len(recorders) == 1 else SeveralEvents(recorders)


class SeveralEvents(NoEvents):
    """Hands everything to several recorders, one after the other."""

    def __init__(self, recorders: Sequence[NoEvents]) -> None:
        self.recorders = tuple(recorders)

    def start(
        self,
        model: nn.Module,
        example: torch.Tensor,
        texts: Mapping[str, str],
        input_image: Pixels | None = None,
    ) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.start(model, example, texts, input_image)

    def epoch(self, result: "EpochResult", model: nn.Module) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.epoch(result, model)

    def text(self, tag: str, text: str, step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.text(tag, text, step)

    def figure(self, tag: str, figure: Any, step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.figure(tag, figure, step)

    def image(self, tag: str, image: Pixels, step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.image(tag, image, step)

    def boxes(self, tag: str, image: Pixels, boxes: Mapping[str, Box], step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.boxes(tag, image, boxes, step)

    def film(self, tag: str, gif: Path, step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.film(tag, gif, step)

    def embedding(
        self,
        tag: str,
        features: np.ndarray,
        rows: Sequence[Sequence[str]],
        thumbnails: np.ndarray,
        step: int,
    ) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.embedding(tag, features, rows, thumbnails, step)

    def pr_curve(self, tag: str, truth: np.ndarray, scores: np.ndarray, step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.pr_curve(tag, truth, scores, step)

    def pr_curve_of_counts(self, tag: str, counts: Mapping[str, np.ndarray], step: int) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.pr_curve_of_counts(tag, counts, step)

    def close(self) -> None:
        """Hand it on."""
        for recorder in self.recorders:
            recorder.close()


class Watcher:
    """Hears nothing; commands override what they show."""

    def say(self, text: str) -> None:
        """Hear one line on what was decided."""

    def warn(self, text: str) -> None:
        """Hear one line on what may surprise."""

    def transferred(self, report: TransferReport) -> None:
        """Hear what was taken from old weights."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Watch a pass over `total` images; the function is told how many more are done."""
        yield lambda _count: None

    def begin(self, run: Path, *, epochs: int, num_steps: int) -> None:
        """Hear that training begins."""

    def step(self, progress: Progress) -> None:
        """Hear of one step."""

    def epoch(self, result: EpochResult, *, is_best: bool) -> None:
        """Hear of one epoch."""

    def end(self) -> None:
        """Hear that training ended, well or not."""
