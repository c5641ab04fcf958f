"""The head that is fitted before the first step, with train.method=probe-steps, as code."""

from dataclasses import dataclass

import torch

from ptkit.core.data.transforms.completion import mirrors
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, indented
from ptkit.core.models.zoo import find_head
from ptkit.core.training.observers import Watcher
from ptkit.core.training.probe.checks import head_of
from ptkit.core.training.probing import fit_head_of
from ptkit.core.training.setup import Setup


@dataclass(frozen=True)
class FittedHead:
    """penalty: as cross-validation chose it, None where no head is fitted. name: of the layer.
    is_mirrored: mirror images count too.
    """

    penalty: float | None = None
    name: str = ""
    is_mirrored: bool = False

    @property
    def call(self) -> Lines:
        """The line of the main function that fits it."""
        if self.penalty is None:
            return []
        return ["fit_head(model, ImageList(TRAIN, is_training=False))"]


def head_fitted(setup: Setup, watch: Watcher) -> FittedHead:
    """Choose the penalty of a run's head as the run does; the model stays as it was.

    Raises:
        UsageError: a model whose features are more than what its head gets.
    """
    if setup.settings.train.method != "probe-steps":
        return FittedHead()
    training = setup.training
    num_classes = training.loss.facts.num_classes
    head, name = head_of(training.model, num_classes), find_head(training.model, num_classes)
    before = [parameter.detach().clone() for parameter in head.parameters()]
    shapes: list[int] = []
    hook = head.register_forward_pre_hook(lambda _, given: shapes.append(given[0].ndim))
    found = fit_head_of(setup, watch)
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), before, strict=True):
            parameter.copy_(value)
        training.model.eval()
        training.model(next(training.valid.epoch()).images[:1])
    hook.remove()
    if shapes[-1] != 2:
        raise refused("a head that gets maps or tokens", "--set train.method=steps")
    return FittedHead(found.chosen.penalty, name, mirrors(training.train.pipeline.calls))


def fit_head_function(head: FittedHead, *, forward: Lines, to_device: str, workers: Lines) -> Lines:
    """Return the function that fits the head; the rest: see `Loop`."""
    if head.penalty is None:
        return []
    loader = call_text("DataLoader", ["listed", "2 * BATCH_SIZE", *workers])
    run = [line.replace("model(images)", "model(seen)") for line in forward]
    run = [line.replace("outputs = ", "") for line in run if line != "outputs = outputs.float()"]
    words = " and of their mirror images" if head.is_mirrored else ""
    seen = "(images, images.flip(-1))" if head.is_mirrored else "(images,)"
    return [
        "@torch.no_grad()",
        "def fit_head(model: nn.Module, listed: ImageList) -> None:",
        f'    """Fit the head to what the rest makes of the images{words}."""',
        f"    head, found, labels = model.{head.name}, [], []",
        "    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))",
        "    model.eval()",
        f"    for images, targets in {loader}:",
        f"        images = {to_device}",
        f"        for seen in {seen}:",
        *indented(run, 3),
        "        labels.append(targets)",
        "    hook.remove()",
        *(_MIRRORED if head.is_mirrored else _PLAIN),
        "    with torch.enable_grad():",
        "        weight, bias = fitted_head(",
        "            features.cpu(), targets, num_classes=NUM_CLASSES, penalty=PENALTY",
        "        )",
        "    head.weight.copy_(weight)",
        "    head.bias.copy_(bias)",
    ]


_PLAIN = ["    features, targets = torch.cat(found).float(), torch.cat(labels)"]
_MIRRORED = [
    "    features = torch.cat(found[::2] + found[1::2]).float()",
    "    targets = torch.cat(labels).repeat(2)",
]
