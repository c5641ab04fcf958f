"""Initialise weights by torch.nn.init's functions, chosen by layer class, module or parameter."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.selectors import matching_parameters, matching_weights
from ptkit.core.parts.calls import Call, parse, split_selector
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.part import Part

_SUMMARIES = {
    "xavier_uniform_": "uniform, variance kept forwards and backwards (Glorot and Bengio 2010)",
    "xavier_normal_": "normal, variance kept forwards and backwards (Glorot and Bengio 2010)",
    "kaiming_uniform_": "uniform, variance kept through rectifiers (He et al. 2015)",
    "kaiming_normal_": "normal, variance kept through rectifiers (He et al. 2015)",
    "uniform_": "uniform between a and b",
    "normal_": "normal with mean and standard deviation",
    "constant_": "one value everywhere",
    "eye_": "the identity matrix; 2-D weights only",
    "orthogonal_": "orthogonal rows or columns (Saxe et al. 2013)",
    "sparse_": "normal with a fraction of zeros in each column; 2-D weights only (Martens 2010)",
}
_SUPPLIED = frozenset({"tensor", "generator"})
INITS = Catalogue(
    "initialisation",
    {name: Part(f"torch.nn.init:{name}", text, _SUPPLIED) for name, text in _SUMMARIES.items()},
    functions={"calculate_gain": "torch.nn.init:calculate_gain"},
)
# The course's initialize_weights: layer class, parameter, call.
TUTORIAL = (
    ("Conv2d", "weight", "xavier_normal_()"),
    ("Conv2d", "bias", "constant_(0)"),
    ("BatchNorm2d", "weight", "constant_(1)"),
    ("BatchNorm2d", "bias", "constant_(0)"),
    ("Linear", "weight", "normal_(0, 0.01)"),
    ("Linear", "bias", "constant_(0)"),
)
_MATRIX_ONLY = ("eye_", "sparse_")
_ANY_SHAPE = ("uniform_", "normal_", "constant_")


def initialize(model: nn.Module, lines: Sequence[str], *, seed: int) -> None:
    """Draw the weights that `lines` name anew, in place; later lines win.

    lines: `SELECTOR=call`, such as `Conv2d=kaiming_normal_(mode='fan_out')`, or the word
        `tutorial`. On a module or a class the call fills its `weight`.
    seed: with the parameter's name and its call it decides the values. No global random state
    changes.

    Raises:
        UsageError: a selector that matches nothing, a wrong call, or one that cannot fill a
            parameter of this shape.
    """
    calls = plan_calls(model, lines)
    parameters = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, call in calls.items():
            _check(call, name, parameters[name].shape)
            # torch.nn.init.sparse_ draws its zeros from the default generator in any case.
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
            values = torch.empty(parameters[name].shape, dtype=parameters[name].dtype)
            INITS.build(call, supplied={"tensor": values})
            parameters[name].copy_(values)


def plan_calls(model: nn.Module, lines: Sequence[str]) -> dict[str, Call]:
    """Return the call that fills each named parameter; see `initialize`.

    Raises:
        UsageError: a selector that matches nothing, or a wrong call.
    """
    calls: dict[str, Call] = {}
    for line in lines:
        if line.strip() == "tutorial":
            calls |= _tutorial(model)
            continue
        selector, text = split_selector(line, "=")
        call = parse(text)
        calls |= dict.fromkeys(matching_weights(model, selector), call)
    return calls


def _tutorial(model: nn.Module) -> dict[str, Call]:
    classes = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    calls = {
        name: parse(text)
        for class_name, kind, text in TUTORIAL
        if class_name in classes
        for name in matching_parameters(model, class_name)
        if name.rpartition(".")[2] == kind
    }
    if not calls:
        raise UsageError(
            f"tutorial is for Conv2d, BatchNorm2d and Linear, and {type(model).__name__} has none"
            " of them"
        )
    return calls


def _check(call: Call, name: str, shape: torch.Size) -> None:
    """Refuse a shape that torch.nn.init refuses without naming the parameter."""
    if call.prefix:
        return
    found = f"{name} is {len(shape)}-D {tuple(shape)}"
    if call.name in _MATRIX_ONLY and len(shape) != 2:
        raise UsageError(
            f"{call.name} fills matrices only, and {found}: choose another initialisation or"
            " parameter"
        )
    if call.name in INITS.parts and call.name not in _ANY_SHAPE and len(shape) < 2:
        raise UsageError(
            f"{call.name} needs two dimensions or more, and {found}: name the weights it is"
            " meant for"
        )
