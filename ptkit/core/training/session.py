"""One run, end to end: from settings to a run folder with checkpoints, logs and pictures."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch

from ptkit.core.config import Settings
from ptkit.core.config_layers import to_toml
from ptkit.core.data.transforms.pipeline import denormalise
from ptkit.core.errors import DivergedError, InterruptedRunError, UsageError
from ptkit.core.files import write_atomically
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.weight_statistics import as_text, weight_statistics
from ptkit.core.training import run_folder as records
from ptkit.core.training.loop import EpochResult, Progress, fit
from ptkit.core.training.observers import Watcher
from ptkit.core.training.prediction import class_means
from ptkit.core.training.profiling import Profile
from ptkit.core.training.recorders import open_recorders
from ptkit.core.training.run_folder import (
    SavedState,
    checkpoint_of,
    last_checkpoint,
    read_saved_state,
    restore,
)
from ptkit.core.training.setup import Run, prepare
from ptkit.core.training.tasks.task import METRICS, Task, read_task


@dataclass(frozen=True)
class RunResult:
    """Where a run is and how well it did.

    best: epoch, loss and metrics of the best epoch, the main one first. profile: with
    train.profile.
    """

    run: Path
    checkpoint: Path
    epochs: int
    best: Mapping[str, float]
    seconds: float
    images_per_s: float
    files: tuple[Path, ...]
    profile: Profile | None = None


class StopFlag:
    """Which signal asked the run to stop, or None."""

    signal_number: int | None = None


def run(
    settings: Settings,
    *,
    watch: Watcher,
    runs: Path = Path("runs"),
    name: str | None = None,
    link: Path | None = Path("ckpt.pkl"),
    resume: Path | None = None,
    at_end: Callable[[Run], tuple[Path, ...]] = lambda _run: (),
) -> RunResult:
    """Train as `settings` say, into a new folder of `runs`, or go on with the run `resume`.

    link: where a link to the best checkpoint is put, or None.
    at_end: called with the finished run; returns the files that it wrote.

    Raises:
        PtkitError: any of its children; see errors.py for what each means.
    """
    begin = time.perf_counter()
    saved = read_saved_state(resume) if resume is not None else None
    current = prepare(settings, watch, is_resumed=saved is not None)
    if saved is not None:
        _continue(current, saved, watch)
    else:
        _start(current, runs, name)
    try:
        _train_or_tell(current, saved, watch, link)
        profile = _written_profile(current)
        files = at_end(current)
    finally:
        watch.end()
        for recorder in current.recorders:
            recorder.close()
        for batches in (current.data.train, current.data.valid, current.data.reference):
            batches.close()
    assert current.best is not None
    return RunResult(
        run=current.folder,
        checkpoint=current.checkpoint,
        epochs=len(current.rows),
        best=current.best,
        seconds=time.perf_counter() - begin,
        images_per_s=current.rows[-1]["images_per_s"],
        files=files,
        profile=profile,
    )


def _start(current: Run, runs: Path, name: str | None) -> None:
    example = next(iter(current.training.valid.epoch())).images[:1]
    current.folder = records.new_run_folder(runs, name)
    toml = to_toml(current.settings, folder=current.folder)
    write_atomically(current.folder / "config.toml", toml.encode())
    if current.data.skipped:
        text = "".join(f"{reason}\n" for reason in current.data.skipped)
        write_atomically(current.folder / "skipped.txt", text.encode(errors="surrogateescape"))
    current.recorders = open_recorders(current.folder, current.settings.log)
    seen = denormalise(example[0], current.data.settings.mean, current.data.settings.std)
    texts = {
        "config": toml,
        "data": "\n".join((*current.data.notes, *current.model.notes)),
        "weights before training": as_text(weight_statistics(current.training.model)),
    }
    for recorder in current.recorders:
        recorder.start(current.training.model, example, texts, seen)


def _continue(current: Run, saved: SavedState, watch: Watcher) -> None:
    how_exact = restore(saved, current)
    current.folder = saved.folder
    current.rows = records.read_metrics(saved.folder / "metrics.csv", up_to_epoch=saved.epoch)
    current.saved_epoch = saved.epoch
    current.best = dict(saved.best)
    current.task = read_task(read_checkpoint(current.checkpoint)["task"])
    current.epochs_without_better = saved.checkpoint["train"]["epochs_without_better"]
    write_atomically(
        saved.folder / "config.toml", to_toml(current.settings, folder=saved.folder).encode()
    )
    current.recorders = open_recorders(saved.folder, current.settings.log, up_to_epoch=saved.epoch)
    watch.say(f"going on with {saved.folder} after epoch {saved.epoch}: {how_exact}")


def _train_or_tell(
    current: Run, saved: SavedState | None, watch: Watcher, link: Path | None
) -> None:
    """Train; say of a failure what is left of the run."""
    try:
        _train(current, saved, watch, link)
    except DivergedError as error:
        raise DivergedError(f"{error}; {_what_is_left(current)}") from None
    except torch.OutOfMemoryError as error:
        raise UsageError(
            "out of memory: lower --batch-size (and raise train.accumulate as much);"
            f" {_what_is_left(current)}"
        ) from error


def _train(current: Run, saved: SavedState | None, watch: Watcher, link: Path | None) -> None:
    settings = current.settings.train
    start_epoch = saved.epoch if saved is not None else 0
    watch.begin(current.folder, epochs=settings.epochs, num_steps=len(current.training.train))
    with stop_on_signals() as flag:

        def on_step(progress: Progress) -> None:
            watch.step(progress)
            _stop_if_asked(flag, current)

        for result in fit(current.training, start_epoch=start_epoch, on_step=on_step):
            is_best = _record(current, result)
            watch.epoch(result, is_best=is_best)
            if link is not None and result.epoch == start_epoch + 1:
                warning = records.link_checkpoint(current.checkpoint, link)
                if warning:
                    watch.warn(warning)
            if result.epoch < settings.epochs:
                _stop_if_asked(flag, current)
            if settings.patience is not None and current.epochs_without_better >= settings.patience:
                watch.say(
                    f"stopped early: no better {current.metric} for {settings.patience} epochs"
                )
                break


def _record(current: Run, result: EpochResult) -> bool:
    """Write one epoch down: checkpoints first, then the logs; return whether it is the best so far."""
    if not math.isfinite(result.valid_loss):
        raise DivergedError(
            f"the validation loss became {result.valid_loss} after epoch {result.epoch}; try a"
            " lower --lr"
        )
    found = {"epoch": result.epoch, "loss": result.valid_loss, **result.valid}
    is_best = current.best is None or _score(found, current) > _score(current.best, current)
    if is_best:
        current.best = found
    current.epochs_without_better = 0 if is_best else current.epochs_without_better + 1
    current.rows.append(records.row_of(result))
    # The log first: resuming cuts it back to the saved epoch, but could not fill a gap.
    records.write_metrics(current.folder / "metrics.csv", current.rows)
    if is_best:
        current.task = _task_now(current)
        save_checkpoint(current.checkpoint, checkpoint_of(current, current.task, kind="best"))
    # Before the state to resume from, which cuts it back: after it, a kill in between would leave a
    # gap.
    for recorder in current.recorders:
        recorder.epoch(result, current.training.model)
    train = current.settings.train
    if result.epoch % train.save_every == 0 or result.epoch == train.epochs:
        save_checkpoint(current.folder / "last.pkl", last_checkpoint(current))
        current.saved_epoch = result.epoch
    return is_best


def _written_profile(current: Run) -> Profile | None:
    profile = current.training.clock.profile()
    if profile is not None:
        text = json.dumps(profile.as_dict(), indent=2) + "\n"
        write_atomically(current.folder / "profile.json", text.encode())
    return profile


def _task_now(current: Run) -> Task:
    """Return how the outputs of the weights as they are now are read: an embedding by the places of
    the classes.
    """
    training, loss = current.training, current.training.loss
    if not loss.compares:
        return loss.task
    means = class_means(
        training.model,
        current.data.reference,
        num_classes=loss.facts.num_classes,
        dtype=training.settings.dtype,
    )
    return replace(loss.task, class_means=means)


def _score(found: Mapping[str, float], current: Run) -> tuple[float, float]:
    """Return what decides between epochs: the metric, then the loss; the earlier wins a tie.

    By loss, the main metric of the task settles a tie.
    """
    modes = METRICS[current.task.kind]
    name = next(iter(modes)) if current.metric == "loss" else current.metric
    value = found[name] if modes[name] == "max" else -found[name]
    return (-found["loss"], value) if current.metric == "loss" else (value, -found["loss"])


def _stop_if_asked(flag: StopFlag, current: Run) -> None:
    if flag.signal_number is None:
        return
    if current.saved_epoch:
        message = (
            f"interrupted; {current.folder} is saved up to epoch {current.saved_epoch}; go on"
            " with: "
        )
        message += f"ptkit train --resume {current.folder}"
    else:
        message = "interrupted before the first epoch was saved; nothing can be resumed"
    raise InterruptedRunError(message, signal_number=flag.signal_number)


def _what_is_left(current: Run) -> str:
    if current.best is None:
        return "no epoch was good, so there is no checkpoint"
    return f"{current.checkpoint} is kept, of epoch {int(current.best['epoch'])}"


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the first SIGINT or SIGTERM in a flag while the block runs; a second one acts at once."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _frame: FrameType | None) -> None:
        flag.signal_number = number
        for each in before:
            signal.signal(each, before[each])

    for number in before:
        signal.signal(number, remember)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
