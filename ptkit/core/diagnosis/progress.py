"""Rules on losses, gradients and the clock: whether a run learned, and at what rate."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ptkit.core.diagnosis.chance import is_as_guessing, is_as_majority, majority_limit
from ptkit.core.diagnosis.findings import (
    FAIL,
    INFO,
    WARN,
    Judgement,
    fine,
    not_applicable,
)
from ptkit.core.diagnosis.recorded import Floats, Recorded, least, running_median
from ptkit.core.diagnosis.step_sizes import (
    LARGE_UPDATE,
    SMALL_UPDATE,
    USUAL_UPDATE,
    calmer,
    faster,
    overall_update,
    slower,
    without_init,
)
from ptkit.core.run_files import MARGINS

# See rules.RULES for where the limits come from.
_ROSE_AGAIN, _ROSE_AFTER_SPIKE = 2.0, 1.2
# Of the loss of guessing: a minimum below it is as good as this.
_FLOOR = 0.05
_NO_GAIN = 0.02
_STILL_FALLING = 0.05
_FEWEST_STEPS, _ENOUGH_STEPS = 20, 40
# After so many steps of a usual size a loss that never fell has another cause than their number; a
# rate is too high where it rises from the first half of fewer steps to the second.
_STEPS_TO_LEARN, _RISES_AT_ONCE = 100, 1.2
_SPIKE_Z, _CLIPPED = 6.0, 0.5
# Steps before, after and on both sides of a spike that it is held against.
_BEFORE, _AFTER, _AROUND = 10, 5, 50
_SHARE_OF_STEPS = 0.05
_WAITS_INFO, _WAITS_WARN = 0.05, 0.20
_GAP, _PATIENCE = 0.10, 5
# Two standard errors of so many points.
_CANNOT_TELL = 0.10


def non_finite(run: Recorded) -> Judgement:
    """NaN or infinity in a loss, a gradient or a weight."""
    if run.diverged is not None and run.diverged["step"] is None:
        text = "the gradient was NaN or infinite however small the loss was scaled for fp16"
        return Judgement(FAIL, text, {}, (), f"{run.again} --precision bf16")
    if run.diverged is not None:
        step, where = run.diverged["step"], tuple(filter(None, [run.diverged.get("where")]))
        text = f"the loss became NaN or infinite at step {step:,}"
        # Of the first steps nobody knows how far the rate is off; before the second nothing has
        # moved, so it is no rate.
        early = f"{run.again} --lr-find" if step > 1 else f"{run.again} --preflight"
        command = early if step < _FEWEST_STEPS else calmer(run)
        return Judgement(FAIL, text, {"step": step}, where, command)
    if len(run.loss) and not np.isfinite(run.loss).all():
        step = int(np.flatnonzero(~np.isfinite(run.loss))[0]) + 1
        text = f"the loss was NaN or infinite at step {step:,}"
        return Judgement(FAIL, text, {"step": step}, (), calmer(run))
    bad = [name for name in run.trained if not np.isfinite(run.samples(name, "weight")).all()]
    if bad:
        return Judgement(FAIL, f"{bad[0]} is NaN or infinite", {}, tuple(bad), calmer(run))
    # A loss scaler skips steps whose gradients overflow: a few are its way to find the scale.
    skipped = int((~np.isfinite(run.grad_norm)).sum())
    if skipped > max(_SHARE_OF_STEPS * len(run.grad_norm), 10):
        text = f"the gradient was NaN or infinite in {skipped:,} of {len(run.grad_norm):,} steps"
        is_bf16 = run.start["precision"] == "bf16"
        command = calmer(run) if is_bf16 else f"{run.again} --precision bf16"
        return Judgement(WARN, text, {"steps": skipped}, (), command)
    return fine({"skipped_steps": skipped})


def not_learning(run: Recorded) -> Judgement:
    """Neither the training loss nor the accuracy is better than the same answer for every image."""
    guess, best_loss = run.guessing, least(run.metrics["train_loss"])
    numbers, faults, majority = {"train_loss": best_loss}, [], _majority(run)
    # The loss of an epoch is a mean over its steps: of a single one its first steps are a part, and
    # only an accuracy can agree with it.
    is_telling = len(run.metrics["train_loss"]) > 1 or (
        majority is not None and majority.is_not_beaten
    )
    if guess is not None:
        numbers["guessing"] = guess
        if is_telling and is_as_guessing(best_loss, guess):
            faults.append(f"the best training loss is {best_loss:.4g}, guessing gives {guess:.4g}")
    is_loss_bad = bool(faults)
    if majority is not None:
        numbers |= {"accuracy": majority.accuracy, "limit": majority.limit}
        # Of uneven classes a model may learn the large ones alone: that is a collapse.
        if majority.is_not_beaten and (is_loss_bad or not is_uneven(run)):
            faults.append(
                f"the best accuracy is {majority.accuracy:.1%}, and always the largest class gives"
                f" {majority.share:.1%} (limit {majority.limit:.1%}, two standard errors above)"
            )
    if not faults and guess is None and majority is None:
        return not_applicable("its loss and its labels have no value of guessing")
    if not faults:
        return fine(numbers)
    if guess is not None and not is_loss_bad and majority is not None and majority.is_vague:
        # Training images are learned, and so few others cannot tell.
        text = f"{faults[0]}: {majority.total:,.0f} images are too few to tell"
        return Judgement(INFO, text, numbers, (), "ptkit split FOLDER --kfold 5")
    text = "; ".join(faults)
    if not is_loss_bad:
        return Judgement(FAIL, text, numbers, (), f"{run.again} --preflight")
    is_better = majority is not None and not majority.is_not_beaten
    return _where_nothing_is_learned(run, text, numbers, is_better=is_better)


def rate_too_high(run: Recorded) -> Judgement:
    """The loss rises again to twice its minimum, or large steps bring it no further."""
    if len(run.loss) < _FEWEST_STEPS:
        return not_applicable(f"fewer than {_FEWEST_STEPS} steps")
    width = _width(run)
    # Medians: single batches with a large loss are no rise.
    line = running_median(run.loss, width)
    floor = _FLOOR * (run.guessing or float(run.loss[0]))
    lowest = np.maximum(np.minimum.accumulate(line), floor)
    ratio = float((line / lowest).max())
    update = overall_update(run)
    numbers = {"rise": ratio, "update": update}
    # After single spikes it is these that want a remedy.
    is_spiky = len(run.grad_norm) >= _ENOUGH_STEPS and len(spikes_of(run)) >= 2
    if ratio > _ROSE_AGAIN and not is_spiky and not _recovers(line, lowest):
        text = f"the smoothed loss rose to {ratio:.1f} times its minimum (limit {_ROSE_AGAIN:g})"
        return Judgement(FAIL, text, numbers, (), slower(run))
    peak = run.loss[run.lr >= 0.5 * run.lr.max()]
    third = max(len(peak) // 3, 1)
    first, last, guess = float(np.mean(peak[:third])), float(np.mean(peak[-third:])), run.guessing
    # Of a loss of 0 there is nothing to gain.
    gain = 1 - last / first if first else 1.0
    is_stuck = gain < _NO_GAIN or (guess is not None and is_as_guessing(last, guess))
    if update > LARGE_UPDATE and is_stuck and len(peak) >= _FEWEST_STEPS:
        text = (
            f"at the full rate a step moves weights by {update:.2g} of their size (limit"
            f" {LARGE_UPDATE:g}) and brings the loss no further: {last:.4g} at its end"
        )
        has_begun = guess is None or not is_as_guessing(last, guess)
        command = slower(run) if has_begun else without_init(run) or slower(run)
        return Judgement(FAIL, text, numbers | {"gain": gain}, (), command)
    return fine(numbers)


def rate_too_low(run: Recorded) -> Judgement:
    """Tiny updates, and a loss that still falls at the end."""
    if len(run.loss) < _FEWEST_STEPS:
        return not_applicable(f"fewer than {_FEWEST_STEPS} steps")
    update = overall_update(run)
    fifth = max(len(run.loss) // 5, 5)
    before, last = run.loss[-2 * fifth : -fifth], run.loss[-fifth:]
    total = float(run.loss[:fifth].mean() - last.mean())
    fall = float(before.mean() - last.mean())
    noise = math.hypot(*(part.std() / math.sqrt(len(part)) for part in (before, last)))
    is_falling = total > 0 and fall > _STILL_FALLING * total and total > 2 * noise
    numbers = {"update": update, "fall": fall}
    guess = run.guessing
    has_begun = guess is None or not is_as_guessing(float(last.mean()), guess)
    if update < SMALL_UPDATE and (is_falling or not has_begun):
        verdict = WARN if has_begun else FAIL
        text = (
            f"a step moves weights by {update:.2g} of their size (limit {SMALL_UPDATE:g}), and the"
            f" loss is still on its way: {before.mean():.4g} to {last.mean():.4g} in the last fifth"
        )
        command = faster(run) if has_begun else without_init(run) or faster(run)
        return Judgement(verdict, text, numbers, (), command)
    return fine(numbers)


def gradient_spikes(run: Recorded) -> Judgement:
    """Gradients far out of the usual, after which the loss is higher; or most steps clipped."""
    if len(run.grad_norm) < _ENOUGH_STEPS:
        return not_applicable(f"fewer than {_ENOUGH_STEPS} steps")
    norms = run.grad_norm[np.isfinite(run.grad_norm) & (run.grad_norm > 0)]
    if not len(norms):
        return not_applicable("no gradient is finite")
    p90 = float(np.quantile(norms, 0.9))
    clip = run.settings.train.clip_grad
    if clip is not None and (share := float((norms > clip).mean())) > _CLIPPED:
        text = f"{share:.0%} of the steps were clipped to {clip:g} (limit {_CLIPPED:.0%})"
        numbers = {"clipped": share, "p90": p90}
        return Judgement(WARN, text, numbers, (), f"{run.again} --set train.clip_grad={p90:.3g}")
    spikes = spikes_of(run)
    if len(spikes) < 2:
        return fine({"spikes": len(spikes), "p90": p90})
    largest = float(run.grad_norm[spikes].max())
    text = (
        f"{len(spikes)} steps had a gradient far out of the usual, up to {largest:.3g} (90 % are"
        f" below {p90:.3g}), and the loss was a fifth higher after them"
    )
    numbers = {"spikes": len(spikes), "largest": largest, "p90": p90}
    # Of a run that clips at less already the rate is left.
    is_tighter = clip is None or p90 < clip
    command = f"{run.again} --set train.clip_grad={p90:.3g}" if is_tighter else slower(run)
    return Judgement(WARN, text, numbers, (), command)


def overfitting(run: Recorded) -> Judgement:
    """Accuracy is lost again, or the validation loss rises while training images are fitted."""
    best, counts = best_accuracy(run), valid_counts(run)
    if best is None or counts is None:
        return not_applicable("its labels have no accuracy")
    valid, n = run.metrics["valid_accuracy"], counts.sum()
    final = float(valid[-1])
    error = math.sqrt(max(best * (1 - best), 1 / n) / n)
    numbers = {"best": best, "final": final}
    patience = run.settings.train.patience
    has_less = patience is not None and patience <= _PATIENCE
    keep = "" if has_less else f"{run.again} --set train.patience={_PATIENCE}"
    if final < best - 2 * math.sqrt(2) * error:
        at = run.metrics["epoch"][np.nanargmax(valid)]
        text = f"accuracy fell from {best:.1%} (epoch {at:.0f}) to {final:.1%}"
        return Judgement(WARN, text, numbers, (), keep)
    losses, train = run.metrics["valid_loss"], run.metrics.get("train_accuracy")
    if train is None or not np.isfinite(train[-1]):
        return fine(numbers)
    gap, rise = float(train[-1] - final), float(losses[-1]) / max(least(losses), 1e-12)
    if rise > 1.1 and gap > _GAP + 2 * error:
        text = (
            f"the validation loss is {rise:.2f} times its minimum (limit 1.1), and training images"
            f" are right {100 * gap:.0f} points more often (limit {100 * (_GAP + 2 * error):.0f})"
        )
        return Judgement(WARN, text, numbers | {"gap": gap, "rise": rise}, (), keep)
    return fine({**numbers, "gap": gap, "rise": rise})


def data_bound(run: Recorded) -> Judgement:
    """The model waits for images. The first epoch, in which they are decoded, does not count."""
    epochs = run.epochs[1:]
    if not epochs:
        return not_applicable("a single epoch: the first one loads the images")
    waited = sum(sum(filter(None, epoch["wait_s"])) for epoch in epochs)
    share = waited / max(sum(epoch["train_s"] for epoch in epochs), 1e-9)
    if share <= _WAITS_INFO:
        return fine({"share": share})
    verdict = WARN if share > _WAITS_WARN else INFO
    text = f"{share:.0%} of the training time was waiting for images (limit {_WAITS_WARN:.0%})"
    data, command = run.settings.data, ""
    # Of images in memory, or decoded at a smaller scale, there is nothing to keep on disk.
    is_kept = run.start.get("images_kept", False) or data.reduced_decode
    if data.cache != "disk" and not is_kept:
        command = f"{run.again} --set data.cache=disk"
    elif data.workers:
        command = f"{run.again} --workers 0"
    return Judgement(verdict, text, {"share": share}, (), command)


def _where_nothing_is_learned(
    run: Recorded, text: str, numbers: dict[str, float], *, is_better: bool
) -> Judgement:
    """Judge a loss that never fell by the size of the steps.

    is_better: whether the accuracy is above that of the largest class all the same.
    """
    update, count = overall_update(run), len(run.loss)
    if count < _STEPS_TO_LEARN:
        half = max(count // 2, 1)
        first, last = np.median(run.loss[:half]), np.median(run.loss[-half:])
        if last > _RISES_AT_ONCE * first:
            return Judgement(FAIL, text, numbers, (), slower(run))
    if update < USUAL_UPDATE / 2:
        return Judgement(WARN if is_better else FAIL, text, numbers, (), faster(run))
    if count < _STEPS_TO_LEARN:
        text += f"; it has taken only {count:,} steps"
        return Judgement(WARN, text, numbers, (), run.longer)
    if is_better:
        return Judgement(WARN, text, numbers, (), run.longer)
    if not update <= LARGE_UPDATE:
        return Judgement(FAIL, text, numbers, (), f"{run.again} --preflight")
    text += (
        f"; {count:,} steps moved weights by {update:.2g} of their size each, which is usual:"
        " labels and images may not belong together"
    )
    # It shows the images whose labels training spoke against.
    looks = f"ptkit check --run {run.quoted_folder}"
    command = looks if (run.folder / MARGINS).is_file() else f"{run.again} --preflight"
    return Judgement(FAIL, text, numbers, (), command)


def still_falls(run: Recorded) -> bool:
    """Say whether the training loss of the last epoch is clearly below all others; that of a single
    epoch has hardly begun to fall.
    """
    losses = run.metrics["train_loss"]
    return bool(losses[-1] < (1 - _NO_GAIN) * least(losses[:-1]))


def is_uneven(run: Recorded) -> bool:
    """Say whether the largest class has over three times the training images of the smallest."""
    counts = run.start["class_counts"]
    return counts is not None and max(counts) > 3 * max(min(counts), 1)


def fits_more_than_it_knows(run: Recorded) -> bool:
    """Say whether training images are right far more often than validation images, beyond what
    chance explains.
    """
    train, counts = run.metrics.get("train_accuracy"), valid_counts(run)
    if train is None or counts is None or not np.isfinite(train[-1]):
        return False
    valid, n = float(run.metrics["valid_accuracy"][-1]), counts.sum()
    error = math.sqrt(max(valid * (1 - valid), 1 / n) / n)
    return bool(train[-1] - valid > _GAP + 2 * error)


def valid_counts(run: Recorded) -> Floats | None:
    """Return the validation images of each class, where each image has one."""
    counts = run.start["valid_counts"]
    is_single = "valid_accuracy" in run.metrics and counts is not None
    return np.array(counts, float) if is_single and counts and sum(counts) else None


def best_accuracy(run: Recorded) -> float | None:
    """Return the best validation accuracy."""
    found = run.metrics.get("valid_accuracy")
    if found is None or not len(found) or not np.isfinite(found).any():
        return None
    return float(np.nanmax(found))


def _width(run: Recorded) -> int:
    """Return over how many steps a loss is smoothed."""
    return min(max(len(run.loss) // 50, 5), len(run.loss) // 3)


def _recovers(line: Floats, lowest: Floats) -> bool:
    """Say whether a loss that rose, as it does at the peak of a one-cycle schedule, did so for a
    short while only and is back near its minimum at the end.
    """
    high = line > _ROSE_AGAIN * lowest
    return bool(line[-1] <= 1.1 * lowest[-1]) and float(high.mean()) < _SHARE_OF_STEPS


def spikes_of(run: Recorded) -> list[int]:
    """Return the steps with a gradient more than six robust deviations above the median, in
    logarithms, after which the loss is a fifth higher. The noisy first steps are left out.
    """
    logs = np.log(np.where(run.grad_norm > 0, run.grad_norm, np.nan))
    begin, end = max(len(logs) // 20, _BEFORE), len(logs) - _AFTER
    if end <= begin:
        return []
    # Of every step from `begin` to `end`.
    before = running_median(run.loss, _BEFORE)[begin - _BEFORE : end - _BEFORE]
    after = sliding_window_view(run.loss, _AFTER).mean(axis=1)[begin:end]
    with np.errstate(invalid="ignore"):
        risen = np.flatnonzero(after > _ROSE_AFTER_SPIKE * before) + begin
    return [step for step in risen.tolist() if _is_far_out(logs, step)]


def _is_far_out(logs: Floats, step: int) -> bool:
    """Say whether a gradient is a spike among those of the steps around it: they shrink and grow
    over a run.
    """
    near = logs[max(step - _AROUND, 0) : step + _AROUND]
    near = near[np.isfinite(near)]
    if not np.isfinite(logs[step]):
        return False
    middle = np.median(near)
    # 1.4826 times the median deviation is the standard deviation of a normal distribution.
    spread = 1.4826 * np.median(np.abs(near - middle)) + 1e-3
    return bool((logs[step] - middle) / spread > _SPIKE_Z)


@dataclass(frozen=True)
class _Majority:
    """The best accuracy against that of always answering the largest class, `share` of `total`
    validation images; limit: two standard errors above.
    """

    accuracy: float
    share: float
    total: float
    limit: float

    @property
    def is_not_beaten(self) -> bool:
        return is_as_majority(self.accuracy, share=self.share, total=self.total)

    @property
    def is_vague(self) -> bool:
        """Whether two standard errors are too many points to tell."""
        return self.limit - self.share > _CANNOT_TELL


def _majority(run: Recorded) -> _Majority | None:
    """Return None where images have no single class."""
    accuracy, counts = best_accuracy(run), valid_counts(run)
    if accuracy is None or counts is None:
        return None
    share, total = float(counts.max() / counts.sum()), float(counts.sum())
    return _Majority(accuracy, share, total, majority_limit(share, total))
