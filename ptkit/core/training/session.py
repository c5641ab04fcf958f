"""One run, end to end: from settings to a run folder with checkpoints, logs and pictures."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from ptkit.core.config import Settings
from ptkit.core.errors import DivergedError, InterruptedRunError
from ptkit.core.training.advice import Verdict, facts_of_run, speedups, verdicts
from ptkit.core.training.batch_sizes import explained_memory
from ptkit.core.training.holding import held
from ptkit.core.training.loop import Progress, fit, remedy
from ptkit.core.training.observers import EpochResult, Unwatched, Watcher
from ptkit.core.training.prediction import class_means
from ptkit.core.training.probe.linear_head import Chosen
from ptkit.core.training.probe.report import ProbeReport
from ptkit.core.training.probing import fit_head_of, head_line, probe
from ptkit.core.training.profiling import Profile
from ptkit.core.training.resuming import check_run_folder, read_saved_state, resumed_run
from ptkit.core.training.run_folder import Run, new_run
from ptkit.core.training.run_place import Place
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.metrics import Majority, interval
from ptkit.core.training.tasks.task import Task

_USUAL_PLACE = Place()


@dataclass(frozen=True)
class RunResult:
    """best: epoch, loss and metrics of the best epoch. profile: with train.profile.

    num_valid: images of which its accuracy is the share that is right. majority: their most
    frequent class. Both None where there is no accuracy: of several labels, and of numbers.
    verdicts: what should be known before the result is used. probe: what a probe found out.
    backbones: how good heads on each of several are, by what names them.
    """

    run: Path
    checkpoint: Path
    epochs: int
    best: Mapping[str, float]
    seconds: float
    images_per_s: float
    files: tuple[Path, ...]
    profile: Profile | None = None
    num_valid: int | None = None
    majority: Majority | None = None
    verdicts: tuple[Verdict, ...] = ()
    probe: ProbeReport | None = None
    backbones: Mapping[str, Chosen] = field(default_factory=dict)

    @property
    def num_right(self) -> int | None:
        """How many validation images the best epoch had right."""
        return None if self.num_valid is None else round(self.best["accuracy"] * self.num_valid)

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the best epoch's accuracy, Wilson's; None where there is none."""
        if self.num_right is None or self.num_valid is None:
            return None
        return interval(self.num_right, self.num_valid)


class StopFlag:
    """Which signal asked the run to stop, or None."""

    signal_number: int | None = None


def run(
    settings: Settings,
    *,
    watch: Watcher,
    place: Place = _USUAL_PLACE,
    link: Path | None = Path("ckpt.pkl"),
    resume: Path | None = None,
    at_end: Callable[[Run], tuple[Path, ...]] = lambda _run: (),
) -> RunResult:
    """Train as `settings` say, into a new folder, or resume the run `resume`.

    link: where a link to the best checkpoint is put, or None.
    at_end: called with the finished run; returns the files that it wrote.

    Raises:
        PtkitError: any of its children; see errors.py for what each means.
    """
    begin = time.perf_counter()
    with ExitStack() as stack:
        current = _begun(settings, stack, watch=watch, place=place, resume=resume)
        try:
            _train_or_explain(current, watch, link)
            profile = current.training.clock.profile()
            if profile is not None:
                current.write_profile(profile)
            files = at_end(current)
        finally:
            # First: the live line goes, whatever fails below.
            watch.end()
            # Before the recorders, which it uses.
            current.writer.close()
            for recorder in current.recorders:
                recorder.close()
        current.hold.check()
        current.hold.is_unfinished = False
    assert current.best is not None
    facts = facts_of_run(current)
    return RunResult(
        run=current.folder,
        checkpoint=current.checkpoint,
        epochs=len(current.rows),
        best=current.best,
        seconds=time.perf_counter() - begin,
        images_per_s=current.rows[-1]["images_per_s"],
        files=files,
        profile=profile,
        probe=current.history.probe,
        num_valid=facts.num_valid if facts.majority else None,
        majority=facts.majority,
        verdicts=verdicts(facts),
    )


def _begun(
    settings: Settings, stack: ExitStack, *, watch: Watcher, place: Place, resume: Path | None
) -> Run:
    """Make a new run, or the run `resume` as it was; `stack` closes what it is made of."""
    if resume is None:
        place.check()
        # Settings, data and model are tried here, before there is a folder.
        setup = prepare(settings, watch, is_resumed=False)
        # After an error too: threads and worker processes would stay.
        stack.enter_context(closing(setup.data))
        # An unreadable image must not leave an empty folder either.
        example = next(iter(setup.training.valid.epoch())).images[:1]
        return new_run(setup, stack.enter_context(held(place.folder())), example)
    check_run_folder(resume)
    hold = stack.enter_context(held(resume))
    saved = read_saved_state(resume)
    setup = prepare(settings, watch, is_resumed=True)
    stack.enter_context(closing(setup.data))
    current, how_exact = resumed_run(setup, saved, hold)
    watch.say(f"resuming {saved.folder} after epoch {saved.epoch}: {how_exact}")
    return current


def _train_or_explain(current: Run, watch: Watcher, link: Path | None) -> None:
    """Train; a failure says which checkpoint is left."""
    try:
        with explained_memory(current.training, left=lambda: _what_is_left(current)):
            _train(current, watch, link)
    except DivergedError as error:
        raise DivergedError(f"{error}; {_what_is_left(current)}") from None


def _train(current: Run, watch: Watcher, link: Path | None) -> None:
    epochs, patience = current.settings.train.epochs, current.settings.train.patience
    start_epoch = current.history.saved_epoch
    num_steps = len(current.training.train)
    watch.begin(current.folder, epochs=epochs, num_steps=num_steps, faster=speedups(current))
    with stop_on_signals() as flag:

        def on_step(progress: Progress) -> None:
            watch.step(progress)
            _stop_if_asked(flag, current)

        stoppable = _Stoppable(watch, lambda: _stop_if_asked(flag, current))
        results = _results(current, stoppable, start_epoch=start_epoch, on_step=on_step)
        for result in results:
            is_best = _record(current, result)
            watch.epoch(result, is_best=is_best)
            # Before its first epoch a run has no checkpoint to link to.
            if result.epoch == start_epoch + 1:
                current.writer.wait()
                warnings = current.seen_before(), current.link_from(link) if link else None
                for warning in filter(None, warnings):
                    watch.warn(warning)
            # After the last epoch the run is finished: its pictures are worth waiting for.
            if result.epoch < epochs:
                _stop_if_asked(flag, current)
            if patience is not None and current.history.epochs_without_better >= patience:
                watch.say(f"stopped early: no better {current.metric} for {patience} epochs")
                break
        # A signal while the last epoch is written must not break it off.
        current.writer.wait()


class _Stoppable(Unwatched):
    """Shows what is said and how far a pass is, and calls `check`, which may raise to stop."""

    def __init__(self, watch: Watcher, check: Callable[[], None]) -> None:
        self._watch, self._check = watch, check

    def say(self, text: str) -> None:
        self._watch.say(text)

    def warn(self, text: str) -> None:
        self._watch.warn(text)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        with self._watch.counting(what, total) as advance:

            def advance_or_stop(count: int) -> None:
                advance(count)
                self._check()

            yield advance_or_stop


def _results(
    current: Run, watch: Watcher, *, start_epoch: int, on_step: Callable[[Progress], None]
) -> Iterator[EpochResult]:
    """Yield the epochs of the run, by its method."""
    method = current.settings.train.method
    if method == "probe":
        result, report, valid_features = probe(current, watch)
        for line in report.lines():
            watch.say(line)
        current.write_probe(report, valid_features)
        yield result
        return
    if method == "probe-steps" and not start_epoch:
        watch.say(head_line(current.training, fit_head_of(current, watch)))
        if current.training.average is not None:
            current.training.average.restart()
    yield from fit(current.training, start_epoch=start_epoch, on_step=on_step)


def _record(current: Run, result: EpochResult) -> bool:
    """Add an epoch to the history and begin to write it; return whether it is the best so far."""
    # A checkpoint of such weights would replace a good one.
    if not math.isfinite(result.valid_loss):
        raise DivergedError(
            f"the validation loss became {result.valid_loss} after epoch {result.epoch}; "
            + remedy(current.training, num_steps=current.training.schedule.num_steps)
        )
    is_best = current.history.add(result, metric=current.metric)
    if is_best:
        # For the best alone: it may take a pass over all training images.
        current.history.task = _task_now(current)
    current.record(result, is_best=is_best)
    return is_best


def _task_now(current: Run) -> Task:
    """Return how outputs are read now: the class means of an embedding move with the weights."""
    training, loss = current.training, current.training.loss
    if not loss.compares:
        return loss.task
    means = class_means(training.model, current.data.reference, dtype=training.dtype)
    return replace(loss.task, class_means=means)


def _stop_if_asked(flag: StopFlag, current: Run) -> None:
    current.writer.check()
    if flag.signal_number is None:
        return
    # What is under way may be the state to resume from.
    current.writer.wait()
    saved_epoch = current.history.saved_epoch
    message = "interrupted before the first epoch was saved; nothing can be resumed"
    if saved_epoch:
        message = (
            f"interrupted; {current.folder} is saved up to epoch {saved_epoch}; continue it with:"
            f" ptkit train --resume {current.folder}"
        )
    raise InterruptedRunError(message, signal_number=flag.signal_number)


def _what_is_left(current: Run) -> str:
    """Say which checkpoint is on disk, when it is there."""
    current.writer.wait()
    if current.best is None:
        return "no epoch had a finite loss, so there is no checkpoint"
    return f"{current.checkpoint} is kept, of epoch {int(current.best['epoch'])}"


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the first SIGINT or SIGTERM in a flag; a second one acts at once."""
    flag = StopFlag()
    # In other threads signal.signal raises ValueError: there signals keep their usual effect.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, _frame: FrameType | None) -> None:
        # Only a flag: an exception could break off anything, such as writing a checkpoint.
        flag.signal_number = number
        # The second signal acts at once.
        restore()

    for number in before:
        signal.signal(number, remember)
    try:
        yield flag
    finally:
        restore()
