"""Rules on what a model answers to the validation images."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.calibration.temperature import (
    best_temperature,
    cross_entropy,
    expected_calibration_error,
    two_halves,
)
from ptkit.core.diagnosis.findings import FAIL, INFO, WARN, Judgement, fine, not_applicable
from ptkit.core.diagnosis.progress import fits_more_than_it_knows, is_uneven, still_falls
from ptkit.core.diagnosis.recorded import Floats, Recorded
from ptkit.core.run_files import MARGINS, Outputs, softmax

NO_OUTPUTS = not_applicable(
    "there are no outputs of single-label validation images, or they are not finite"
)

# See rules.RULES for where the limits come from.
_ECE, _DRAWS = 0.05, 200
_BIAS, _SDS, _ENOUGH = math.log(1.5), 3.0, 20
_BIAS_OF_MEAN = math.log(1.25)
_LOW = 0.8
_COLLAPSED = 0.5
_NOISE, _STRONG, _NUM_STRONG, _OF_ERRORS = 0.03, 0.1, 10, 0.5
_LEAKED = 0.01


def overconfident(run: Recorded) -> Judgement:
    """Probabilities that promise more than they keep."""
    if run.outputs is None:
        return NO_OUTPUTS
    outputs = run.outputs.divided_by(run.evidence.temperature or 1.0)
    probabilities, labels = outputs.probabilities, outputs.labels
    confidence, right = probabilities.max(axis=1), outputs.answers == labels
    found = expected_calibration_error(confidence, right)
    usual = _calibrated_ece(confidence)
    numbers = {"ece": found, "usual": usual, "confidence": float(confidence.mean())}
    if found <= max(_ECE, usual) or confidence.mean() <= right.mean():
        return fine(numbers)
    text = (
        f"probabilities are off by {found:.3f} on average (ECE, limit {_ECE:g}; below {usual:.3f}"
        f" in 95 % of calibrated models): {confidence.mean():.1%} sure, {right.mean():.1%} right"
    )
    temperature, before, after = _calibrated(outputs)
    effect = f"dividing outputs by {temperature:.2f}: ECE {before:.3f} to {after:.3f} (other half)"
    # What was measured, unless it speaks against it; label smoothing is the default already.
    command = f"ptkit calibrate {run.quoted_folder} {run.quoted_valid} --only temperature"
    if after >= before:
        command = ""
    return Judgement(WARN, text, numbers, (), command, effect)


def output_bias(run: Recorded) -> Judgement:
    """A class that is answered far more or less often than it occurs, and wrongly."""
    if run.outputs is None:
        return NO_OUTPUTS
    labels, answers, count = run.outputs.labels, run.outputs.answers, run.outputs.values.shape[1]
    n = len(labels)
    true, said = (np.bincount(k, minlength=count) for k in (labels, answers))
    hits = np.bincount(labels[labels == answers], minlength=count)
    mean = np.maximum(run.outputs.probabilities.mean(axis=0), 1e-12)
    faults = []
    for k in np.flatnonzero(true >= _ENOUGH).tolist():
        share, answered = true[k] / n, said[k] / n
        log_ratio = math.log(max(answered, 0.5 / n) / share)
        spread = math.sqrt(share * (1 - share) / n)
        # Answered too often, many of its answers are wrong; too rarely, many of its images.
        rate = hits[k] / said[k] if log_ratio > 0 else hits[k] / true[k]
        is_far = abs(log_ratio) > _BIAS and abs(answered - share) > _SDS * spread
        if is_far and rate < _LOW * run.outputs.accuracy:
            # A model that cannot tell a class yet gives it its due probability, and the most to
            # others: that is no bias.
            means = math.copysign(1, log_ratio) * math.log(mean[k] / share)
            faults.append((means > _BIAS_OF_MEAN, abs(log_ratio), k, share, answered))
    if not faults:
        return fine()
    is_biased, _, k, share, answered = max(faults)
    name = run.class_names[k]
    text = (
        f'"{name}" is {share:.1%} of the images and {answered:.1%} of the answers (limit a factor'
        " of 1.5)"
    )
    numbers = {"true": share, "answered": answered, "mean_probability": mean[k]}
    where = tuple(run.class_names[k] for *_, k, _, _ in sorted(faults, reverse=True))
    if not is_biased:
        text += f"; its mean probability is {mean[k]:.1%}: it is not told apart yet"
        command = f"ptkit confmat {run.quoted_folder} {run.quoted_valid}"
        return Judgement(INFO, text, numbers, where, command)
    before, after = _with_adjusted_logits(run.outputs)
    effect = f"shifting outputs to the true shares: macro recall {before:.1%} to {after:.1%}"
    command = f"{run.again} --set data.sampler=balanced"
    if still_falls(run) and not fits_more_than_it_knows(run):
        command = run.longer
    elif after <= before or run.is_balanced or not is_uneven(run):
        # What was measured speaks against it, or it was not enough, or there is nothing to balance.
        command = f"ptkit confmat {run.quoted_folder} {run.quoted_valid}"
    return Judgement(WARN, text, numbers, where, command, effect)


def collapse(run: Recorded) -> Judgement:
    """Answers that use far fewer classes than there are."""
    if run.outputs is None:
        return NO_OUTPUTS
    count = run.outputs.values.shape[1]
    used, there = (
        math.exp(_entropy(np.bincount(k, minlength=count)))
        for k in (run.outputs.answers, run.outputs.labels)
    )
    numbers = {"used": used, "there": there}
    if used / there > _COLLAPSED:
        return fine(numbers)
    text = (
        f"the answers are spread as over {used:.1f} classes, the images as over {there:.1f} (limit"
        f" a share of {_COLLAPSED:g})"
    )
    if is_uneven(run) and not run.is_balanced:
        balanced = "--set data.sampler=balanced --set train.metric=balanced_accuracy"
        return Judgement(FAIL, text, numbers, (), f"{run.again} {balanced}")
    if still_falls(run) and not fits_more_than_it_knows(run):
        # It is on its way: the classes that are easy to tell come first.
        return Judgement(WARN, text, numbers, (), run.longer)
    command = f"ptkit confmat {run.quoted_folder} {run.quoted_valid}"
    return Judgement(FAIL, text, numbers, (), command)


def label_noise(run: Recorded) -> Judgement:
    """Images that the model, which has not seen them, is sure belong to another class."""
    if run.outputs is None:
        return NO_OUTPUTS
    strong, wrong = _contradicted(run.outputs)
    n, errors = len(run.outputs.labels), int(wrong.sum())
    share = len(strong) / n
    numbers = {"share": share, "images": len(strong)}
    # Of a weak model most errors are its own; of a good one on wrong labels most contradict them.
    is_noise = len(strong) >= _NUM_STRONG and share > _NOISE
    if not (is_noise and len(strong) > _OF_ERRORS * errors and share < 0.5 * (1 - errors / n)):
        return fine(numbers)
    text = (
        f"{len(strong):,} of {n:,} validation images ({share:.1%}, limit {_NOISE:.0%}) are given a"
        " class that the model is sure they do not have; training labels are likely as wrong"
    )
    command = f"ptkit check --run {run.quoted_folder}"
    if not (run.folder / MARGINS).is_file():
        # Of mixed images there are none, which it would need; mistakes.csv has the surest first.
        command = f"ptkit confmat {run.quoted_folder} {run.quoted_valid}"
    return Judgement(WARN, text, numbers, (), command)


def too_good(run: Recorded) -> Judgement:
    """Validation images that were trained on, or easier ones than the training images."""
    if run.outputs is None:
        return NO_OUTPUTS
    evidence, n, accuracy = run.evidence, len(run.outputs.labels), run.outputs.accuracy
    clean = evidence.clean_train_accuracy
    if clean is None:
        return not_applicable(evidence.why_none or "nobody looked at the model and its images")
    numbers = {"valid": accuracy, "train": clean}
    if evidence.num_leaked is not None:
        looked_at = evidence.num_looked_at
        numbers["leaked"] = leaked = evidence.num_leaked / looked_at
        if leaked > _LEAKED:
            text = (
                f"{evidence.num_leaked:,} of {looked_at:,} validation images were trained on"
                f" ({leaked:.1%}, limit {_LEAKED:.0%})"
            )
            return Judgement(FAIL, text, numbers, (), f"ptkit split FOLDER, then {run.again}")
    error = math.sqrt(
        max(clean * (1 - clean), 1 / n) / n
        + max(clean * (1 - clean), 1 / evidence.num_clean) / evidence.num_clean
    )
    if accuracy <= clean + 3 * error:
        return fine(numbers)
    text = (
        f"validation images are right more often ({accuracy:.1%}) than training images without"
        f" augmentation ({clean:.1%}, limit three standard errors)"
    )
    command = f"ptkit check {run.quoted_train} {run.quoted_valid}"
    return Judgement(WARN, text, numbers, (), command)


def _calibrated_ece(confidence: Floats) -> float:
    """Return what 95 % of calibrated models with these confidences stay below."""
    rng = np.random.default_rng(0)
    draws = [
        expected_calibration_error(confidence, rng.random(len(confidence)) < confidence)
        for _ in range(_DRAWS)
    ]
    return float(np.quantile(draws, 0.95))


def _temperature(values: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """Return what outputs are divided by for the least cross-entropy."""
    return best_temperature(lambda t: cross_entropy(softmax(values / t), labels))


def _calibrated(outputs: Outputs) -> tuple[float, float, float]:
    """Fit a temperature on one half; return it with the ECE of the other half before and after."""
    fitted, scored = two_halves(len(outputs.labels))
    best = _temperature(outputs.values[fitted], outputs.labels[fitted])
    right = outputs.answers[scored] == outputs.labels[scored]
    before, after = (
        expected_calibration_error(softmax(outputs.values[scored] / t).max(axis=1), right)
        for t in (1.0, best)
    )
    return best, before, after


def _with_adjusted_logits(outputs: Outputs) -> tuple[float, float]:
    """Shift outputs so that the mean probabilities of one half are its shares of the classes (as
    Saerens et al. 2002, equation 2.4); return the macro recall of the other half before and after.
    """
    fitted, scored = two_halves(len(outputs.labels))
    count = outputs.values.shape[1]
    counts = np.bincount(outputs.labels[fitted], minlength=count) + 0.5
    shares = counts / counts.sum()
    shift = np.zeros(count)
    for _ in range(50):
        mean = softmax(outputs.values[fitted] + shift).mean(axis=0)
        shift += np.log(shares / (mean + 1e-12))
    before, after = (
        _macro_recall(outputs.labels[scored], (outputs.values[scored] + s).argmax(axis=1))
        for s in (0.0, shift)
    )
    return before, after


def _macro_recall(labels: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]) -> float:
    rates = [(answers[labels == k] == k).mean() for k in np.unique(labels)]
    return float(np.mean(rates))


def _contradicted(outputs: Outputs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the images off the diagonal of the confident joint (Northcutt et al. 2021, section
    3.1) whose given class has less than a tenth of the other's probability; and which answers are
    wrong.
    """
    labels = outputs.labels
    # Calibrated: a boastful model is not sure, and one trained with smoothing is.
    probabilities = softmax(outputs.values / _temperature(outputs.values, labels))
    n, count = probabilities.shape
    own = probabilities[np.arange(n), labels]
    # A class is believed above the mean confidence of the images that are given it.
    limits = np.array(
        [own[labels == k].mean() if (labels == k).any() else np.inf for k in range(count)]
    )
    believed = np.where(probabilities >= limits, probabilities, -1.0)
    other = believed.argmax(axis=1)
    is_strong = (believed.max(axis=1) > 0) & (other != labels)
    is_strong &= own < _STRONG * probabilities[np.arange(n), other]
    return np.flatnonzero(is_strong), outputs.answers != labels


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
