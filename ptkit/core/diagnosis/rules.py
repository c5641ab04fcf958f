"""Every rule of `ptkit diagnose`, a row each, and what mutes what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ptkit.core.diagnosis import predictions, progress, signal, updates
from ptkit.core.diagnosis.findings import (
    FAIL,
    INFO,
    NOT_APPLICABLE,
    OK,
    VERDICTS,
    WARN,
    Finding,
    Judgement,
    not_applicable,
)
from ptkit.core.diagnosis.recorded import Recorded


@dataclass(frozen=True)
class Rule:
    """judge: gives its judgement of a run. formula: when it fires, in words. source: where limit
    and formula come from. mutes: rules whose findings are consequences of this one's.
    """

    name: str
    judge: Callable[[Recorded], Judgement]
    formula: str
    source: str
    mutes: tuple[str, ...] = ()


_USUAL = "updates of about 1e-3 of the weights are usual (Karpathy, CS231n, section on ratios)"

# Whatever goes wrong with the steps shows in all of these.
_LEARNING = (
    "not learning",
    "collapse",
    "output bias",
    "overconfident",
    "overfitting that costs",
    "label noise",
)
_STEPS = ("lr too high", "lr too low", "gradient spikes", "layer imbalance", "weight decay")
_SIGNAL = ("vanishing gradient", "dead units")

# Causes before what they cause; the first one that fires is the headline.
RULES: tuple[Rule, ...] = (
    Rule(
        "non-finite",
        progress.non_finite,
        "a loss, gradient or weight is NaN or infinite; a loss scaler may skip 5 % of the steps",
        "IEEE 754; Micikevicius et al. 2018, section 3.2, on skipped steps",
        (*_LEARNING, *_STEPS, *_SIGNAL, "initial loss", "initial signal", "not updated"),
    ),
    Rule(
        "softmax before the loss",
        signal.softmax_before_the_loss,
        "all first outputs are at least 0 and each row sums to 1, under CrossEntropyLoss",
        "torch.nn.CrossEntropyLoss applies log_softmax itself",
        (*_LEARNING, *_STEPS, *_SIGNAL, "initial signal", "initial loss"),
    ),
    Rule(
        "input",
        signal.input_scale,
        "of a first batch: a channel's |mean| > 0.5, its std outside [0.5, 2], or a value > 20",
        "LeCun et al. 1998, Efficient BackProp, section 4.3: mean 0, spread 1",
        (*_LEARNING, *_STEPS, *_SIGNAL, "initial loss", "initial signal"),
    ),
    Rule(
        "initial loss",
        signal.initial_loss,
        "|L0 - ln K| / ln K > 0.5 WARN, > 1 FAIL; of weights that were trained before only above",
        "the cross-entropy of K equal probabilities is ln K",
        (*_LEARNING, "lr too high", "gradient spikes", "dead units", "layer imbalance"),
    ),
    Rule(
        "initial signal",
        signal.initial_signal,
        "std of the last layer's outputs over the first's, before training, outside [0.03, 30]",
        "He et al. 2015, section 2.2: the product over the layers should be 1",
        (*_LEARNING, "lr too low", "lr too high", "layer imbalance", "dead units"),
    ),
    Rule(
        "weight decay",
        updates.weight_decay,
        "FAIL: of a decay of 0.01 and more, the norm falls below a tenth while the loss is bad;"
        " INFO: the sum of rate times decay is below 0.01, or a layer grows to three times its"
        " norm",
        "Loshchilov and Hutter 2019, section 3: weights shrink by rate times decay a step",
        (*_LEARNING, "lr too high", "lr too low", *_SIGNAL, "layer imbalance", "gradient spikes"),
    ),
    Rule(
        "dead units",
        signal.dead_units,
        "units that 256 images, spread over the validation list, never activate, for 3 epochs: > 20"
        " % WARN, or INFO where steps are of a usual size; > 50 % FAIL, or 90 % of a layer; INFO"
        " where those that the trained weights did not have from the"
        " first epoch on are fewer",
        "Lu et al. 2019, Dying ReLU and Initialization",
        (
            *_LEARNING,
            *("vanishing gradient", "layer imbalance", "not updated"),
            *("initial signal", "initial loss", "weight decay"),
        ),
    ),
    Rule(
        "not updated",
        updates.not_updated,
        "the change of a trained weight is 0 at every sample, or a weight is in no group although"
        " none is frozen on purpose; WARN: over half of the weights are frozen in a run from"
        " scratch",
        "a weight outside the optimizer has no other sign",
        (*_LEARNING, *("layer imbalance", "vanishing gradient", "lr too high", "lr too low")),
    ),
    Rule(
        "frozen statistics",
        updates.frozen_statistics,
        "the running means of a normalisation layer without a trained parameter move by 0.01 of a"
        " standard deviation in an epoch",
        "Ioffe and Szegedy 2015, section 3.1: a step in training mode changes them",
    ),
    Rule(
        "vanishing gradient",
        updates.vanishing_gradient,
        "rms gradient of the first quarter of layers over the last < 1e-3 and their update < 1e-5"
        " of their size (of adaptive optimizers the update alone)",
        "Glorot and Bengio 2010, section 4",
        (*_LEARNING, "lr too low", "layer imbalance", "initial signal"),
    ),
    Rule(
        "lr too high",
        progress.rate_too_high,
        "the smoothed loss rises to twice its minimum and stays, or the median update at the full"
        " rate is > 1e-2 of the weights and the loss does not fall",
        _USUAL,
        (*_LEARNING, *_SIGNAL, "gradient spikes", "layer imbalance", "weight decay"),
    ),
    Rule(
        "lr too low",
        progress.rate_too_low,
        "median update < 1e-4 of the weights, and the last fifth of the steps has over 5 % of the"
        " whole fall of the loss",
        _USUAL,
        (*_LEARNING, "layer imbalance"),
    ),
    Rule(
        "gradient spikes",
        progress.gradient_spikes,
        "log of the total norm > 6 robust deviations above its neighbours, twice, and the loss 20 %"
        " higher after it; or over half of the steps clipped",
        "Pascanu et al. 2013, section 3.2: clip near the mean norm",
        (*_LEARNING, "dead units"),
    ),
    Rule(
        "too good",
        predictions.too_good,
        "over 1 % of the validation images were trained on, or accuracy 3 SE above that on training"
        " images without augmentation",
        "Kapoor and Narayanan 2023, section 2: leakage",
        ("label noise",),
    ),
    Rule(
        "not learning",
        progress.not_learning,
        "best training loss ≥ 0.98 of guessing (of a single epoch with the accuracy only), or best"
        " accuracy ≤ the largest class + 2 SE; WARN where only the loss is bad, or after fewer"
        " than 100 steps, unless they are small or the loss rose by a fifth; INFO where the loss"
        " fell and 2 SE are over 10 points",
        "entropy of the classes' shares; binomial standard error",
        (
            *("collapse", "output bias", "overconfident", "overfitting that costs"),
            *("label noise", "layer imbalance"),
        ),
    ),
    Rule(
        "collapse",
        predictions.collapse,
        "exp of the entropy of the answers over exp of that of the labels ≤ 0.5; WARN while"
        " the run still learns, of classes that are even or drawn so",
        "Hill numbers of order 1: the effective number of classes",
        ("output bias", "overfitting that costs", "overconfident"),
    ),
    Rule(
        "overfitting that costs",
        progress.overfitting,
        "final accuracy < best - 2√2 SE; or validation loss > 1.1 of its minimum with a gap to"
        " training of 0.10 + 2 SE",
        "two shares of n images differ by √2 SE",
        ("overconfident", "output bias"),
    ),
    Rule(
        "output bias",
        predictions.output_bias,
        "a class of 20 images and more is answered 1.5 times too often or too rarely, beyond 3"
        " standard deviations, and its precision or recall is below 0.8 of the accuracy; INFO"
        " unless its mean probability is off by a factor of 1.25 too",
        "binomial standard deviation of a share; effect: Saerens et al. 2002",
        ("overconfident",),
    ),
    Rule(
        "label noise",
        predictions.label_noise,
        "over 3 % of the validation images, and 10, off the diagonal of the confident joint with"
        " less than a tenth of the other class's probability; and over half of all errors",
        "Northcutt et al. 2021, section 3.1",
        ("overconfident", "overfitting that costs"),
    ),
    Rule(
        "overconfident",
        predictions.overconfident,
        "ECE of 15 bins of equal mass > 0.05 and above the 95th percentile of calibrated draws,"
        " with more confidence than accuracy",
        "Guo et al. 2017, section 2; Nguyen and O'Connor 2015, section 3",
    ),
    Rule(
        "layer imbalance",
        updates.layer_imbalance,
        "a layer's median update over the geometric mean outside [0.1, 10]; a new head on a trained"
        " body may go further, and so may weights that grow to three times their norm",
        "You et al. 2017 (LARS), section 4: the ratio should be alike in all layers",
    ),
    Rule(
        "data-bound",
        progress.data_bound,
        "waiting for images, first epoch left out: > 5 % of the training time INFO, > 20 % WARN",
        "the step's own clock",
    ),
)

_NO_RECORD = not_applicable(
    "the run recorded nothing: a probe, one with log.layers=false, or of an earlier version"
)
_NO_EPOCH = not_applicable("no epoch was finished")
# What the first line of layers.jsonl is enough for.
_BEFORE_TRAINING = ("softmax before the loss", "input", "initial loss", "initial signal")

BY_NAME = {rule.name: rule for rule in RULES}


def findings(run: Recorded) -> list[Finding]:
    """Judge a run by every rule, in their order; consequences of a FAIL or WARN are muted."""
    found = [Finding(rule.name, _judged(rule, run)) for rule in RULES]
    causes: dict[str, str] = {}
    # The worst first: what only warns explains no failure that explains it.
    for verdict in (FAIL, WARN):
        for rule, finding in zip(RULES, found, strict=True):
            if finding.verdict == verdict and rule.name not in causes:
                for name in rule.mutes:
                    causes.setdefault(name, rule.name)
    return [replace(finding, muted_by=_root(finding.rule, causes)) for finding in found]


def _root(rule: str, causes: Mapping[str, str]) -> str | None:
    """Return the first cause of a finding, None of one that has none."""
    # Each cause was found before what it is muted by, so this ends.
    cause = rule
    while cause in causes:
        cause = causes[cause]
    return None if cause == rule else cause


def open_findings(found: Sequence[Finding]) -> list[Finding]:
    """Return those with something to say that no other one explains, the worst first."""
    spoken = [f for f in found if f.muted_by is None and f.verdict not in (OK, NOT_APPLICABLE)]
    return sorted(spoken, key=lambda f: VERDICTS.index(f.verdict))


@dataclass(frozen=True)
class Others:
    """The findings that `open_findings` leaves out.

    muted: consequences of others. fine: rules that found nothing. unknown: why rules could not
    look, with their names.
    """

    muted: tuple[Finding, ...]
    fine: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]]


def other_findings(found: Sequence[Finding]) -> Others:
    """Return what `open_findings` leaves out."""
    unknown: dict[str, tuple[str, ...]] = {}
    for finding in (f for f in found if f.verdict == NOT_APPLICABLE):
        reason = finding.judgement.text
        unknown[reason] = (*unknown.get(reason, ()), finding.rule)
    return Others(
        tuple(f for f in found if f.muted_by is not None and f.verdict in (FAIL, WARN, INFO)),
        tuple(f.rule for f in found if f.verdict == OK),
        unknown,
    )


def _judged(rule: Rule, run: Recorded) -> Judgement:
    if rule.name == "non-finite" and run.diverged is not None:
        return rule.judge(run)
    if not run.start:
        return _NO_RECORD
    # A run that ended in its first epoch has the first line only.
    if not (run.epochs and run.metrics) and rule.name not in _BEFORE_TRAINING:
        return _NO_EPOCH
    return rule.judge(run)
