"""What a script reads of a list's labels, and how well outputs answer them, as code."""

from dataclasses import dataclass, field

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.ejecting.source import Lines
from ptkit.core.training.setup import Setup


@dataclass(frozen=True)
class Label:
    """The label of an image in a list. read: lines before it; value: it, as code."""

    type: str
    value: str
    read: Lines = field(default_factory=list)


@dataclass(frozen=True)
class Metric:
    """The main metric. name: a variable. word: as printed. value: of `outputs` and `labels`.
    format: of an f-string. is_least_best: a small value is a good one.
    """

    name: str
    word: str
    value: str
    format: str
    is_least_best: bool = False


LABELS = {
    SINGLE: Label("int", "int(label)"),
    MULTI: Label(
        "Tensor",
        "present",
        [
            "present = torch.zeros(NUM_CLASSES)",
            'present[[int(k) for k in label.split(",") if k]] = 1.0',
        ],
    ),
    REGRESSION: Label("Tensor", 'torch.tensor([float(n) for n in label.split(",")])'),
}


def metric_of(setup: Setup) -> Metric:
    """Return the main metric of a run's task."""
    task = setup.training.loss.task
    if task.kind == MULTI:
        return Metric("precision", "mAP", "mean_precision(labels, outputs.sigmoid())", "7.2%")
    if task.kind == REGRESSION:
        numbers = {"exp": "outputs.exp()", "softplus": "F.softplus(outputs)"}.get(
            task.activation, "outputs"
        )
        if task.scale is not None:
            numbers = f"{numbers} * SPREAD + CENTRE"
        value = f"({numbers} - labels).abs().mean().item()"
        return Metric("error", "mean error", value, ".4f", is_least_best=True)
    value = "(outputs.argmax(1) == labels).float().mean().item()"
    return Metric("accuracy", "accuracy", value, "7.2%")
