"""The table of losses: the labels that each is for, and the functions that surround it there."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.data.labels import DESCRIPTIONS, MULTI, REGRESSION, SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import UsageError
from ptkit.core.parts.argument_rules import flag
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.checks import OLD_REDUCTIONS
from ptkit.core.parts.part import Part
from ptkit.core.training.tasks import pairs as compare
from ptkit.core.training.tasks.loss import LabelFacts, Loss, Use, class_weights
from ptkit.core.training.tasks.pairs import Pairing
from ptkit.core.training.tasks.task import EMBEDDING, Task
from ptkit.core.wording import first_of


# What the outputs pass before a loss.
def unchanged(outputs: Tensor) -> Tensor:
    """Return the outputs."""
    return outputs


def log_softmax(outputs: Tensor) -> Tensor:
    """Return log-probabilities."""
    return F.log_softmax(outputs, dim=1)


# What a loss is given as target, from label rows and the number of classes.
def as_labels(labels: Tensor, _num_classes: int) -> Tensor:
    """Return the labels: class indices, or numbers."""
    return labels


def hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot or many-hot rows."""
    return F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels.float()


def signs(labels: Tensor, num_classes: int) -> Tensor:
    """Return 1 for classes that are there, -1 for the others."""
    return hot(labels, num_classes) * 2 - 1


def class_indices(labels: Tensor, num_classes: int) -> Tensor:
    """Return (n, num_classes) class indices ended by -1, as MultiLabelMarginLoss needs them."""
    rows = hot(labels, num_classes)
    order = rows.argsort(dim=1, descending=True, stable=True)
    is_there = torch.arange(num_classes, device=rows.device) < rows.sum(dim=1, keepdim=True)
    return torch.where(is_there, order, -1)


@dataclass(frozen=True)
class LossRule:
    """One row: a loss with its uses; None where it does not fit the labels.

    single: one class per image. multi: several classes. numbers: numbers. pairs: how images are
    compared by their classes; their outputs are embeddings.
    """

    summary: str
    single: Use | None = None
    multi: Use | None = None
    numbers: Use | None = None
    pairs: Pairing | None = None


# Uses that several losses share.
_SCORES = Use(unchanged, as_labels, "softmax")
_SCORE_EACH = Use(unchanged, hot, "sigmoid")
_CHANCE_EACH = Use(torch.sigmoid, hot, "sigmoid")
_SIGN_EACH = Use(unchanged, signs, "sigmoid")
_CLOSE_TO_HOT = Use(unchanged, hot, "clamp")
_CLOSE_TO_NUMBER = Use(unchanged, as_labels, "number")

RULES: dict[str, LossRule] = {
    "CrossEntropyLoss": LossRule("softmax and negative log-likelihood", single=_SCORES),
    "NLLLoss": LossRule(
        "negative log-likelihood of log-softmax", single=Use(log_softmax, as_labels, "softmax")
    ),
    "MultiMarginLoss": LossRule("hinge between the true class and each other", single=_SCORES),
    "KLDivLoss": LossRule(
        'divergence from the one-hot smoothed by loss.smoothing; reduction is "batchmean"',
        single=Use(log_softmax, hot, "softmax", smoothing=0.1),
    ),
    "BCELoss": LossRule(
        "binary cross-entropy of each class", single=_CHANCE_EACH, multi=_CHANCE_EACH
    ),
    "BCEWithLogitsLoss": LossRule(
        "binary cross-entropy of each class, sigmoid inside", single=_SCORE_EACH, multi=_SCORE_EACH
    ),
    "SoftMarginLoss": LossRule("logistic loss of each class", single=_SIGN_EACH, multi=_SIGN_EACH),
    "MultiLabelSoftMarginLoss": LossRule(
        "one against all, maximum entropy", single=_SCORE_EACH, multi=_SCORE_EACH
    ),
    "MultiLabelMarginLoss": LossRule(
        "hinge between each class that is there and each that is not",
        single=Use(unchanged, class_indices, "softmax"),
        multi=Use(unchanged, class_indices, "sigmoid"),
    ),
    "HingeEmbeddingLoss": LossRule(
        "distances: small for the true class, or (loss.pairs) between images of one class",
        single=Use(F.softplus, signs, "negative"),
        pairs=Pairing(compare.distances_of_pairs, compare.num_pairs),
    ),
    "L1Loss": LossRule("absolute error", single=_CLOSE_TO_HOT, numbers=_CLOSE_TO_NUMBER),
    "MSELoss": LossRule("squared error", single=_CLOSE_TO_HOT, numbers=_CLOSE_TO_NUMBER),
    "SmoothL1Loss": LossRule(
        "squared error near zero, absolute beyond beta",
        single=_CLOSE_TO_HOT,
        numbers=_CLOSE_TO_NUMBER,
    ),
    "PoissonNLLLoss": LossRule(
        "counts; of classes the one-hot",
        single=Use(unchanged, hot, "exp"),
        numbers=Use(unchanged, as_labels, "exp"),
    ),
    "CosineEmbeddingLoss": LossRule(
        "cosine of pairs: 1 for one class, below the margin for two",
        pairs=Pairing(compare.signed_pairs, compare.num_pairs),
    ),
    "MarginRankingLoss": LossRule(
        "of each triplet: the other class farther than the own, by the margin",
        pairs=Pairing(compare.ranked_distances, compare.num_triplets),
    ),
    "TripletMarginLoss": LossRule(
        "the same on anchor, positive and semi-hard negative",
        pairs=Pairing(compare.semi_hard_triplets, compare.num_triplets),
    ),
}
# With log_input=False the output itself is the expected count, which must be above zero.
_POISSON_WITHOUT_LOG = LossRule(
    "", single=Use(F.softplus, hot, "softplus"), numbers=Use(F.softplus, as_labels, "softplus")
)
# A user's own loss takes scores and labels, as these do.
_OWN_CODE = LossRule("", single=_SCORES, multi=_SCORE_EACH, numbers=_CLOSE_TO_NUMBER)

# The losses where none is named.
DEFAULTS = {
    SINGLE: "CrossEntropyLoss(label_smoothing=0.1)",
    MULTI: "BCEWithLogitsLoss()",
    REGRESSION: "SmoothL1Loss()",
}

# Losses that sum over the classes of an image suit SGD at its usual rate. Means over classes or
# numbers, sums over images and distances have gradients that differ by any factor, which Adam does
# not feel.
_SGD, _ADAM = "SGD(momentum=0.9, nesterov=True, weight_decay=0.0005)", "AdamW(weight_decay=0.05)"

LOSSES = Catalogue(
    "loss",
    {
        name: Part(
            f"torch.nn:{name}",
            rule.summary,
            tensors=frozenset({"weight", "pos_weight"}),
            arguments=dict.fromkeys(OLD_REDUCTIONS, flag()),
        )
        for name, rule in RULES.items()
    },
)


def facts_of(images: ImageList) -> LabelFacts:
    """Describe the labels of a list."""
    kind, labels, none = images.label_kind, images.labels, torch.empty(0)
    describe = functools.partial(LabelFacts, kind, images.num_classes, len(images))
    if kind == REGRESSION:
        # In float64: over a long list the sums lose digits otherwise.
        mean, std = (take(axis=0, dtype=np.float64) for take in (labels.mean, labels.std))
        mean, std = (torch.from_numpy(values.astype(np.float32)) for values in (mean, std))
        std[std == 0] = 1
        return describe(none, mean, std, float(labels.min()))
    found = labels.sum(0) if kind == MULTI else np.bincount(labels, minlength=images.num_classes)
    return describe(torch.from_numpy(found.astype(np.float32)), none, none)


def build_loss(
    call: Call | None,
    facts: LabelFacts,
    *,
    pairs: bool = False,
    threshold: float | None = None,
    smoothing: float | None = None,
) -> Loss:
    """Return the loss that a call names (None: the usual one) for labels as in `facts`.

    pairs: compare images with each other, where the loss also works without. threshold: the
    probability above which a class counts as present, for several labels; None for 0.5. smoothing:
    of KLDivLoss's target, 0..1; None for 0.1.

    Raises:
        UsageError: unknown, not for these labels, or arguments that do not fit them.
    """
    given = call = call or parse(DEFAULTS[facts.kind])
    if not call.prefix:
        call = LOSSES.named(call)
    use, kind = _use_of(call, facts, pairs)
    if smoothing is not None:
        use = _smoothed(call, use, smoothing)
    criterion = _criterion_of(_balanced(call, facts))
    for key in ("weight", "pos_weight"):
        value = call.kwargs.get(key)
        if isinstance(value, list | tuple) and len(value) != facts.num_classes:
            raise call.error(
                f"{key} has {len(value)} values, the data {facts.num_classes} classes", key
            )
    ignored = call.kwargs.get("ignore_index")
    # -100 is PyTorch's own: no class. In a user's loss the argument may mean anything.
    if not call.prefix and ignored not in (None, -100, *range(facts.num_classes)):
        raise call.error(
            f"ignore_index={ignored} is no class: they are 0 to {facts.num_classes - 1}",
            "ignore_index",
        )
    if call.name == "PoissonNLLLoss" and facts.lowest < 0:
        raise call.error(
            f"PoissonNLLLoss is for counts, and the list has {facts.lowest:g}: use SmoothL1Loss"
        )
    if threshold is not None and kind != MULTI:
        raise UsageError(
            "loss.threshold is for several classes an image; these labels are"
            f" {DESCRIPTIONS[facts.kind]}"
        )
    task = _task_of(kind, use, facts, threshold)
    weights = class_weights(criterion, facts.num_classes)
    if weights is not None and not weights.all():
        task = replace(task, counted=weights > 0)
    return Loss(criterion, given, use, task, facts)


def usual_optimizer(loss: Loss) -> str:
    """Return the call of the optimizer that suits a loss."""
    sums_classes = isinstance(loss.use, Use) and (
        loss.use.target is as_labels or loss.reduction == "batchmean"
    )
    return _SGD if sums_classes and loss.facts.kind == SINGLE and not loss.is_sum else _ADAM


def counting_notes(loss: Loss, train: ImageList, valid: ImageList) -> tuple[str, ...]:
    """Return which images of two lists count neither in a loss nor in accuracy.

    Raises:
        UsageError: none of a list counts.
    """
    if loss.task.counted is None:
        return ()
    parts = []
    for images, word in ((train, "training"), (valid, "validation")):
        num_ignored = len(images) - len(loss.task.counted_rows(images.labels))
        if num_ignored == len(images):
            raise loss.call.error(f"{images.file} has only images of classes that this ignores")
        parts.append(f"{num_ignored:,} of {len(images):,} {word} images")
    ignored = np.flatnonzero(~loss.task.counted.cpu().numpy()).tolist()
    names = first_of([train.class_names[k] for k in ignored], 5)
    weight = getattr(loss.criterion, "weight", None)
    # PyTorch smooths over all classes for an image of a class of weight 0 too.
    is_zero = weight is not None and not weight.all()
    is_smoothed = is_zero and getattr(loss.criterion, "label_smoothing", 0.0) > 0
    but = " but for label_smoothing" if is_smoothed else ""
    return (f"ignored by the loss{but}, and by accuracy: {names}; {' and '.join(parts)}",)


def _criterion_of(call: Call) -> nn.Module:
    """Build PyTorch's own loss, or the user's."""
    supplied = {"reduction": "batchmean"} if call.name == "KLDivLoss" else None
    # Those who write size_average or reduce know that these are old names.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        criterion = LOSSES.build(call, supplied=supplied)
    if not isinstance(criterion, nn.Module):
        raise call.error(f"a loss must be a torch.nn.Module, found {type(criterion).__name__}")
    trained = [name for name, each in criterion.named_parameters() if each.requires_grad]
    if trained:
        raise call.error(
            f"{call.name} has parameters of its own, such as {trained[0]}, and no optimizer would"
            " train them: make them part of the model, or set requires_grad=False"
        )
    if getattr(criterion, "reduction", "mean") not in ("mean", "batchmean", "sum"):
        spot = next((key for key in ("reduction", "reduce") if key in call.kwargs), "")
        raise call.error(
            f'{call.name}: reduction must be "mean" or "sum", as a step needs one number, found'
            f" {criterion.reduction!r}",
            spot,
        )
    return criterion


def _smoothed(call: Call, use: Use | Pairing, smoothing: float) -> Use:
    if not isinstance(use, Use) or use.smoothing is None:
        instead = "label_smoothing=" if call.name == "CrossEntropyLoss" else "KLDivLoss"
        raise UsageError(
            f"loss.smoothing is for the target of KLDivLoss, found {call.name}: use {instead}"
        )
    return replace(use, smoothing=smoothing)


def _use_of(call: Call, facts: LabelFacts, pairs: bool) -> tuple[Use | Pairing, str]:
    """Return how a loss is used with these labels, and the kind of task that makes."""
    rule = _OWN_CODE if call.prefix else RULES[call.name]
    if call.name == "PoissonNLLLoss" and not call.kwargs.get("log_input", True):
        rule = _POISSON_WITHOUT_LOG
    if facts.kind == SINGLE and rule.pairs is not None and (pairs or rule.single is None):
        return rule.pairs, EMBEDDING
    if pairs:
        names = ", ".join(name for name, row in RULES.items() if row.pairs)
        raise UsageError(f"loss.pairs is for losses that compare images of one class each: {names}")
    use = _column(rule, facts.kind)
    if use is None:
        is_single = facts.kind == SINGLE
        fitting = [n for n, r in RULES.items() if _column(r, facts.kind) or (is_single and r.pairs)]
        raise call.error(
            f"{call.name} does not fit these labels ({DESCRIPTIONS[facts.kind]}); use one of"
            f" {', '.join(fitting)}"
        )
    return use, facts.kind


def _column(rule: LossRule, label_kind: str) -> Use | None:
    return {SINGLE: rule.single, MULTI: rule.multi, REGRESSION: rule.numbers}[label_kind]


def _balanced(call: Call, facts: LabelFacts) -> Call:
    """Replace weight="balanced" and pos_weight="balanced" by numbers from the training list."""
    asked = [key for key in ("weight", "pos_weight") if call.kwargs.get(key) == "balanced"]
    if not asked or call.prefix:
        return call
    if facts.kind == REGRESSION:
        raise call.error(
            "balanced counts images of classes, and these labels are numbers", asked[0]
        )
    counts = facts.counts
    # A class without images weighs as if it had one.
    weights: Mapping[str, Tensor] = {
        "weight": facts.num_images / (facts.num_classes * counts.clamp_min(1)),
        "pos_weight": (facts.num_images - counts) / counts.clamp_min(1),
    }
    return call.updated({key: weights[key].tolist() for key in asked})


def _task_of(kind: str, use: Use | Pairing, facts: LabelFacts, threshold: float | None) -> Task:
    task = Task(kind, use.decoder if isinstance(use, Use) else "nearest")
    if kind == MULTI:
        limit = 0.5 if threshold is None else threshold
        return replace(task, thresholds=torch.full((facts.num_classes,), limit))
    # Numbers are learned in units of their spread, so that it does not change the rate; not counts.
    if task.activation == "number":
        return replace(task, scale=facts.std, shift=facts.mean)
    return task
