"""The table of losses: which labels each is for, what stands before it, its target, and how outputs
are read.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.data.labels import DESCRIPTIONS, MULTI, REGRESSION, SINGLE
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.part import Part
from ptkit.core.training.tasks.pairs import PAIRINGS
from ptkit.core.training.tasks.task import EMBEDDING, LabelFacts, Task


@dataclass(frozen=True)
class Use:
    """How a loss is used with one kind of labels.

    before: name in losses.ACTIVATIONS of what the outputs pass before the loss.
    target: name in losses.TARGETS of what makes the target of the labels, or in pairs.PAIRINGS of
    what is compared.
    task: name in readings.DECODERS of what turns the outputs into probabilities or numbers.
    """

    before: str
    target: str
    task: str


@dataclass(frozen=True)
class LossRule:
    """One row: a loss with its uses; None where it does not fit the labels.

    one: one class an image. several: several classes. numbers: numbers. pairs: images compared by
    their classes.
    """

    summary: str
    one: Use | None = None
    several: Use | None = None
    numbers: Use | None = None
    pairs: Use | None = None


RULES: dict[str, LossRule] = {
    "CrossEntropyLoss": LossRule(
        "softmax and negative log-likelihood",
        one=Use("none", "class index", "softmax"),
    ),
    "NLLLoss": LossRule(
        "negative log-likelihood of log-softmax",
        one=Use("log_softmax", "class index", "softmax"),
    ),
    "MultiMarginLoss": LossRule(
        "hinge between the true class and each other",
        one=Use("none", "class index", "softmax"),
    ),
    "KLDivLoss": LossRule(
        "divergence from the smoothed one-hot",
        one=Use("log_softmax", "smoothed one-hot", "softmax"),
    ),
    "BCELoss": LossRule(
        "binary cross-entropy of each class",
        one=Use("sigmoid", "one-hot", "sigmoid"),
        several=Use("sigmoid", "many-hot", "sigmoid"),
    ),
    "BCEWithLogitsLoss": LossRule(
        "binary cross-entropy of each class, sigmoid inside",
        one=Use("none", "one-hot", "sigmoid"),
        several=Use("none", "many-hot", "sigmoid"),
    ),
    "SoftMarginLoss": LossRule(
        "logistic loss of each class",
        one=Use("none", "±1", "sigmoid"),
        several=Use("none", "±1", "sigmoid"),
    ),
    "MultiLabelSoftMarginLoss": LossRule(
        "one against all, maximum entropy",
        one=Use("none", "one-hot", "sigmoid"),
        several=Use("none", "many-hot", "sigmoid"),
    ),
    "MultiLabelMarginLoss": LossRule(
        "hinge between each class that is there and each that is not",
        one=Use("none", "class indices", "softmax"),
        several=Use("none", "class indices", "sigmoid"),
    ),
    "HingeEmbeddingLoss": LossRule(
        "distances: small for the true class, or (loss.pairs) between images of one class",
        one=Use("softplus", "±1", "negative"),
        pairs=Use("unit length", "distances of pairs", "nearest"),
    ),
    "L1Loss": LossRule(
        "absolute error",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "MSELoss": LossRule(
        "squared error",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "SmoothL1Loss": LossRule(
        "squared error near zero, absolute beyond beta",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "PoissonNLLLoss": LossRule(
        "counts; of classes the one-hot",
        one=Use("none", "one-hot", "exp"),
        numbers=Use("none", "number", "exp"),
    ),
    "CosineEmbeddingLoss": LossRule(
        "cosine of pairs: 1 for one class, below the margin for two",
        pairs=Use("unit length", "pairs", "nearest"),
    ),
    "MarginRankingLoss": LossRule(
        "of each triplet: the other class farther than the own, by the margin",
        pairs=Use("unit length", "ranked distances", "nearest"),
    ),
    "TripletMarginLoss": LossRule(
        "the same on anchor, positive and semi-hard negative",
        pairs=Use("unit length", "semi-hard triplets", "nearest"),
    ),
}
# With log_input=False the output itself is the expected count, which must be above zero.
POISSON_WITHOUT_LOG = LossRule(
    "", one=Use("softplus", "one-hot", "softplus"), numbers=Use("softplus", "number", "softplus")
)
# A user's own loss takes scores and labels, as these do.
OWN_CODE = LossRule(
    "",
    one=Use("none", "class index", "softmax"),
    several=Use("none", "many-hot", "sigmoid"),
    numbers=Use("none", "number", "number"),
)

# What is taken where no loss is named.
DEFAULTS = {
    SINGLE: "CrossEntropyLoss(label_smoothing=0.1)",
    MULTI: "BCEWithLogitsLoss()",
    REGRESSION: "SmoothL1Loss()",
}


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda outputs: outputs,
    "log_softmax": lambda outputs: F.log_softmax(outputs, dim=1),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "unit length": lambda outputs: F.normalize(outputs, dim=1),
}


def _hot(labels: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels.float()


def _signs(labels: Tensor, num_classes: int) -> Tensor:
    return _hot(labels, num_classes) * 2 - 1


def _smoothed(labels: Tensor, num_classes: int) -> Tensor:
    """One-hot, smoothed by 0.1 (Szegedy et al., "Rethinking the Inception Architecture", 2016,
    section 7).
    """
    return _hot(labels, num_classes) * 0.9 + 0.1 / num_classes


def _index_list(labels: Tensor, num_classes: int) -> Tensor:
    """Return (n, num_classes) class indices ended by -1, as MultiLabelMarginLoss wants them."""
    hot = _hot(labels, num_classes)
    order = hot.argsort(dim=1, descending=True, stable=True)
    return torch.where(
        torch.arange(num_classes, device=hot.device) < hot.sum(dim=1, keepdim=True), order, -1
    )


TARGETS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "class index": lambda labels, _num_classes: labels,
    "one-hot": _hot,
    "many-hot": _hot,
    "±1": _signs,
    "smoothed one-hot": _smoothed,
    "class indices": _index_list,
    "number": lambda labels, _num_classes: labels,
}

# Where the loss adds up over the classes of an image, SGD is best at its usual rate; where it is a
# mean over classes or numbers, or a distance, gradients are smaller by any factor, which Adam does
# not feel.
_SGD, _ADAM = "SGD(momentum=0.9, nesterov=True, weight_decay=0.0005)", "AdamW(weight_decay=0.05)"
_SUMS_OVER_CLASSES = ("class index", "smoothed one-hot")


LOSSES = Catalogue(
    "loss",
    {
        name: Part(
            f"torch.nn:{name}",
            rule.summary,
            # The loop reads one number a batch, whose mean it knows how to add up.
            supplied=frozenset({"reduction"}) if name == "KLDivLoss" else frozenset(),
            tensors=frozenset({"weight", "pos_weight"}),
        )
        for name, rule in RULES.items()
    },
)


class Loss(nn.Module):
    """A loss with what stands before it and its target: from outputs and labels to a scalar.

    outputs: (n, num_outputs). labels: rows of ImageList.labels.
    task: how the same outputs are read.
    """

    def __init__(self, criterion: nn.Module, use: Use, task: Task, facts: LabelFacts) -> None:
        super().__init__()
        self.criterion, self.use, self.task, self.facts = criterion, use, task, facts
        self._before = ACTIVATIONS[use.before]

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        # In float32: under bf16 autocast the sums of a loss lose digits.
        values = self._before(outputs.float())
        if self.use.target in PAIRINGS:
            return PAIRINGS[self.use.target](self.criterion, values, labels)
        return self.criterion(values, self._target_of(labels))

    def mixed(
        self, outputs: Tensor, labels: Tensor, partner_labels: Tensor, share: Tensor
    ) -> Tensor:
        """Return the mean of each image's two losses, weighted by its share (n,) and by the rest of
        1.
        """
        own, partner = self._each(outputs, labels), self._each(outputs, partner_labels)
        return (own * share + partner * (1 - share)).mean()

    def _each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (n,)."""
        one_by_one = copy.copy(self.criterion)
        one_by_one.reduction = "none"  # type: ignore[assignment]
        values = one_by_one(self._before(outputs.float()), self._target_of(labels))
        if values.ndim == 1:
            return values
        return (
            values.flatten(1).sum(1)
            if self.criterion.reduction == "batchmean"
            else values.flatten(1).mean(1)
        )

    def _target_of(self, labels: Tensor) -> Tensor:
        target = TARGETS[self.use.target](labels, self.facts.num_classes)
        if self.task.scale is not None and self.task.shift is not None:
            target = (target - self.task.shift) / self.task.scale
        # KLDivLoss(log_target=True) wants its probabilities as logarithms.
        return target.log() if getattr(self.criterion, "log_target", False) else target

    @property
    def usual_optimizer(self) -> str:
        """The call of the optimizer that suits the loss."""
        return _SGD if self.use.target in _SUMS_OVER_CLASSES else _ADAM

    @property
    def compares(self) -> bool:
        """Whether images are compared with each other: the outputs are then an embedding."""
        return self.use.target in PAIRINGS


def build_loss(
    text: str | None, facts: LabelFacts, *, pairs: bool = False, threshold: float | None = None
) -> Loss:
    """Return the loss that a call names (None: the usual one), for labels such as `facts`
    describes.

    pairs: compare images with each other where the loss can also do without. threshold: the
    probability above which
    a class counts as present, for several labels; 0.5.

    Raises:
        UsageError: unknown, not for these labels, or arguments that do not fit them.
    """
    call = parse(text or DEFAULTS[facts.kind])
    if not call.prefix:
        call = LOSSES.named(call)
    use, kind = _use_of(call, facts, pairs)
    call = _balanced(call, facts)
    criterion = LOSSES.build(
        call, supplied={"reduction": "batchmean"} if call.name == "KLDivLoss" else None
    )
    if not isinstance(criterion, nn.Module):
        raise call.error(f"a loss must be a torch.nn.Module, found {type(criterion).__name__}")
    if getattr(criterion, "reduction", "mean") not in ("mean", "batchmean"):
        raise call.error(
            'reduction must be "mean": the loop steps on the mean of a batch', "reduction"
        )
    for key in ("weight", "pos_weight"):
        value = call.kwargs.get(key)
        if isinstance(value, list | tuple) and len(value) != facts.num_classes:
            raise call.error(
                f"{key} has {len(value)} values, the data {facts.num_classes} classes", key
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
    return Loss(criterion, use, _task_of(kind, use, facts, threshold), facts)


def check_own_loss(loss: Loss, labels: Tensor, *, num_outputs: int) -> None:
    """Try a user's own loss on the labels of one batch.

    Raises:
        UsageError: it fails, or gives something else than one number that has a gradient.
    """
    name = type(loss.criterion).__name__
    if name in RULES:
        return
    outputs = torch.zeros(len(labels), num_outputs, device=labels.device, requires_grad=True)
    try:
        value = loss(outputs, labels)
    except Exception as error:  # the user's code may raise anything
        shapes = f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}"
        raise UsageError(f"{name} fails on {shapes}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        why = "no gradient" if isinstance(value, Tensor) and not value.ndim else found
        raise UsageError(
            f"{name} must give one number with a gradient, the mean of the batch; found {why}"
        )


def _use_of(call: Call, facts: LabelFacts, pairs: bool) -> tuple[Use, str]:
    """Return how a loss is used with these labels, and the kind of task that makes."""
    rule = OWN_CODE if call.prefix else RULES[call.name]
    if call.name == "PoissonNLLLoss" and not call.kwargs.get("log_input", True):
        rule = POISSON_WITHOUT_LOG
    if facts.kind == SINGLE and rule.pairs is not None and (pairs or rule.one is None):
        return rule.pairs, EMBEDDING
    if pairs:
        names = ", ".join(name for name, row in RULES.items() if row.pairs)
        raise UsageError(f"loss.pairs is for losses that compare images of one class each: {names}")
    columns = {
        SINGLE: (rule.one, SINGLE),
        MULTI: (rule.several, MULTI),
        REGRESSION: (rule.numbers, REGRESSION),
    }
    use, kind = columns[facts.kind]
    if use is None:
        raise call.error(f"{call.name} does not fit these labels ({DESCRIPTIONS[facts.kind]}); use one of "
                         f"{', '.join(_fitting(facts.kind))}")  # fmt: skip
    return use, kind


def _fitting(label_kind: str) -> list[str]:
    column = {SINGLE: "one", MULTI: "several", REGRESSION: "numbers"}[label_kind]
    return [
        name
        for name, rule in RULES.items()
        if getattr(rule, column) or (label_kind == SINGLE and rule.pairs)
    ]


def _balanced(call: Call, facts: LabelFacts) -> Call:
    """Replace weight="balanced" and pos_weight="balanced" by numbers computed from the training
    list.
    """
    asked = [key for key in ("weight", "pos_weight") if call.kwargs.get(key) == "balanced"]
    if not asked or call.prefix:
        return call
    if facts.kind == REGRESSION:
        raise call.error(
            "balanced counts images of classes, and these labels are numbers", asked[0]
        )
    counts, num_images = facts.counts, facts.num_images
    # A class without images weighs as if it had one.
    weights: Mapping[str, Tensor] = {
        "weight": counts.sum() / (facts.num_classes * counts.clamp_min(1)),
        "pos_weight": (num_images - counts) / counts.clamp_min(1),
    }
    kwargs: dict[str, Any] = dict(call.kwargs) | {key: weights[key].tolist() for key in asked}
    return replace(call, kwargs=kwargs)


def _task_of(kind: str, use: Use, facts: LabelFacts, threshold: float | None) -> Task:
    if kind == MULTI:
        limit = 0.5 if threshold is None else threshold
        return Task(kind, use.task, thresholds=torch.full((facts.num_classes,), limit))
    # Numbers are learned in units of their spread, so that the rate does not depend on it; counts
    # stay counts.
    if kind == REGRESSION and use.task == "number":
        return Task(kind, use.task, scale=facts.std, shift=facts.mean)
    return Task(kind, use.task)
