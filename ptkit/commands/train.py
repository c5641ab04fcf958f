"""`ptkit train`, and what training prints: a live line on a terminal, one plain line an epoch
everywhere, and in a log one a minute.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.api import ejecting, lr_find, runs, series
from ptkit.commands import options
from ptkit.commands.completion import names
from ptkit.commands.output import Printer, complain, process_began
from ptkit.commands.progress import MINUTE, Clock, Pace, bar, live_line
from ptkit.commands.series import print_series
from ptkit.core.errors import UsageError
from ptkit.core.shares import is_share
from ptkit.core.wording import counted, duration

if TYPE_CHECKING:
    # torch is imported when a run begins, not for the help.
    from ptkit.core.ejecting.script import Ejected
    from ptkit.core.models.transfer import TransferReport
    from ptkit.core.training.loop import Progress
    from ptkit.core.training.observers import EpochResult
    from ptkit.core.training.profiling import Profile
    from ptkit.core.training.run_result import RunResult
    from ptkit.looking.lr_find import FoundRate

# Reading the loss waits for the device, so the live line is drawn a few times a second only.
_REFRESH_S = 0.25
# An epoch that takes longer is announced, with what makes it faster.
_SLOW_EPOCH_S = 600.0


@options.reads_images
@options.with_flags(options.setting_flags() | options.RUN_FLAGS | options.TRIAL_FLAGS)
def train(printer: Printer, source: options.Source = None, **settings: Any) -> None:
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here, or on a
    folder that is split first.

    Photographs start from pretrained weights where `ptkit[photos]` is installed.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume
    from, metrics.csv, TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    from ptkit.core.config.layers import with_assignments

    check_is_no_model(source, "--model")
    settings = with_assignments(settings.pop("assignments", ()), settings)
    if (file := settings.pop("eject", None)) is not None:
        check_ejects_alone(source, settings)
        watch = TrainingScreen(printer)
        print_ejected(printer, ejecting.eject(file, watch=watch, **settings))
    elif settings.pop("lr_find", False):
        print_rate(printer, _found_rate(printer, source, settings))
    elif series.is_asked_for(settings):
        watch = TrainingScreen(printer)
        print_series(printer, series.train_series(source, watch=watch, **settings))
    else:
        print_run(printer, runs.train(source, watch=TrainingScreen(printer), **settings))


def check_is_no_model(source: Path | None, flag: str) -> None:
    """Refuse a model where images are to be named; `ptkit finetune` takes it there.

    Raises:
        UsageError: the message has the flag that names one.
    """
    if source is not None and str(source) in names()["models"] and not source.exists():
        raise UsageError(f"{source} is a model, and there is no such folder: {flag} {source}")


# What has no place in a script: it is of a run, its folder, or of several runs.
_OF_RUNS = ("lr_find", "preflight", "name", "out", "resume", "seeds", "folds", "save_every",
            *options.SourceFlags.__annotations__)  # fmt: skip


def check_ejects_alone(source: Path | None, settings: dict[str, Any]) -> None:
    """Refuse what has no effect beside --eject.

    Raises:
        UsageError: the message names it.
    """
    if source is not None:
        raise UsageError(
            f"--eject needs lists that stay: `ptkit split {source}` first, then leave {source} out"
        )
    for name in _OF_RUNS:
        if settings.get(name) is not None:
            raise UsageError(f"--eject trains nothing: leave --{name.replace('_', '-')} out")


def print_ejected(printer: Printer, found: "Ejected") -> None:
    """Print where a script is and what it needs."""
    printer.say(f"wrote {found.file}: {counted(found.num_lines, 'line')}, checked against the run")
    printer.say(f"needs {', '.join(found.packages)}; run it here: python {found.file}")
    printer.result({**asdict(found), "file": str(found.file)})


def _found_rate(printer: Printer, source: Path | None, settings: dict[str, Any]) -> "FoundRate":
    for flag in ("preflight", "name", "resume", "seeds", "folds", "save_every"):
        if flag in settings:
            raise UsageError(f"--lr-find trains nothing: leave --{flag.replace('_', '-')} out")
    return lr_find.find_lr(source, watch=TrainingScreen(printer), **settings)


def print_rate(printer: Printer, found: "FoundRate") -> None:
    """Print what a range test suggests."""
    end = "then the loss ran away" if found.has_diverged else "the loss never ran away"
    printer.say(
        f"suggested: {found.flag}, where the loss falls fastest; at most"
        f" {found.largest:.2g}, where it was lowest ({counted(found.num_steps, 'step')}; {end})"
    )
    printer.say(f"wrote {' and '.join(map(str, found.files))}")
    printer.result({**asdict(found), "files": [str(file) for file in found.files]})


class TrainingScreen:
    """Prints lines on standard output; draws the live line on standard error where that is a
    terminal.

    clock: seconds, of any beginning.
    """

    def __init__(
        self, printer: Printer, *, is_verbose: bool = False, clock: Clock = time.perf_counter
    ) -> None:
        self.printer, self.is_verbose = printer, is_verbose
        self.pace = Pace(1, clock)
        self._clock = clock
        self._next_look = self._next_line = 0.0
        self._live: Any = None
        self._task: Any = None
        self._faster: Sequence[str] = ()
        self._is_judged = printer.silent

    def say(self, text: str) -> None:
        self._hide_live()
        self.printer.say(text)

    def warn(self, text: str) -> None:
        self._hide_live()
        complain(f"warning: {text}")

    def transferred(self, report: "TransferReport") -> None:
        if self.is_verbose:
            self.say(report.details())

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        with bar(what, total, quiet=self.printer.silent) as advance:
            yield advance

    def begin(self, run: Path, *, epochs: int, num_steps: int, faster: Sequence[str] = ()) -> None:
        length = f"{counted(epochs, 'epoch')} of {counted(num_steps, 'batch', 'batches')}"
        self.say(f"run: {run}, {length}")
        self._faster = faster
        self.pace = Pace(epochs, self._clock)
        self._next_line = self.pace.began + MINUTE

    def step(self, progress: "Progress") -> None:
        now = self.pace.after_step(progress.epoch, progress.step, progress.num_steps)
        if not self._is_judged and self.pace.is_steady:
            self._judge_pace()
        is_last = progress.step == progress.num_steps
        if self.printer.silent or (now < self._next_look and not is_last):
            return
        self._next_look = now + _REFRESH_S
        has_live_line = sys.stderr.isatty()
        # Also where standard output is a file and the live line is beside it.
        is_logged = not (has_live_line and sys.stdout.isatty())
        if is_logged and now >= self._next_line and not is_last:
            self._next_line = now + MINUTE
            step = f"step {progress.step:,}/{progress.num_steps:,}"
            self.say(f"{self._epoch_name(progress.epoch)}  {step}  {self._numbers(progress)}")
        if has_live_line:
            self._draw_live(progress)

    def _judge_pace(self) -> None:
        """Say once, after the first steps, if an epoch will take long."""
        self._is_judged = True
        if self.pace.epoch_seconds <= _SLOW_EPOCH_S:
            return
        self.say(
            f"an epoch will take about {duration(self.pace.epoch_seconds)}, the rest of the run"
            f" {duration(self.pace.run_left)}; faster: {'; '.join(self._faster)}"
        )

    def epoch(self, result: "EpochResult", *, is_best: bool) -> None:
        epoch = self._epoch_name(result.epoch)
        accuracy = result.train_accuracy
        learned = "" if accuracy is None else f"  accuracy {accuracy:7.2%}"
        found = "  ".join(
            f"{name} {metric_text(name, value)}" for name, value in result.valid.items()
        )
        rate, mark = max(result.lrs.values()), "  best" if is_best else ""
        for name in result.unfrozen:
            self.say(f"{epoch}  unfrozen: {name}")
        self.say(
            f"{epoch}  loss {result.train_loss:.4f}{learned}  "
            f"valid loss {result.valid_loss:.4f}  {found}  "
            f"lr {rate:.3g}  {result.images_per_s:,.0f} images/s  {result.seconds:.1f} s{mark}"
        )
        self.pace.begin_epoch()
        self._next_line = self.pace.began + MINUTE

    def end(self) -> None:
        self._hide_live()

    def _epoch_name(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.pace.epochs))}}/{self.pace.epochs}"

    def _numbers(self, progress: "Progress") -> str:
        """Return loss, rate and the time that is left; waits for the device."""
        totals, pace = progress.totals.read(), self.pace
        # Both are of the whole epoch, also of one that was interrupted.
        rate = totals.num_images / max(progress.seconds, 1e-9)
        left = f"{duration(pace.epoch_left)} left, {duration(pace.run_left)} of the run"
        return f"loss {totals.loss():.4f}  {rate:,.0f} images/s  {left}"

    def _draw_live(self, progress: "Progress") -> None:
        from rich.progress import TextColumn

        if self._live is None:
            self._live = live_line(TextColumn("{task.fields[numbers]}", markup=False))
            self._task = self._live.add_task("", total=progress.num_steps, numbers="")
            self._live.start()
        epoch, numbers = f"epoch {progress.epoch}/{self.pace.epochs}", self._numbers(progress)
        self._live.update(self._task, description=epoch, completed=progress.step, numbers=numbers)

    def _hide_live(self) -> None:
        """Remove the live line, so that lines can be printed; the next step draws it again."""
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None


def print_run(printer: Printer, result: "RunResult") -> None:
    """Print how a run ended and where its files are."""
    printer.say(_best_line(result))
    for verdict in result.verdicts:
        printer.say(f"note: {verdict.text}")
    printer.say(f"checkpoint: {result.checkpoint}")
    if result.profile is not None:
        printer.say("\n".join(profile_lines(result.profile)))
    pictures = [file for file in result.files if file.suffix in (".png", ".gif")]
    some = ", ".join(str(file.relative_to(result.run)) for file in pictures[:2])
    printer.say(f"{counted(len(pictures), 'picture')} in {result.run}, such as {some}")
    if (test := result.run / "test.txt").exists():
        printer.say(f"next: ptkit confmat {shlex.join([str(result.run), str(test)])}")
    rows = [{"weights": k, **asdict(v)} for k, v in result.backbones.items()]
    printer.result(
        {
            "run": str(result.run),
            "checkpoint": str(result.checkpoint),
            "epochs": result.epochs,
            "best": {
                "accuracy": None,
                **result.best,
                "epoch": int(result.best["epoch"]),
                "accuracy_interval": result.accuracy_interval,
            },
            "majority": result.majority and result.majority.as_dict(),
            "verdicts": [asdict(verdict) for verdict in result.verdicts],
            "seconds": result.seconds,
            "images_per_s": result.images_per_s,
            "odd": dict(result.odd),
            **({} if result.profile is None else {"profile": result.profile.as_dict()}),
            **({} if result.probe is None else {"probe": result.probe.as_dict()}),
            **({"backbones": rows} if rows else {}),
        }
    )


def _best_line(result: "RunResult") -> str:
    """Return the best epoch with its metrics, the accuracy with its interval and beside it what the
    largest class alone would give.
    """
    from ptkit.core.shares import share_text

    best, found = result.best, []
    for name, value in best.items():
        if name == "accuracy" and result.num_right is not None and result.num_valid:
            share = share_text(result.num_right, result.num_valid)
            found.append(f"accuracy {share}, {result.majority}")
        elif name not in ("epoch", "loss"):
            found.append(f"{name} {metric_text(name, value).strip()}")
    # What the user waited for: importing torch takes seconds, before the run begins.
    began = process_began.get()
    seconds = result.seconds if began is None else time.perf_counter() - began
    return (
        f"best: epoch {best['epoch']:.0f}, valid {', '.join(found)}, loss {best['loss']:.4f};"
        f" {seconds:.1f} s in all"
    )


def profile_lines(profile: "Profile") -> list[str]:
    """Return where the time of the steps went, a line a part, and what limits."""
    from ptkit.core.training.profiling import BETWEEN, STEP

    each = 1000 / max(profile.num_steps, 1)
    steps = counted(profile.num_steps, "step")
    lines = [
        f"  {words:<18} {profile.share(part):6.1%}  {profile.seconds[part] * each:8.3g} ms"
        for part, words in STEP.items()
    ]
    between = ", ".join(f"{words} {profile.seconds[part]:.1f} s" for part, words in BETWEEN.items())
    return [
        f"a step takes {profile.of_steps * each:.3g} ms (mean of {steps}), of that",
        *lines,
        f"steps {profile.of_steps:.1f} s, {between}",
        profile.verdict,
    ]


def metric_text(name: str, value: float) -> str:
    """Return a metric as it is shown: shares in percent, errors in the labels' units, loss and r2
    as they are.
    """
    return f"{value:7.2%}" if is_share(name) else f"{value:.4g}"
