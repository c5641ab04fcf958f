"""`ptkit train --lr-find`: the range test of core/training/lr_find.py, its picture and table."""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.config.settings import AUTO, Settings
from ptkit.core.device import leaving_torch_as_it_was
from ptkit.core.diagnosis.rates import rate_flag
from ptkit.core.errors import UsageError
from ptkit.core.ranks import here
from ptkit.core.training.lr_find import NUM_STEPS, range_test
from ptkit.core.training.observers import Watcher
from ptkit.core.training.setup import prepare
from ptkit.core.wording import counted
from ptkit.looking.pictures import picture_folder
from ptkit.plots.lr_find import lr_find_figure


@dataclass(frozen=True)
class FoundRate:
    """lr: where the loss falls fastest, the suggestion. flag: that gives it to the run. largest:
    above it the loss rises.

    num_steps: that were made. has_diverged: whether the loss ran away.
    """

    lr: float
    flag: str
    largest: float
    num_steps: int
    has_diverged: bool
    files: tuple[Path, ...]


@leaving_torch_as_it_was()
def find_lr(settings: Settings, watch: Watcher, *, out: Path | None = None) -> FoundRate:
    """Try rising learning rates on the model of a run that is not made; draw and tabulate the loss.

    out: by default ./ptkit-lr-find.

    Raises:
        PtkitError: anything that a run would raise before its first step.
    """
    if not here().is_alone:
        raise UsageError("--lr-find is for one process: leave torchrun out")
    if settings.train.method == "probe":
        raise UsageError("--lr-find is for training by steps, which train.method=probe has none of")
    # What only follows a run would cost time, and an average changes nothing that is measured here.
    train = replace(settings.train, ema=None, profile=False)
    if train.compile == AUTO:
        # It would be judged by the steps of a whole run.
        train = replace(train, compile=False)
    settings = replace(
        settings,
        train=train,
        log=replace(settings.log, layers=False),
    )
    setup = prepare(settings, watch, is_resumed=False)
    with closing(setup.data), watch.counting("rates", NUM_STEPS) as advance:
        found = range_test(setup.training, advance)
    training = setup.training
    batch = training.train.sampling.batch_size * training.settings.accumulate
    figure = lr_find_figure(
        found.rates,
        found.losses,
        found.smoothed,
        steepest=found.steepest,
        largest=found.largest,
        footer=f"{counted(len(found.rates), 'step')} of {counted(batch, 'image')} of"
        f" {settings.data.train} · {setup.model.call} · {training.optimizer_setup.call}",
    )
    with picture_folder("lr-find", out=out) as pictures:
        pictures.add_figure("lr_find.png", figure)
        rows = zip(found.rates, found.losses, found.smoothed, strict=True)
        pictures.add_csv("lr_find.csv", ("lr", "loss", "smoothed"), rows)
    lr = training.optimizer_setup.lr
    return FoundRate(
        found.steepest,
        rate_flag(lr, settings.scheduler.call, factor=found.steepest / lr, digits=2),
        found.largest,
        len(found.rates),
        found.has_diverged,
        tuple(pictures.files),
    )
