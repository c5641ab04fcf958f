"""The weights that a run starts from, as code that loads them."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, literal
from ptkit.core.models import packaged_weights
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import origin
from ptkit.core.parts.calls import parse
from ptkit.core.training.setup import Setup
from ptkit.core.training.setup_model import weights_of

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Start:
    """lines: of the main function, after `model` is made. definitions: before it. packages: beside
    torch and torchvision.
    """

    lines: Lines = field(default_factory=list)
    definitions: Lines = field(default_factory=list)
    packages: tuple[str, ...] = ()


def start_of(setup: Setup) -> Start:
    """Return what loads the weights that a run starts from; nothing of a run from scratch.

    Raises:
        UsageError: weights that fit only after more than a script says.
    """
    weights, report = weights_of(setup.settings), setup.model.report
    if weights is None or report is None:
        return Start()
    if report.notes:
        raise refused(f"weights that are changed to fit ({report.notes[0]})", "use others")
    fresh = {*report.left_out, *(name for name, _, _ in report.mismatched)}
    heads = {name.rpartition(".")[0] for name in fresh}
    if report.missing or len(heads) > 1:
        raise refused(f"weights that fit in part ({report.summary()})", "use others")
    named = str(setup.settings.model.weights)
    start = _packaged(named) if named in packaged_weights.NAMES else _read(setup, named, weights)
    lines = list(start.lines)
    for head in heads:
        keeps = f'{{k: v for k, v in weights.items() if not k.startswith("{head}.")}}'
        lines += ["# The head is new, as the classes are others.", f"weights = {keeps}"]
    is_whole = not (fresh or report.unexpected)
    lines.append(f"model.load_state_dict(weights{'' if is_whole else ', strict=False'})")
    return Start(lines, start.definitions, start.packages)


def _packaged(name: str) -> Start:
    """Return what reads weights that come as a package, under the names of the model."""
    package, file = packaged_weights.PACKAGE, packaged_weights.FILES[name]
    return Start(
        [
            f'folder = resources.files("{package}")',
            f'weights = torch.load(str(folder / "{file}"), weights_only=True)',
            "# The same tensors in the same order, under other names.",
            "weights = dict(zip(model.state_dict(), weights.values(), strict=True))",
        ],
        packages=(package.replace("_", "-"),),
    )


def _read(setup: Setup, named: str, weights: Weights) -> Start:
    """Return what reads the weights of torchvision, or of a file, into `weights`."""
    call = parse(setup.model.call)
    known = parse(named) if named.isidentifier() else None
    if known is not None and not os.path.exists(named) and origin(known.name) == "torchvision":
        _check_names(setup, named, weights.state_dict)
        best = f"torchvision.models.get_model_weights({call.name!r}).DEFAULT"
        return Start([f"weights = {best}.get_state_dict(progress=True)".replace("'", '"')])
    if not os.path.exists(weights.path) or str(weights.path).endswith(".safetensors"):
        raise refused(f"the weights of {named}", "use those of torchvision, or a file of torch's")
    if named.startswith("timm:"):
        raise refused(f"the weights of {named}", "save them with torch.save, and name that file")
    found = torch.load(weights.path, map_location="cpu", weights_only=True)
    key = _key_of(setup, named, found)
    path = os.path.relpath(weights.path)
    arguments = [literal(path), 'map_location="cpu"', "weights_only=True"]
    inside = f'["{key}"]' if key else ""
    return Start([call_text("torch.load", arguments, before="weights = ", after=inside)])


def _key_of(setup: Setup, named: str, found: Mapping[str, Any]) -> str:
    """Return under which key a file has the weights; "" where they are all that it has."""
    for key in ("", "state_dict", "model_state_dict", "model"):
        tensors = found.get(key) if key else found
        if isinstance(tensors, Mapping) and _lacking(setup, tensors) == set():
            return key
    raise refused(f"the weights of {named}, whose tensors have other names", "use others")


def _check_names(setup: Setup, named: str, tensors: Mapping[str, Any]) -> None:
    if parse(named).name.startswith("densenet") or _lacking(setup, tensors):
        raise refused(f"the weights of {named}, whose tensors have other names", "use others")


def _lacking(setup: Setup, names: Collection[str]) -> set[str]:
    """Return what was taken from the weights and is not among these names."""
    assert setup.model.report is not None
    taken = {name for name in setup.model.report.taken if not name.endswith(_COUNTER)}
    return taken - set(names)
