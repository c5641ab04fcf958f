"""The head that is fitted before the first step, with train.method=probe-steps, as code."""

import re
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
    loader = call_text("DataLoader", ["listed", "2 * BATCH_SIZE", *workers], depth=2)
    run = [line for line in forward if line != "outputs = outputs.float()"]
    words = " and of their mirror images" if head.is_mirrored else ""
    again = [line.replace("model(images)", "model(images.flip(-1))") for line in run]
    return [
        "def fit_head(model: nn.Module, listed: ImageList) -> None:",
        f'    """Fit the head to what the rest makes of the images{words}."""',
        f"    head = model.{_path(head.name)}",
        f"    model.{_path(head.name)} = nn.Identity()",
        "    model.eval()",
        "    found, mirrored, targets = [], [], []"
        if head.is_mirrored
        else "    found, targets = [], []",
        "    with torch.no_grad():",
        f"        for images, labels in {loader}:",
        f"            images = {to_device}",
        *indented(_kept(run, "found"), 3),
        *indented(_kept(again, "mirrored") if head.is_mirrored else [], 3),
        "            targets.append(labels)",
        f"    model.{_path(head.name)} = head",
        *(_MIRRORED if head.is_mirrored else _PLAIN),
        *_FIT,
    ]


def _kept(run: Lines, name: str) -> Lines:
    """Return lines that put their outputs into a list."""
    if len(run) == 1:
        return [f"{name}.append({run[0].removeprefix('outputs = ')})"]
    return [*run, f"{name}.append(outputs)"]


def _path(name: str) -> str:
    """Return the name of a module as code: of a Sequential's part with its number in brackets."""
    return re.sub(r"\.(\d+)", r"[\1]", name)


_PLAIN = ["    features, labels = torch.cat(found).float().cpu(), torch.cat(targets)"]
_MIRRORED = [
    "    features = torch.cat(found + mirrored).float().cpu()",
    "    labels = torch.cat(targets).repeat(2)",
]
_FIT = """\
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    features = (features - mean) / std
    weight = torch.zeros(NUM_CLASSES, features.shape[1], requires_grad=True)
    bias = torch.zeros(NUM_CLASSES, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = loss + PENALTY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        # The scaling becomes part of the head, which then takes features as they are.
        head.weight.copy_(weight / std)
        head.bias.copy_(bias - (weight / std) @ mean)""".splitlines()
