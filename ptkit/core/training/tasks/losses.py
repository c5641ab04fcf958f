"""The table of losses: the labels that each is for, and the functions that surround it there."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.data.lists import DESCRIPTIONS, MULTI, REGRESSION, SINGLE, ImageList
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.part import Part
from ptkit.core.training.tasks import pairs as compare
from ptkit.core.training.tasks.task import EMBEDDING, Task

Activation = Callable[[Tensor], Tensor]
Target = Callable[[Tensor, int], Tensor]
Pairing = Callable[[nn.Module, Tensor, Tensor], Tensor]


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


def smoothed_one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot rows smoothed by 0.1 (Szegedy et al. 2016, section 7)."""
    return hot(labels, num_classes) * 0.9 + 0.1 / num_classes


def class_indices(labels: Tensor, num_classes: int) -> Tensor:
    """Return (n, num_classes) class indices ended by -1, as MultiLabelMarginLoss needs them."""
    rows = hot(labels, num_classes)
    order = rows.argsort(dim=1, descending=True, stable=True)
    is_there = torch.arange(num_classes, device=rows.device) < rows.sum(dim=1, keepdim=True)
    return torch.where(is_there, order, -1)


@dataclass(frozen=True)
class Use:
    """How a loss is used with one kind of labels.

    activation: what the outputs pass before it. target: what it gets of the labels. decoder: name
    of what reads the same outputs, in DECODERS.
    """

    activation: Activation
    target: Target
    decoder: str


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
        "divergence from the smoothed one-hot", single=Use(log_softmax, smoothed_one_hot, "softmax")
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
        pairs=compare.distances_of_pairs,
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
        "cosine of pairs: 1 for one class, below the margin for two", pairs=compare.signed_pairs
    ),
    "MarginRankingLoss": LossRule(
        "of each triplet: the other class farther than the own, by the margin",
        pairs=compare.ranked_distances,
    ),
    "TripletMarginLoss": LossRule(
        "the same on anchor, positive and semi-hard negative", pairs=compare.semi_hard_triplets
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

# Losses that sum over the classes of an image suit SGD at its usual rate; means over classes or
# numbers, and distances, have gradients smaller by any factor, which Adam does not feel.
_SGD, _ADAM = "SGD(momentum=0.9, nesterov=True, weight_decay=0.0005)", "AdamW(weight_decay=0.05)"

LOSSES = Catalogue(
    "loss",
    {
        name: Part(
            f"torch.nn:{name}",
            rule.summary,
            # The loop adds up one mean per batch.
            supplied=frozenset({"reduction"}) if name == "KLDivLoss" else frozenset(),
            tensors=frozenset({"weight", "pos_weight"}),
        )
        for name, rule in RULES.items()
    },
)


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """What the labels of a list are like.

    kind: of the labels. num_classes: or how many numbers an image has. counts: (K,) images of each
    class; empty for numbers. mean, std: (D,) of the numbers; empty for classes. lowest: the
    smallest number; 0 for classes.
    """

    kind: str
    num_classes: int
    num_images: int
    counts: Tensor
    mean: Tensor
    std: Tensor
    lowest: float = 0.0


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


class Loss(nn.Module):
    """A loss with what surrounds it: from outputs and labels to a scalar.

    outputs: (n, num_outputs). labels: rows of ImageList.labels.
    call: as the user wrote it. use: a Use, or how images are compared. task: how the same outputs
    are read.
    """

    def __init__(
        self, criterion: nn.Module, call: Call, use: Use | Pairing, task: Task, facts: LabelFacts
    ) -> None:
        super().__init__()
        self.criterion, self.call, self.use = criterion, call, use
        self.task, self.facts = task, facts

    def on(self, device: torch.device) -> "Loss":
        """Return the loss with all its tensors on a device, so that no batch waits for a copy."""
        return Loss(
            self.criterion.to(device), self.call, self.use, self.task.on(device), self.facts
        )

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        # In float32: under bf16 autocast the sums of a loss lose digits.
        values = outputs.float()
        if not isinstance(self.use, Use):
            return self.use(self.criterion, F.normalize(values, dim=1), labels)
        return self._applied(self.criterion, self.use, values, labels)

    def mixed(
        self, outputs: Tensor, labels: Tensor, partner_labels: Tensor, share: Tensor
    ) -> Tensor:
        """Return the mean of each image's two losses, weighted by its share (n,) and the rest."""
        own, partner = self._each(outputs, labels), self._each(outputs, partner_labels)
        return (own * share + partner * (1 - share)).mean()

    def _each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (n,)."""
        one_by_one = copy.copy(self.criterion)
        one_by_one.reduction = "none"  # type: ignore[assignment]
        assert isinstance(self.use, Use)
        values = self._applied(one_by_one, self.use, outputs.float(), labels)
        if values.ndim == 1:
            return values
        is_sum = self.criterion.reduction == "batchmean"
        return values.flatten(1).sum(1) if is_sum else values.flatten(1).mean(1)

    def _applied(self, criterion: nn.Module, use: Use, values: Tensor, labels: Tensor) -> Tensor:
        target = use.target(labels, self.facts.num_classes)
        if self.task.scale is not None and self.task.shift is not None:
            target = (target - self.task.shift) / self.task.scale
        # KLDivLoss(log_target=True) takes logarithms of probabilities.
        if getattr(criterion, "log_target", False):
            target = target.log()
        loss: Tensor = criterion(use.activation(values), target)
        return loss

    @property
    def usual_optimizer(self) -> str:
        """The call of the optimizer that suits the loss."""
        is_sum = isinstance(self.use, Use) and self.use.target in (as_labels, smoothed_one_hot)
        return _SGD if is_sum and self.facts.kind == SINGLE else _ADAM

    @property
    def compares(self) -> bool:
        """Whether images are compared with each other: the outputs are then an embedding."""
        return not isinstance(self.use, Use)


def build_loss(
    call: Call | None, facts: LabelFacts, *, pairs: bool = False, threshold: float | None = None
) -> Loss:
    """Return the loss that a call names (None: the usual one) for labels as in `facts`.

    pairs: compare images with each other, where the loss also works without. threshold: the
    probability above which a class counts as present, for several labels; None for 0.5.

    Raises:
        UsageError: unknown, not for these labels, or arguments that do not fit them.
    """
    given = call = call or parse(DEFAULTS[facts.kind])
    if not call.prefix:
        call = LOSSES.named(call)
    use, kind = _use_of(call, facts, pairs)
    call = _balanced(call, facts)
    supplied = {"reduction": "batchmean"} if call.name == "KLDivLoss" else None
    criterion = LOSSES.build(call, supplied=supplied)
    if not isinstance(criterion, nn.Module):
        raise call.error(f"a loss must be a torch.nn.Module, found {type(criterion).__name__}")
    if getattr(criterion, "reduction", "mean") not in ("mean", "batchmean"):
        raise call.error('reduction must be "mean": a step takes the mean of a batch', "reduction")
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
    return Loss(criterion, given, use, _task_of(kind, use, facts, threshold), facts)


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
        "weight": counts.sum() / (facts.num_classes * counts.clamp_min(1)),
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
