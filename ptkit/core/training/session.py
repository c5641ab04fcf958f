"""One run, end to end: from settings to a run folder with checkpoints, logs and pictures."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ptkit.core.calls import parse
from ptkit.core.config import Settings, to_toml
from ptkit.core.errors import DivergedError, InterruptedRunError, UsageError
from ptkit.core.files import write_atomically
from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.models.zoo import check_forward
from ptkit.core.training import records
from ptkit.core.training.data_setup import PreparedData, prepare_data
from ptkit.core.training.device import choose_device, choose_dtype, prepare_device
from ptkit.core.training.interruption import StopFlag, stop_on_signals
from ptkit.core.training.live_run import Run
from ptkit.core.training.loop import EpochResult, LoopSettings, Progress, Training, fit
from ptkit.core.training.losses import build_loss
from ptkit.core.training.model_setup import PreparedModel, prepare_model, prepare_optimizer
from ptkit.core.training.optimizers import Prepared
from ptkit.core.training.resuming import SavedState, read_saved_state, restore
from ptkit.core.training.schedules import build_schedule
from ptkit.core.training.snapshots import best_checkpoint, last_checkpoint
from ptkit.core.training.starting_weights import find_weights
from ptkit.core.training.watching import Watcher


@dataclass(frozen=True)
class RunResult:
    """Where a run is and how well it did. best: epoch, accuracy, loss of the best epoch."""

    run: Path
    checkpoint: Path
    epochs: int
    best: Mapping[str, float]
    seconds: float
    images_per_s: float
    files: tuple[Path, ...]


def run(
    settings: Settings,
    *,
    watch: Watcher,
    runs: Path = Path("runs"),
    name: str | None = None,
    link: Path | None = Path("ckpt.pkl"),
    resume: Path | None = None,
) -> RunResult:
    """Train as `settings` say, into a new folder of `runs`, or go on with the run `resume`.

    link: where a link to the best checkpoint is put, or None.

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
        # Here, because it brings matplotlib, which nothing before needs.
        from ptkit.core.training.summaries import write_summaries

        files = write_summaries(current)
    finally:
        watch.end()
        current.events.close()
        current.training.train.close()
        current.training.valid.close()
    assert current.best is not None
    return RunResult(
        run=current.folder,
        checkpoint=current.checkpoint,
        epochs=len(current.rows),
        best=current.best,
        seconds=time.perf_counter() - begin,
        images_per_s=current.rows[-1]["images_per_s"],
        files=files,
    )


def prepare(settings: Settings, watch: Watcher, *, is_resumed: bool) -> Run:
    """Build everything that can be wrong before the first file is written."""
    if parse(settings.optimizer.call).name == "LBFGS":
        # LBFGS flattens gradients as views, which channels_last does not allow.
        settings = replace(settings, train=replace(settings.train, channels_last=False))
    device = choose_device(settings.train.device)
    threads = prepare_device(device, deterministic=settings.train.deterministic)
    start = None
    if settings.model.weights and not is_resumed:
        start = find_weights(settings.model.weights, model=settings.model.call)
    data = prepare_data(settings, device=device, counting=watch.counting, start=start)
    model = prepare_model(settings, class_names=data.class_names, size=data.size, device=device, start=start)
    # One batch before anything is written: transforms that do not fit, and sizes that the model does not take.
    _, _, height, width = next(data.train.epoch(0)).images.shape
    if height == width != data.size:
        check_forward(model.module, height, num_classes=len(data.class_names))
    loss = build_loss(settings.loss.call, num_classes=len(data.class_names)).to(device)
    prepared = prepare_optimizer(settings, model.module, num_classes=len(data.class_names))
    train = settings.train
    schedule = build_schedule(
        settings.scheduler.call,
        prepared.optimizer,
        per=settings.scheduler.per,
        warmup=settings.scheduler.warmup,
        metric=settings.scheduler.metric,
        epochs=train.epochs,
        steps_per_epoch=-(-len(data.train) // train.accumulate),
    )
    dtype = choose_dtype(train.precision, device)
    loop = LoopSettings(train.epochs, train.seed, train.accumulate, train.clip_grad, dtype)
    training = Training(
        model.module,
        data.train,
        data.valid,
        loss,
        prepared.optimizer,
        schedule,
        loop,
        frozen=prepared.frozen,
        excluded=prepared.excluded,
    )
    resolved = _resolved(settings, data, model, prepared)
    precision = "fp32" if dtype is None else str(dtype).removeprefix("torch.")
    where = f"{device.type}, {threads} threads" if device.type == "cpu" else device.type
    for note in (*data.notes, *model.notes):
        watch.say(note)
    watch.say(
        f"optimizer: {prepared.call}, lr {prepared.lr:g}; schedule: {settings.scheduler.call}, "
        f"warm-up {schedule.warmup_steps} steps; loss: {settings.loss.call}; {where}, {precision}"
    )
    for note in _group_notes(prepared, settings):
        watch.say(note)
    if model.report is not None:
        watch.transferred(model.report)
    for reason in data.skipped:
        watch.warn(f"left out: {reason}")
    return Run(Path(), resolved, data, model, prepared, training, records.NoEvents())


def _group_notes(prepared: Prepared, settings: Settings) -> list[str]:
    """Return what became of the parameter groups, where the user asked for any."""
    if not settings.optimizer.groups and settings.optimizer.head_lr == 1.0:
        return []
    groups = prepared.optimizer.param_groups
    notes = [f"group {group['name']}: {len(group['params'])} tensors, lr {group['lr']:g}" for group in groups]
    left = {"frozen": prepared.frozen, "excluded": prepared.excluded}
    return notes + [f"{what}: {len(names)} tensors, {names[0]} to {names[-1]}" for what, names in left.items() if names]


def _resolved(settings: Settings, data: PreparedData, model: PreparedModel, prepared: Prepared) -> Settings:
    """Return the settings with all that was chosen written out, so that they repeat this run."""
    weights = settings.model.weights
    # ./ckpt.pkl will point at this run soon; the file that it points at now is meant.
    if weights and os.path.islink(weights):
        weights = os.path.relpath(os.path.realpath(weights))
    return replace(
        settings,
        data=data.settings,
        model=replace(settings.model, call=model.call, weights=weights),
        optimizer=replace(settings.optimizer, call=prepared.call, lr=prepared.lr),
    )


def _start(current: Run, runs: Path, name: str | None) -> None:
    current.folder = records.new_run_folder(runs, name)
    toml = to_toml(current.settings, folder=current.folder)
    write_atomically(current.folder / "config.toml", toml.encode())
    if current.data.skipped:
        text = "".join(f"{reason}\n" for reason in current.data.skipped)
        write_atomically(current.folder / "skipped.txt", text.encode(errors="surrogateescape"))
    current.events = records.open_events(current.folder, current.settings.log)
    example = next(iter(current.training.valid.epoch())).images[:1]
    texts = {"config": toml, "data": "\n".join((*current.data.notes, *current.model.notes))}
    current.events.start(current.training.model, example, texts)


def _continue(current: Run, saved: SavedState, watch: Watcher) -> None:
    how_exact = restore(saved, current)
    current.folder = saved.folder
    current.rows = records.read_metrics(saved.folder / "metrics.csv", up_to_epoch=saved.epoch)
    current.saved_epoch = saved.epoch
    current.best = dict(saved.best)
    current.epochs_without_better = saved.checkpoint["train"]["epochs_without_better"]
    write_atomically(saved.folder / "config.toml", to_toml(current.settings, folder=saved.folder).encode())
    current.events = records.open_events(saved.folder, current.settings.log)
    watch.say(f"going on with {saved.folder} after epoch {saved.epoch}: {how_exact}")


def _train_or_tell(current: Run, saved: SavedState | None, watch: Watcher, link: Path | None) -> None:
    """Train; say of a failure what is left of the run."""
    try:
        _train(current, saved, watch, link)
    except DivergedError as error:
        raise DivergedError(f"{error}; {_what_is_left(current)}") from None
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"out of memory: lower --batch-size (and raise train.accumulate as much); {_what_is_left(current)}"
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
                watch.say(f"stopped early: no better {settings.metric} for {settings.patience} epochs")
                break


def _record(current: Run, result: EpochResult) -> bool:
    """Write one epoch down: checkpoints first, then the logs; return whether it is the best so far."""
    if not (result.valid_loss == result.valid_loss and abs(result.valid_loss) != float("inf")):
        raise DivergedError(
            f"the validation loss became {result.valid_loss} after epoch {result.epoch}; try a lower --lr"
        )
    row = records.row_of(result)
    is_best = current.best is None or _score(row, current) > _score(_as_row(current.best), current)
    if is_best:
        current.best = {"epoch": result.epoch, "accuracy": result.valid_accuracy, "loss": result.valid_loss}
    current.epochs_without_better = 0 if is_best else current.epochs_without_better + 1
    current.rows.append(row)
    assert current.best is not None
    # The log first: resuming cuts it back to the saved epoch, but could not fill a gap.
    records.write_metrics(current.folder / "metrics.csv", current.rows)
    if is_best:
        save_checkpoint(current.checkpoint, best_checkpoint(current))
    train = current.settings.train
    if result.epoch % train.save_every == 0 or result.epoch == train.epochs:
        save_checkpoint(current.folder / "last.pkl", last_checkpoint(current))
        current.saved_epoch = result.epoch
    current.events.epoch(result, current.training.model, current.prepared.group_names)
    return is_best


def _score(row: Mapping[str, float], current: Run) -> tuple[float, float]:
    """Return what decides between epochs: the metric, then the other one; the earlier wins a tie."""
    by_accuracy = (row["valid_accuracy"], -row["valid_loss"])
    return by_accuracy if current.settings.train.metric == "accuracy" else by_accuracy[::-1]


def _as_row(best: Mapping[str, float]) -> dict[str, float]:
    return {"valid_accuracy": best["accuracy"], "valid_loss": best["loss"]}


def _stop_if_asked(flag: StopFlag, current: Run) -> None:
    if flag.signal_number is None:
        return
    if current.saved_epoch:
        message = f"interrupted; {current.folder} is saved up to epoch {current.saved_epoch}; go on with: "
        message += f"ptkit train --resume {current.folder}"
    else:
        message = "interrupted before the first epoch was saved; nothing can be resumed"
    raise InterruptedRunError(message, signal_number=flag.signal_number)


def _what_is_left(current: Run) -> str:
    if current.best is None:
        return "no epoch was good, so there is no checkpoint"
    return f"{current.checkpoint} is kept, of epoch {int(current.best['epoch'])}"
