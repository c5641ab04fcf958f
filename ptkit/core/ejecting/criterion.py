"""The loss of a run as code: what makes it, and what it is called with."""

from dataclasses import dataclass

from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, literal
from ptkit.core.parts.checks import OLD_REDUCTIONS
from ptkit.core.training.tasks import losses
from ptkit.core.training.tasks.loss import Loss, Use
from ptkit.core.training.tasks.losses import LOSSES

# What the outputs pass, and what the loss gets of the labels, by the function that does it here.
_ACTIVATIONS = {
    "unchanged": "outputs",
    "log_softmax": "F.log_softmax(outputs, dim=1)",
    "sigmoid": "outputs.sigmoid()",
}
_TARGETS = {
    losses.as_labels: "labels",
    losses.hot: "F.one_hot(labels, NUM_CLASSES).float()",
    losses.signs: "F.one_hot(labels, NUM_CLASSES) * 2.0 - 1.0",
}


@dataclass(frozen=True)
class Criterion:
    """made: lines that make `criterion`. arguments: of its call on `outputs` and `labels`.
    divided: what follows the call.
    """

    made: Lines
    arguments: Lines
    divided: str = ""

    def loss(self, *, depth: int) -> str:
        """Return the line that computes `loss`, so deep."""
        return call_text(
            "criterion", self.arguments, before="loss = ", after=self.divided, depth=depth
        )


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
    if use.decoder == "negative" or use.target not in _TARGETS:
        raise refused(call.name, "use CrossEntropyLoss")
    activation = _ACTIVATIONS.get(use.activation.__name__)
    if activation is None or (loss.weighs_images and loss.class_weights is None):
        raise refused(f"{call}", "use CrossEntropyLoss")
    target = _TARGETS[use.target]
    if use.smoothing is not None:
        target = f"{target} * {1 - use.smoothing!r} + {use.smoothing!r} / NUM_CLASSES"
    values = {key: _text(key, value) for key, value in kwargs.items()}
    if call.name == "KLDivLoss":
        values["reduction"] = '"batchmean"'
    divided = ""
    if loss.class_weights is not None:
        # As a sum over images, divided by what their classes weigh.
        values["reduction"] = '"sum"'
        divided = " / criterion.weight[labels].sum()"
    arguments = [f"{key}={text}" for key, text in values.items()]
    made = [call_text(f"nn.{call.name}", arguments, before="criterion = ")]
    if any(True for _ in loss.criterion.buffers()):
        made.append("criterion = criterion.to(DEVICE)")
    counted = _COUNTED if "balanced" in kwargs.values() else []
    return Criterion([*counted, *made], [activation, target], divided)


def _text(key: str, given: object) -> str:
    """Return an argument as code."""
    if given == "balanced":
        return _BALANCED[key]
    return f"torch.tensor({literal(given)})" if key in _BALANCED else literal(given)


# Of labels that are balanced by their numbers.
_COUNTED = [
    "# The rarer a class, the more its images weigh.",
    "labels = torch.tensor([int(label) for _, label in train.rows])",
    "counts = labels.bincount(minlength=NUM_CLASSES).clamp_min(1)",
]
_BALANCED = {
    "weight": "len(train) / (NUM_CLASSES * counts)",
    "pos_weight": "(len(train) - counts) / counts",
}
