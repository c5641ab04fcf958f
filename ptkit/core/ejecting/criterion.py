"""The loss of a run as code: what makes it, and what it is called with."""

from dataclasses import dataclass, field
from typing import Any

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, literal
from ptkit.core.parts.checks import OLD_REDUCTIONS
from ptkit.core.training.tasks import losses
from ptkit.core.training.tasks.loss import Loss, Use
from ptkit.core.training.tasks.losses import DEFAULTS, LOSSES

# What the outputs pass, and what the loss gets of the labels, by the function that does it here.
_ACTIVATIONS = {
    "unchanged": "outputs",
    "log_softmax": "F.log_softmax(outputs, dim=1)",
    "sigmoid": "outputs.sigmoid()",
    "softplus": "F.softplus(outputs)",
}
# With one class an image, and with several, whose rows are read as 0.0 and 1.0.
_TARGETS: dict[str, dict[Any, str]] = {
    SINGLE: {
        losses.as_labels: "labels",
        losses.hot: "F.one_hot(labels, NUM_CLASSES).float()",
        losses.signs: "F.one_hot(labels, NUM_CLASSES) * 2.0 - 1.0",
    },
    MULTI: {losses.hot: "labels", losses.signs: "labels * 2.0 - 1.0"},
    REGRESSION: {losses.as_labels: "labels"},
}


@dataclass(frozen=True)
class Criterion:
    """made: lines that make `criterion`. arguments: of its call on `outputs` and `labels`.
    divided: what follows the call. each: lines that make `each`, the loss of each image. row: what
    makes one number of an image's row of losses.
    """

    made: Lines
    arguments: Lines
    divided: str = ""
    each: Lines = field(default_factory=list)
    row: str = ""

    def loss(self, *, depth: int) -> str:
        """Return the line that computes `loss`, so deep."""
        return call_text(
            "criterion", self.arguments, before="loss = ", after=self.divided, depth=depth
        )

    def part(self, *, depth: int) -> str:
        """Return the line that computes what a batch adds to the loss of several, so deep."""
        after = " / weight" if self.divided else " * (len(labels) / num_images)"
        return call_text("criterion", self.arguments, before="loss = ", after=after, depth=depth)

    def mixed(self, over: str) -> Lines:
        """Return the lines that compute `loss` of mixed images."""
        outputs, target = self.arguments
        return [
            "own, partner = (",
            f"    each({outputs}, {target}){self.row} for labels in (labels, labels.roll(1, 0))",
            ")",
            f"loss = (own * share + partner * (1 - share)).sum() / {over}",
        ]


def criterion_of(loss: Loss) -> Criterion:
    """Return the code of a loss.

    Raises:
        UsageError: one that is more than a call of torch's on outputs and labels.
    """
    call, use = loss.call, loss.use
    kwargs = dict(LOSSES.named(call).kwargs)
    is_odd = kwargs.keys() & OLD_REDUCTIONS or kwargs.get("ignore_index") not in (None, -100)
    if is_odd or loss.reduction not in ("mean", "batchmean") or not isinstance(use, Use):
        raise refused(f"{call}", "it writes losses that are a mean over all images")
    targets = _TARGETS[loss.task.kind]
    if use.decoder == "negative" or use.target not in targets:
        raise refused(call.name, f"use {DEFAULTS[loss.task.kind]}")
    activation = _ACTIVATIONS.get(use.activation.__name__)
    if activation is None or (loss.weighs_images and loss.class_weights is None):
        raise refused(f"{call}", f"use {DEFAULTS[loss.task.kind]}")
    target = targets[use.target]
    if loss.task.scale is not None:
        target = "(labels - CENTRE) / SPREAD"
    if use.smoothing is not None:
        target = f"{target} * {1 - use.smoothing!r} + {use.smoothing!r} / NUM_CLASSES"
    values = {key: _text(key, value) for key, value in kwargs.items()}
    if call.name == "KLDivLoss":
        values["reduction"] = '"batchmean"'
    divided = ""
    summed = [f"{k}={v}" for k, v in {**values, "reduction": '"none"'}.items()]
    if loss.class_weights is not None:
        # As a sum over images, divided by what their classes weigh.
        values["reduction"] = '"sum"'
        divided = " / criterion.weight[labels].sum()"
    arguments = [f"{key}={text}" for key, text in values.items()]
    made = [call_text(f"nn.{call.name}", arguments, before="criterion = ")]
    each = [call_text(f"nn.{call.name}", summed, before="each = ")]
    if any(True for _ in loss.criterion.buffers()):
        made.append("criterion = criterion.to(DEVICE)")
        each.append("each = each.to(DEVICE)")
    row = {"mean": ".mean(1)", "batchmean": ".sum(1)"}[loss.reduction]
    # The others give an image one number.
    is_row = loss.task.kind == REGRESSION or (
        use.target is not losses.as_labels and call.name != "MultiLabelSoftMarginLoss"
    )
    counted = _counted() if "balanced" in kwargs.values() else []
    return Criterion([*counted, *made], [activation, target], divided, each, row if is_row else "")


def _text(key: str, given: Any) -> str:
    """Return an argument as code."""
    if given == "balanced":
        return _BALANCED[key]
    if key in _BALANCED and given is not None:
        # Whole numbers would make a tensor that no loss takes.
        weights = list(map(float, given)) if isinstance(given, list | tuple) else float(given)
        return f"torch.tensor({literal(weights)})"
    return literal(given)


def _counted() -> Lines:
    """Return what counts the images of each class."""
    return [
        "# The rarer a class, the more its images weigh.",
        'classes = [int(k) for _, label in train.rows for k in label.split(",") if k]',
        "counts = torch.tensor(classes).bincount(minlength=NUM_CLASSES).clamp_min(1)",
    ]


_BALANCED = {
    "weight": "len(train) / (NUM_CLASSES * counts)",
    "pos_weight": "(len(train) - counts) / counts",
}
