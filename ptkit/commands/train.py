"""`ptkit train`, and what training prints: a live line on a terminal, one plain line an epoch
everywhere.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ptkit import api_runs
from ptkit.commands import options
from ptkit.commands.output import Printer, printable
from ptkit.commands.progress import bar, live_line
from ptkit.core.wording import counted

if TYPE_CHECKING:
    # torch is imported when a run begins, not for the help.
    from ptkit.core.models.transfer import TransferReport
    from ptkit.core.training.loop import Progress
    from ptkit.core.training.observers import EpochResult
    from ptkit.core.training.profiling import Profile
    from ptkit.core.training.session import RunResult

# Reading the loss waits for the device, so the live line is drawn a few times a second only.
_REFRESH_S = 0.25


@options.with_flags(options.setting_flags() | options.RUN_FLAGS)
def train(printer: Printer, **settings: Any) -> None:
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume
    from, metrics.csv, TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    from ptkit.core.config_layers import parse_assignments

    settings = parse_assignments(settings.pop("assignments", ())) | settings
    result = api_runs.train(watch=TrainingScreen(printer), **settings)
    print_run(printer, result)


class TrainingScreen:
    """Prints lines on standard output; draws the live line on standard error where that is a
    terminal.
    """

    def __init__(self, printer: Printer, *, is_verbose: bool = False) -> None:
        self.printer, self.is_verbose = printer, is_verbose
        self._live: Any = None
        self._task: Any = None
        self._epochs = 0
        self._epoch_began = self._last_drawn = 0.0

    def say(self, text: str) -> None:
        self._hide_live()
        self.printer.say(text)

    def warn(self, text: str) -> None:
        self._hide_live()
        typer.echo(printable(f"ptkit: warning: {text}"), err=True)

    def transferred(self, report: "TransferReport") -> None:
        if self.is_verbose:
            self.say(report.details())

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        with bar(what, total, quiet=self.printer.silent) as advance:
            yield advance

    def begin(self, run: Path, *, epochs: int, num_steps: int) -> None:
        length = f"{counted(epochs, 'epoch')} of {counted(num_steps, 'batch', 'batches')}"
        self.say(f"run: {run}, {length}")
        self._epochs = epochs
        self._epoch_began = time.perf_counter()

    def step(self, progress: "Progress") -> None:
        now = time.perf_counter()
        is_due = now - self._last_drawn >= _REFRESH_S or progress.step == progress.num_steps
        if self.printer.silent or not is_due or not sys.stderr.isatty():
            return
        self._last_drawn = now
        if self._live is None:
            self._show_live(progress.num_steps)
        rate = progress.totals.read().num_images / (now - self._epoch_began)
        left = (now - self._epoch_began) / progress.step * (progress.num_steps - progress.step)
        epoch = f"epoch {progress.epoch}/{self._epochs}"
        loss = progress.totals.loss()
        numbers = f"loss {loss:.4f}  {rate:,.0f} images/s  {left:.0f} s left"
        self._live.update(self._task, description=epoch, completed=progress.step, numbers=numbers)

    def epoch(self, result: "EpochResult", *, is_best: bool) -> None:
        epoch = f"epoch {result.epoch:>{len(str(self._epochs))}}/{self._epochs}"
        accuracy = result.train_accuracy
        learned = "" if accuracy is None else f"  accuracy {accuracy:7.2%}"
        found = "  ".join(
            f"{name} {metric_text(name, value)}" for name, value in result.valid.items()
        )
        rate, mark = next(iter(result.lrs.values())), "  best" if is_best else ""
        for name in result.unfrozen:
            self.say(f"{epoch}  unfrozen: {name}")
        self.say(
            f"{epoch}  loss {result.train_loss:.4f}{learned}  "
            f"valid loss {result.valid_loss:.4f}  {found}  "
            f"lr {rate:.3g}  {result.images_per_s:,.0f} images/s  {result.seconds:.1f} s{mark}"
        )
        self._epoch_began = time.perf_counter()

    def end(self) -> None:
        self._hide_live()

    def _show_live(self, num_steps: int) -> None:
        from rich.progress import TextColumn

        self._live = live_line(TextColumn("{task.fields[numbers]}", markup=False))
        self._task = self._live.add_task("", total=num_steps, numbers="")
        self._live.start()

    def _hide_live(self) -> None:
        """Remove the live line, so that lines can be printed; the next step draws it again."""
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None


def print_run(printer: Printer, result: "RunResult") -> None:
    """Print how a run ended and where its files are."""
    best = result.best
    found = ", ".join(
        f"{name} {metric_text(name, value).strip()}"
        for name, value in best.items()
        if name not in ("epoch", "loss")
    )
    printer.say(
        f"best: epoch {best['epoch']:.0f}, valid {found}, loss {best['loss']:.4f};"
        f" {result.seconds:.1f} s in all"
    )
    printer.say(f"checkpoint: {result.checkpoint}")
    if result.profile is not None:
        printer.say("\n".join(profile_lines(result.profile)))
    pictures = [file for file in result.files if file.suffix in (".png", ".gif")]
    some = ", ".join(str(file.relative_to(result.run)) for file in pictures[:2])
    printer.say(f"{counted(len(pictures), 'picture')} in {result.run}, such as {some}")
    rows = [{"weights": k, **dataclasses.asdict(v)} for k, v in result.backbones.items()]
    printer.result(
        {
            "run": str(result.run),
            "checkpoint": str(result.checkpoint),
            "epochs": result.epochs,
            "best": {"accuracy": None, **best, "epoch": int(best["epoch"])},
            "seconds": result.seconds,
            "images_per_s": result.images_per_s,
            **({} if result.profile is None else {"profile": result.profile.as_dict()}),
            **({} if result.probe is None else {"probe": result.probe.as_dict()}),
            **({"backbones": rows} if rows else {}),
        }
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
    return f"{value:.4g}" if name in ("mae", "rmse", "r2", "loss") else f"{value:7.2%}"
