"""`ptkit train --lr-find`: the range test of core/training/lr_find.py, its picture and table."""

import shlex
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.config.dependents import has_max_lr, has_rate
from ptkit.core.config.settings import AUTO, Settings
from ptkit.core.device import leaving_torch_as_it_was
from ptkit.core.diagnosis.rates import rate_flag
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.ranks import here
from ptkit.core.training.lr_find import NUM_STEPS, range_test
from ptkit.core.training.observers import Watcher
from ptkit.core.training.setup import prepare
from ptkit.core.wording import counted
from ptkit.looking.pictures import picture_folder
from ptkit.plots.lr_find import lr_find_figure


@dataclass(frozen=True)
class FoundRate:
    """lr: where the loss falls fastest, the suggestion. flag: the options that set this rate.
    largest: above it the loss rises.

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
    factor = found.steepest / training.optimizer_setup.lr
    return FoundRate(
        found.steepest,
        _flag(settings, training.optimizer_setup.lr, factor=factor),
        found.largest,
        len(found.rates),
        found.has_diverged,
        tuple(pictures.files),
    )


def _flag(settings: Settings, lr: float, *, factor: float) -> str:
    """Return the options that set so many times the rate `lr` of the run, where it is set now."""
    asked, schedule = settings.optimizer, settings.scheduler.call
    if has_rate(asked.call) and not has_max_lr(schedule):
        call = parse(asked.call or "")
        rate = float(f"{factor * lr:.2g}")
        new = replace(call, kwargs={**call.kwargs, "lr": rate})
        return f"--optimizer {shlex.quote(str(new))}"
    if asked.lr is not None and asked.lr_per is not None:
        # It is for another number of images a step, and scaled.
        flag = rate_flag(asked.lr, schedule, factor=factor, digits=2)
        return f"{flag} --set optimizer.lr_per={asked.lr_per}"
    return rate_flag(lr, schedule, factor=factor, digits=2)
