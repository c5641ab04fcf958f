"""One run, end to end: from settings to a run folder with checkpoints, logs and pictures."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from ptkit.core.config.settings import Settings
from ptkit.core.device import leaving_torch_as_it_was
from ptkit.core.distributed import Votes, from_main, lost, share_hashes, wait_for_main
from ptkit.core.errors import DivergedError, InterruptedRunError, StorageError
from ptkit.core.ranks import ALONE, being, here
from ptkit.core.run_files import has_diverged, resume_command
from ptkit.core.training.advice import facts_of_run, speedups, verdicts
from ptkit.core.training.batch_sizes import explained_memory
from ptkit.core.training.divergence import check_finite, remedy
from ptkit.core.training.evaluating import all_sums
from ptkit.core.training.holding import Hold, held, not_held
from ptkit.core.training.links import link_checkpoint
from ptkit.core.training.loop import BEGINNING, Position, Progress, fit
from ptkit.core.training.observers import EpochResult, Watcher
from ptkit.core.training.prediction import class_means
from ptkit.core.training.probing import fit_head_of, head_line, probe
from ptkit.core.training.resuming import check_before_setup, resumed_run, with_saved_alpha
from ptkit.core.training.run_folder import Run, first_image, new_run, sweep
from ptkit.core.training.run_place import Place
from ptkit.core.training.run_result import RunResult
from ptkit.core.training.save_times import SaveTimes
from ptkit.core.training.saved_run import check_run_folder, read_saved_state
from ptkit.core.training.setup import prepare
from ptkit.core.training.signals import StopFlag, Stoppable, stop_on_signals
from ptkit.core.training.tasks.loss import Totals
from ptkit.core.training.tasks.task import Task

_USUAL_PLACE = Place()


@leaving_torch_as_it_was()
def run(
    settings: Settings,
    *,
    watch: Watcher,
    place: Place = _USUAL_PLACE,
    link: Path | None = Path("ckpt.pkl"),
    resume: Path | None = None,
    before: Callable[[Run], object] = lambda _run: None,
    at_end: Callable[[Run], tuple[Path, ...]] = lambda _run: (),
) -> RunResult:
    """Train as `settings` say, into a new folder, or resume the run `resume`.

    link: where a link to the best checkpoint is put, or None.
    before: called with the run before its first step; may raise to stop it.
    at_end: called with the finished run; returns the files that it wrote.

    Raises:
        PtkitError: any of its children; see errors.py for what each means.
    """
    begin = time.perf_counter()
    with stop_on_signals() as flag, ExitStack() as stack:
        stoppable = Stoppable(watch, flag.of_one())
        current = _begun(settings, stack, watch=stoppable, place=place, resume=resume)
        try:
            with _saying_what_is_safe(current):
                before(current)
                _train_or_explain(current, watch, link, flag)
                files = _finished(current, at_end, flag)
        finally:
            # First: the live line goes, whatever fails below.
            watch.end()
            # Before the recorders, which it uses.
            current.writer.close()
            for recorder in current.recorders:
                recorder.close()
        # What comes next may read what it writes.
        wait_for_main()
        current.hold.is_unfinished = False
    assert current.best is not None
    facts = facts_of_run(current)
    return RunResult(
        run=current.folder,
        checkpoint=current.checkpoint,
        epochs=current.num_epochs,
        best=current.best,
        seconds=time.perf_counter() - begin,
        # The user may have moved the rows of a run away whose pictures are drawn now.
        images_per_s=current.rows[-1]["images_per_s"] if current.rows else 0.0,
        files=files,
        profile=current.training.clock.profile(),
        probe=current.history.probe,
        num_valid=facts.num_valid if facts.majority else None,
        majority=facts.majority,
        verdicts=verdicts(facts),
        odd=current.data.odd,
    )


def _begun(
    settings: Settings, stack: ExitStack, *, watch: Watcher, place: Place, resume: Path | None
) -> Run:
    """Make a new run, or the run `resume` as it was; `stack` closes what it is made of."""
    if resume is None:
        if here().is_main:
            place.check()
        # Settings, data and model are tried here, before there is a folder.
        setup = prepare(settings, watch, is_resumed=False)
        # After an error too: threads and worker processes would stay.
        stack.enter_context(closing(setup.data))
        # An unreadable image must not leave an empty folder either.
        example = first_image(setup)
        return new_run(setup, _held_by_main(place.folder, stack), example)
    check_run_folder(resume)
    hold = _held_by_main(lambda: resume, stack)
    if here().is_main:
        sweep(resume)
    saved, warning = read_saved_state(resume)
    if warning is not None:
        watch.warn(warning)
    if saved is not None:
        check_before_setup(saved, settings, is_unfinished=hold.is_unfinished)
        settings = with_saved_alpha(settings, saved)
    setup = prepare(settings, watch, is_resumed=saved is not None)
    stack.enter_context(closing(setup.data))
    if saved is None:
        ended = "diverged" if has_diverged(resume) else "was interrupted"
        watch.say(f"{resume} {ended} before a state was saved: it begins again")
        return new_run(setup, hold, first_image(setup))
    current, how_exact = resumed_run(setup, saved, hold)
    watch.say(f"resuming {saved.folder} after {saved.position}: {how_exact}")
    return current


def _held_by_main(folder: Callable[[], Path], stack: ExitStack) -> Hold:
    """Hold a run's folder in the first rank, which says to the others where it is."""
    hold: Hold | None = None

    def hold_it() -> tuple[Path, bool]:
        nonlocal hold
        hold = stack.enter_context(held(folder()))
        return hold.folder, hold.is_unfinished

    place, is_unfinished = from_main(hold_it)
    return hold or not_held(place, is_unfinished=is_unfinished)


def _finished(
    current: Run, at_end: Callable[[Run], tuple[Path, ...]], flag: StopFlag
) -> tuple[Path, ...]:
    """Do what is left when the epochs are done; return the files of `at_end`."""
    if not here().is_main:
        return ()
    profile = current.training.clock.profile()
    if profile is not None:
        current.write_profile(profile)
    try:
        with current.of_one_rank() as whole, being(ALONE):
            files = at_end(replace(whole, on_show=flag.check))
    except InterruptedRunError as error:
        raise InterruptedRunError(
            "interrupted while the last pictures were drawn; draw them with:"
            f" {resume_command(current.folder)}",
            signal_number=error.signal_number,
        ) from None
    current.hold.check()
    return files


@contextmanager
def _saying_what_is_safe(current: Run) -> Iterator[None]:
    """Add to what the disk refuses which state is left."""
    try:
        yield
    except StorageError as error:
        if not current.hold.is_there or not here().is_main:
            raise
        raise StorageError(f"{error}; {_what_is_saved(current)}") from error


def _train_or_explain(current: Run, watch: Watcher, link: Path | None, flag: StopFlag) -> None:
    """Train; a failure says which checkpoint is left, a signal what was saved."""
    saver = _Saver(current, watch, flag)
    try:
        with explained_memory(current.training, left=lambda: _what_is_left(current)):
            _train(current, watch, link, saver)
    except DivergedError as error:
        current.write_divergence(error)
        raise DivergedError(f"{error}; {_what_is_left(current)}") from None
    except RuntimeError as error:
        raise lost(error) or error from error
    except InterruptedRunError as error:
        saver.save()
        raise InterruptedRunError(
            f"interrupted; {_what_is_saved(current)}", signal_number=error.signal_number
        ) from None


class _Saver:
    """Follows a run step by step, and saves its state when that is due or it is interrupted."""

    def __init__(self, current: Run, watch: Watcher, flag: StopFlag) -> None:
        self._current, self._watch, self._flag = current, watch, flag
        train = current.settings.train
        self.stoppable = Stoppable(watch, flag.of_one())
        self.times = SaveTimes(train.save_every, epochs=train.epochs)
        self._votes = Votes()
        # Where the state in memory is; the sums of its epoch are read when it is saved.
        self._position = current.history.start
        self._totals: Totals | None = None

    def on_step(self, progress: Progress) -> None:
        self._watch.step(progress)
        self._position = Position(progress.epoch - 1, progress.step, progress.seconds)
        self._totals = progress.totals
        # By one clock.
        is_due = self.times.after_step(self._current.training.schedule.num_steps) and here().is_main
        signal_number, is_wanted = self._votes.largest(self._flag.signal_number or 0, is_due)
        if is_wanted:
            self._begin()
        self._current.writer.check()
        StopFlag(signal_number or None).check()

    def look(self) -> None:
        """Stop if a write has failed or a signal came, which waits for nothing; of several ranks
        none stops alone, but all after the same step.
        """
        self._current.writer.check()
        self._flag.of_one().check()

    def after_epoch(self, epoch: int) -> None:
        self._position, self._totals = Position(epoch), None

    def save(self) -> None:
        """Save the state now, unless it is saved already, and wait until that is done."""
        # What is under way may be it.
        self._current.writer.wait()
        if self._current.history.saved != self._position and self._current.makes_steps:
            self._begin()
            self._current.writer.wait()

    def _begin(self) -> None:
        if self._totals is not None:
            # Weights of a loss that is not finite would replace good ones.
            check_finite(self._totals, self._current.training, self._position.epochs + 1)
            self._position = replace(self._position, sums=all_sums(self._totals))
            self._current.training.gauge.gather()
            self._totals = None
        self._current.save(self._position)


def _train(current: Run, watch: Watcher, link: Path | None, saver: _Saver) -> None:
    epochs, patience = current.settings.train.epochs, current.settings.train.patience
    start = current.history.start
    num_steps = len(current.training.train)
    watch.begin(current.folder, epochs=epochs, num_steps=num_steps, faster=speedups(current))
    saver.look()
    # Interrupted after that, only its pictures are missing.
    if _is_stopped_early(current):
        return
    for result in _results(current, watch, saver):
        if result.epoch == start.epochs + 1:
            # Each rank has read its own images only, and the first one asks for all.
            for batches in (current.training.train, current.training.valid):
                share_hashes(batches.known_hashes())
        is_due = from_main(functools.partial(saver.times.after_epoch, result.epoch))
        is_best = _record(current, result, is_due=is_due)
        saver.after_epoch(result.epoch)
        watch.epoch(result, is_best=is_best)
        # Before its first epoch a run has no checkpoint to link to.
        if result.epoch == start.epochs + 1 and here().is_main:
            current.writer.wait()
            warnings = (
                current.seen_before(),
                link_checkpoint(current.checkpoint, link) if link else None,
            )
            for warning in filter(None, warnings):
                watch.warn(warning)
        # After the last epoch the run is finished: its pictures are worth waiting for.
        if result.epoch < epochs:
            saver.look()
        if _is_stopped_early(current):
            watch.say(f"stopped early: no better {current.metric} for {patience} epochs")
            break
    # Pictures are of what is on the disk.
    current.writer.wait()


def _results(current: Run, watch: Watcher, saver: _Saver) -> Iterator[EpochResult]:
    """Yield the epochs of the run, by its method."""
    start = current.history.start
    if not current.makes_steps:
        if start.epochs:
            return
        result, report, valid_features = probe(current, saver.stoppable)
        for line in report.lines():
            watch.say(line)
        current.write_probe(report, valid_features)
        yield result
        return
    if current.settings.train.method == "probe-steps" and start == BEGINNING:
        watch.say(head_line(current.training, fit_head_of(current, saver.stoppable)))
        if current.training.average is not None:
            current.training.average.restart()
    yield from fit(current.training, start=start, on_step=saver.on_step, on_look=saver.look)


def _record(current: Run, result: EpochResult, *, is_due: bool) -> bool:
    """Add an epoch to the history and begin to write it; return whether it is the best so far."""
    # A checkpoint of such weights would replace a good one.
    if not math.isfinite(result.valid_loss):
        raise DivergedError(
            f"the validation loss became {result.valid_loss} after epoch {result.epoch}; "
            + remedy(current.training, num_steps=current.training.schedule.num_steps),
            step=current.training.schedule.num_steps,
        )
    is_best = current.history.add(result, metric=current.metric)
    # The last epoch is saved, planned or not.
    is_due = is_due or _is_stopped_early(current)
    if is_best:
        # For the best alone: it may take a pass over all training images.
        current.history.task = _task_now(current)
    current.record(result, is_best=is_best, is_due=is_due)
    return is_best


def _is_stopped_early(current: Run) -> bool:
    patience = current.settings.train.patience
    return patience is not None and current.history.epochs_without_better >= patience


def _task_now(current: Run) -> Task:
    """Return how outputs are read now: the class means of an embedding move with the weights."""
    training, loss = current.training, current.training.loss
    if not loss.compares:
        return loss.task
    means = class_means(training.model, current.data.reference, dtype=training.dtype)
    return replace(loss.task, class_means=means)


def _what_is_saved(current: Run) -> str:
    """Say up to where the run is saved, and how to continue it."""
    saved = current.history.saved
    if saved is None:
        return f"nothing was saved yet; begin again with: {resume_command(current.folder)}"
    command = resume_command(current.folder)
    return f"{current.folder} is saved up to {saved}; continue it with: {command}"


def _what_is_left(current: Run) -> str:
    """Say which checkpoint is on disk, when it is there."""
    current.writer.wait()
    epoch = current.history.best_saved
    if epoch is None:
        return "there is no checkpoint yet"
    return f"{current.checkpoint} is kept, of epoch {epoch}"
