"""What is looked at before a run, with `ptkit train --preflight`: can this model learn this data?

All of it runs on copies: the run after it is bit for bit the one without it.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptkit.core.data.loading.batches import Batch
from ptkit.core.device import autocast, passing_look, seed_device
from ptkit.core.training.loop import Training
from ptkit.core.training.optimization.optimizers import freeze_statistics
from ptkit.core.training.recording.initial import Initial, initial_of

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "WARN", "FAIL", "n/a"

# Images that must be learned by heart, in so many steps, by Adam at one of these rates.
_NUM_IMAGES, _NUM_STEPS, _RATES = 16, 300, (1e-3, 1e-4)
# Of the loss before the first step.
_LEARNED = 0.1


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. verdict: OK, WARN, FAIL or NOT_APPLICABLE. text: the numbers,
    their limits, and what to do.
    """

    name: str
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict} ({self.text})"


@dataclass(frozen=True)
class Preflight:
    """checks: in their order. batch: the images that were looked at, as the model gets them."""

    checks: tuple[Check, ...]
    batch: Batch

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == FAIL)


def preflight(training: Training, *, is_pretrained: bool) -> Preflight:
    """Look at the first batch of training and at what the model makes of it; both stay as they are.

    is_pretrained: whether the weights may know the classes already.
    """
    # Draws are keyed: this look changes no later batch.
    batch = next(training.train.epoch(0))
    training.to_training_mode()
    initial = initial_of(training.model, batch, training.loss, dtype=training.dtype)
    checks = (
        input_check(initial),
        loss_check(initial, training, is_pretrained=is_pretrained),
        signal_check(initial),
        outputs_check(initial, training),
        overfit_check(training, batch),
    )
    return Preflight(checks, batch)


def input_check(initial: Initial) -> Check:
    """Look at the images: after normalisation each channel should have mean 0 and spread 1."""
    means, stds = ([f"{v:.2f}" for v in values] for values in (initial.mean, initial.std))
    text = f"mean {', '.join(means)}, std {', '.join(stds)}, largest {initial.largest:.3g}"
    if not math.isfinite(initial.largest) or max(initial.std) == 0:
        return Check("input", FAIL, f"{text}: all pixels are alike, or not finite")
    is_usual = (
        max(map(abs, initial.mean)) <= 0.5
        and all(0.5 <= std <= 2 for std in initial.std)
        and initial.largest <= 20
    )
    limits = "expected |mean| up to 0.5, std 0.5 to 2, values up to 20: run `ptkit normstats`"
    return Check("input", OK if is_usual else WARN, text if is_usual else f"{text}; {limits}")


def loss_check(initial: Initial, training: Training, *, is_pretrained: bool) -> Check:
    """Compare the loss before any step with ln K, that of K classes that are equally likely."""
    name = "initial loss"
    if not _is_cross_entropy(training):
        return Check(name, NOT_APPLICABLE, f"{training.loss.call.name} has no usual first value")
    if math.isnan(initial.loss) and training.train.pipeline.mix is not None:
        return Check(name, NOT_APPLICABLE, "MixUp and CutMix mix the labels")
    chance = math.log(max(training.loss.facts.num_classes, 2))
    text = f"{initial.loss:.3f}, ln {training.loss.facts.num_classes} is {chance:.3f}"
    if is_pretrained and initial.loss <= chance:
        return Check(name, OK, f"{text}; the weights are trained")
    # NaN is beyond all limits.
    off = abs(initial.loss - chance) / chance
    verdict = OK if off <= 0.5 else WARN if off <= 1 else FAIL
    advice = "" if verdict == OK else "; the first weights are too large or too small: --init"
    return Check(name, verdict, f"{text}, {off:.0%} off{advice}")


def signal_check(initial: Initial) -> Check:
    """Compare the spread of the last layer's outputs with that of the first one's."""
    name, stds = "initial signal", list(initial.layer_std.items())
    if len(stds) < 2:
        return Check(name, NOT_APPLICABLE, "fewer than two layers with weights")
    (first, low), (last, high) = stds[0], stds[-1]
    ratio = high / low if low else math.nan
    text = f"std {low:.3g} after {first}, {high:.3g} after {last}, ratio {ratio:.3g}"
    if not math.isfinite(ratio) or ratio == 0:
        return Check(name, FAIL, f"{text}: nothing comes through; --init kaiming_normal_()")
    if 0.03 <= ratio <= 30:
        return Check(name, OK, text)
    return Check(name, WARN, f"{text}; expected 0.03 to 30: --init kaiming_normal_()")


def outputs_check(initial: Initial, training: Training) -> Check:
    """Look whether a softmax stands before a loss that has its own."""
    name = "outputs"
    if not _is_cross_entropy(training):
        return Check(name, NOT_APPLICABLE, f"{training.loss.call.name} may take any")
    if initial.outputs_are_probabilities:
        text = "they are probabilities already: CrossEntropyLoss takes the values before softmax"
        return Check(name, FAIL, f"{text}, so leave the model's softmax out")
    return Check(name, OK, "not probabilities, as CrossEntropyLoss wants them")


def overfit_check(training: Training, batch: Batch) -> Check:
    """Let a copy of the model learn a few images by heart, without dropout, by Adam."""
    name = "one batch"
    if training.loss.compares:
        return Check(name, NOT_APPLICABLE, "the loss compares images with each other")
    tried = [_overfitted(training, batch, _RATES[0])]
    if tried[0].share > _LEARNED:
        tried.append(_overfitted(training, batch, _RATES[1]))
    best = min(tried, key=lambda one: one.share)
    least = _least(training)
    text = f"loss {best.first + least:.3g} to {best.last + least:.3g} in {best.num_steps} steps"
    text += f", {least:.3g} at best," if least else ""
    count = min(_NUM_IMAGES, len(batch.labels))
    if best.share <= _LEARNED:
        return Check(name, OK, f"{text} on {count} images")
    advice = "the model cannot learn them by heart: look at labels, model, --init, frozen layers"
    return Check(name, FAIL, f"{text} on {count} images, expected below {_LEARNED:.0%}; {advice}")


@dataclass(frozen=True)
class _Overfitted:
    """first, last: losses above the lowest possible one; the last is the lowest of all steps."""

    first: float
    last: float
    num_steps: int

    @property
    def share(self) -> float:
        return self.last / self.first if self.first > 0 else math.inf


def _overfitted(training: Training, batch: Batch, rate: float) -> _Overfitted:
    model, loss = copy.deepcopy(training.model), training.loss
    model.train()
    freeze_statistics(model, training.optimizer_setup.frozen)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)
    some = replace(batch, labels=batch.labels[:_NUM_IMAGES], mixed=None)
    images = batch.images[: len(some.labels) * batch.num_crops]
    labels, losses = some.labels.repeat_interleave(batch.num_crops, dim=0), list[float]()
    with torch.random.fork_rng([images.device] if images.is_cuda else []), passing_look():
        seed_device(images.device, 0)
        while len(losses) <= _NUM_STEPS and not _is_over(losses):
            optimizer.zero_grad()
            with autocast(images.device, training.dtype):
                outputs = model(images)
            value: Tensor = loss(outputs, labels)
            value.backward()
            optimizer.step()
            losses.append(value.item() - _least(training))
    return _Overfitted(losses[0], min(losses), len(losses) - 1)


def _is_over(losses: list[float]) -> bool:
    if not losses:
        return False
    return not math.isfinite(losses[-1]) or losses[-1] < _LEARNED * losses[0]


def _least(training: Training) -> float:
    """Return the loss of perfect answers: with smoothed labels it is not 0."""
    num_classes = training.loss.facts.num_classes
    share = getattr(training.loss.criterion, "label_smoothing", 0.0) / max(num_classes, 1)
    if not share:
        return 0.0
    right = 1 - share * (num_classes - 1)
    return -right * math.log(right) - share * (num_classes - 1) * math.log(share)


def _is_cross_entropy(training: Training) -> bool:
    return isinstance(training.loss.criterion, nn.CrossEntropyLoss)
