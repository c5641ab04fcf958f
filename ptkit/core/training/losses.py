"""Losses: what stands before each, what its target is, and how the outputs are read, in one table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.calls import nearest, parse
from ptkit.core.catalogue import Catalogue, Part
from ptkit.core.errors import UsageError


@dataclass(frozen=True)
class LossRule:
    """One row: how a loss is used with one label an image.

    before: name of the function in `ACTIVATIONS` that the outputs pass before the loss.
    target: name of the function in `TARGETS` that makes the loss's target of the class indices.
    reading: name of the function in `READINGS` that turns the outputs into probabilities.
    """

    before: str
    target: str
    reading: str
    summary: str


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda outputs: outputs,
    "log_softmax": lambda outputs: F.log_softmax(outputs, dim=1),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(labels, num_classes).float()


def _signs(labels: Tensor, num_classes: int) -> Tensor:
    return _one_hot(labels, num_classes) * 2 - 1


def _smoothed(labels: Tensor, num_classes: int) -> Tensor:
    """One-hot, smoothed by 0.1 (Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7)."""
    return _one_hot(labels, num_classes) * 0.9 + 0.1 / num_classes


def _index_list(labels: Tensor, num_classes: int) -> Tensor:
    """Return (n, num_classes) class indices ended by -1, as MultiLabelMarginLoss wants them."""
    target = labels.new_full((len(labels), num_classes), -1)
    target[:, 0] = labels
    return target


TARGETS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "class index": lambda labels, _num_classes: labels,
    "one-hot": _one_hot,
    "±1": _signs,
    "smoothed one-hot": _smoothed,
    "list of class indices": _index_list,
}


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(dim=1, keepdim=True).clamp_min(1e-12)


READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda outputs: F.softmax(outputs, dim=1),
    "sigmoid": lambda outputs: _shares(torch.sigmoid(outputs)),
    "exp": lambda outputs: F.softmax(outputs, dim=1),
    "softplus": lambda outputs: _shares(F.softplus(outputs)),
    "clamp": lambda outputs: _shares(outputs.clamp(1e-6, 1)),
    "negative": lambda outputs: F.softmax(-outputs, dim=1),
}

RULES: dict[str, LossRule] = {
    "CrossEntropyLoss": LossRule("none", "class index", "softmax", "softmax and negative log-likelihood"),
    "NLLLoss": LossRule("log_softmax", "class index", "softmax", "negative log-likelihood of log-softmax"),
    "MultiMarginLoss": LossRule("none", "class index", "softmax", "hinge between the true class and each other"),
    "KLDivLoss": LossRule("log_softmax", "smoothed one-hot", "softmax", "divergence from the smoothed one-hot"),
    "BCELoss": LossRule("sigmoid", "one-hot", "sigmoid", "binary cross-entropy, one class against the rest"),
    "BCEWithLogitsLoss": LossRule("none", "one-hot", "sigmoid", "the same, sigmoid inside"),
    "SoftMarginLoss": LossRule("none", "±1", "sigmoid", "logistic loss, one class against the rest"),
    "MultiLabelSoftMarginLoss": LossRule("none", "one-hot", "sigmoid", "one against all, maximum entropy"),
    "MultiLabelMarginLoss": LossRule("none", "list of class indices", "softmax", "hinge for sets of labels"),
    "HingeEmbeddingLoss": LossRule("softplus", "±1", "negative", "outputs as distances: small for the true class"),
    "L1Loss": LossRule("none", "one-hot", "clamp", "absolute error to the one-hot"),
    "MSELoss": LossRule("none", "one-hot", "clamp", "squared error to the one-hot"),
    "SmoothL1Loss": LossRule("none", "one-hot", "clamp", "squared near zero, absolute beyond beta"),
    "PoissonNLLLoss": LossRule("none", "one-hot", "exp", "each class's one-hot as a count"),
}

# A user's own loss takes scores and class indices, as CrossEntropyLoss does.
_OWN_CODE = RULES["CrossEntropyLoss"]

_COMES_LATER = ("MarginRankingLoss", "CosineEmbeddingLoss", "TripletMarginLoss")

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
    """A loss with what stands before it and its target: from outputs (n, K) and class indices (n,) to a scalar."""

    def __init__(self, criterion: nn.Module, rule: LossRule, num_classes: int) -> None:
        super().__init__()
        self.criterion, self.rule, self.num_classes = criterion, rule, num_classes
        self._before, self._target = ACTIVATIONS[rule.before], TARGETS[rule.target]

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        # In float32: under bf16 autocast the sums of a loss lose digits.
        return self.criterion(self._before(outputs.float()), self._target(labels, self.num_classes))


def build_loss(text: str, *, num_classes: int) -> Loss:
    """Return the loss that a call names, for one label an image.

    Raises:
        UsageError: unknown, not for these labels, or arguments that do not fit `num_classes`.
    """
    call = parse(text)
    if call.name in _COMES_LATER:
        raise call.error(f"{call.name} needs pairs or triplets; these labels are one class an image: use one of "
                         f"{', '.join(RULES)}")  # fmt: skip
    criterion = LOSSES.build(call, supplied={"reduction": "batchmean"} if call.name == "KLDivLoss" else None)
    if not isinstance(criterion, nn.Module):
        raise call.error(f"a loss must be a torch.nn.Module, found {type(criterion).__name__}")
    if getattr(criterion, "reduction", "mean") not in ("mean", "batchmean"):
        raise call.error('reduction must be "mean": the loop steps on the mean of a batch', "reduction")
    for key in ("weight", "pos_weight"):
        value = call.kwargs.get(key)
        if isinstance(value, list | tuple) and len(value) != num_classes:
            raise call.error(f"{key} has {len(value)} values, the data {num_classes} classes", key)
    return Loss(criterion, _OWN_CODE if call.prefix else RULES[call.name], num_classes)


def probabilities(outputs: Tensor, activation: str) -> Tensor:
    """Return (n, K) probabilities that sum to 1 a row; `activation` is a key of READINGS, as checkpoints carry it.

    Raises:
        UsageError: unknown activation.
    """
    if activation not in READINGS:
        raise UsageError(f"no output reading is called {activation}{nearest(activation, READINGS)}")
    return READINGS[activation](outputs.float())


def predictions(outputs: Tensor, activation: str) -> Tensor:
    """Return the class of each row of outputs (n, K): the smallest where they are distances, else the largest.

    Of the outputs, not of the probabilities: those saturate, and two classes then look alike.
    """
    return outputs.argmin(dim=1) if activation == "negative" else outputs.argmax(dim=1)
