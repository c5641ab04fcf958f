"""The model of a run as code: the call that builds it, the source of one of ours, and what fills
its weights.
"""

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptkit.core.ejecting import plain_models
from ptkit.core.ejecting.conditions import condition
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import (
    Lines,
    body_of,
    call_text,
    called_in,
    definitions,
    indented,
    literal,
)
from ptkit.core.ejecting.start import start_of
from ptkit.core.models import channels, torchvision_models
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.models.initialization import plan_calls
from ptkit.core.models.zoo import origin
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.setup import Setup


@dataclass(frozen=True)
class Network:
    """definitions: source. lines: of a function that returns the model.

    packages: what they need beside torch and torchvision.
    """

    definitions: Lines
    lines: Lines
    packages: tuple[str, ...] = ()


def network_of(setup: Setup) -> Network:
    """Return the code of a run's model with its first weights.

    Raises:
        UsageError: a model or weights that have no plain form.
    """
    call = parse(setup.model.call)
    if hasattr(setup.model.module, "fit_inputs"):
        raise refused(f"{call.name}, whose first layer is set from images", "use another model")
    start = start_of(setup)
    own: Lines = []
    packages: tuple[str, ...] = ()
    if call.prefix == "timm":
        packages = ("timm",)
        arguments = [literal(call.name), "num_classes=NUM_CLASSES", *_keywords(call.kwargs)]
        lines = [call_text("timm.create_model", arguments, before="model = ")]
    elif origin(call.name) == "ptkit":
        own, lines = _of_ours(call, has_weights=bool(start.lines))
    else:
        own, lines = _of_torchvision(call)
    fill = [*_init_lines(setup), *start.lines]
    made = [*lines, *fill, "return model"]
    if not fill and len(lines) == 1:
        made = [lines[0].replace("model = ", "return ", 1)]
    return Network(
        definitions=[*own, *start.definitions],
        lines=["torch.manual_seed(SEED)", *made],
        packages=(*packages, *start.packages),
    )


def _keywords(values: Mapping[str, Any]) -> Lines:
    return [f"{key}={literal(value)}" for key, value in values.items() if value is not None]


def _of_ours(call: Call, *, has_weights: bool) -> tuple[Lines, Lines]:
    """Return the source of the classes, and the call that a builder of ours returns."""
    from ptkit.core.models.zoo import models

    builder = models().find(call).load()
    module = sys.modules[builder.__module__]
    function = ast.parse(inspect.getsource(builder)).body[0]
    assert isinstance(function, ast.FunctionDef)
    returned = function.body[-1]
    assert isinstance(returned, ast.Return)
    assert isinstance(returned.value, ast.Call)
    made = returned.value
    plain = _PLAIN.get(ast.unparse(made.func))
    bound = inspect.signature(builder).bind(num_classes=0, **models().named(call).kwargs)
    bound.apply_defaults()
    values = {k: literal(v) for k, v in bound.arguments.items()} | {"num_classes": "NUM_CLASSES"}
    arguments = [_replaced(a, values) for a in made.args]
    arguments += [f"{k.arg}={_replaced(k.value, values)}" for k in made.keywords]
    if plain:
        given = {"num_classes": "NUM_CLASSES"}
        given |= {str(k.arg): _replaced(k.value, values) for k in made.keywords}
        lines = body_of(plain_models, plain, given)
        # Without further blocks.
        if given.get("num_blocks") == "1":
            lines = [line.replace(", *more)", ")") for line in lines if "more =" not in line]
        fill = [] if has_weights else _FAN_OUT
        return definitions(plain_models, called_in(plain_models, lines)), [*lines, *fill]
    name = ast.unparse(made.func)
    return definitions(module, [name]), [call_text(name, arguments, before="model = ")]


_FAN_OUT = [
    "for module in model.modules():",
    "    if isinstance(module, nn.Conv2d):",
    '        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")',
]
# Classes whose source is long, and the functions that build the same.
_PLAIN = {"SmallResNet": "small_resnet", "EfficientNetLite": "efficientnet_lite0"}


def _replaced(node: ast.expr, values: Mapping[str, str]) -> str:
    """Return an expression with the arguments of the builder put in."""
    return values[node.id] if isinstance(node, ast.Name) else ast.unparse(node)


def _of_torchvision(call: Call) -> tuple[Lines, Lines]:
    given = {k: v for k, v in call.kwargs.items() if k not in ("stem", "in_channels")}
    given |= torchvision_models.FIXED.get(torchvision_models.class_of(call.name), {})
    function = f"torchvision.models.{call.name}"
    arguments = ["num_classes=NUM_CLASSES", *_keywords(given)]
    own: Lines = []
    lines = [call_text(function, arguments, before="model = ")]
    if call.kwargs.get("stem") == "small":
        own += definitions(torchvision_models, ["shrink_stem"])
        lines.append("shrink_stem(model)")
    if call.kwargs.get("in_channels") == 1:
        own += definitions(channels, ["take_one_channel"])
        lines.append("take_one_channel(model)")
    return own, lines


def _init_lines(setup: Setup) -> Lines:
    """Return the lines that draw weights anew, as the run's --init asks for."""
    asked = setup.settings.model.init
    if not asked:
        return []
    model = setup.model.module
    calls = plan_calls(model, asked)
    lines = [
        "# Each parameter has a seed of its own, from its name.",
        "for name, parameter in model.named_parameters():",
        '    digest = hashlib.sha256(f"{SEED} {name}".encode()).digest()',
        '    torch.manual_seed(int.from_bytes(digest[:8], "little"))',
    ]
    for text in dict.fromkeys(map(str, calls.values())):
        names = {name for name, call in calls.items() if str(call) == text}
        call = next(call for call in calls.values() if str(call) == text)
        if any(isinstance(value, Call) for value in (*call.args, *call.kwargs.values())):
            raise refused(f"{text}", "give the number that the inner call means")
        filled = ["parameter", *map(literal, call.args), *_keywords(call.kwargs)]
        lines += [
            f"    if {condition(model, names)}:",
            *indented([call_text(f"nn.init.{call.name}", filled, depth=3)], 2),
        ]
    return lines


def draws_in_training(model: nn.Module, images: torch.Tensor) -> bool:
    """Say whether a model in training mode draws random numbers, as dropout does."""
    device = images.device
    devices = [device] if images.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), keeping_buffers(model):
        before = _state(device)
        # More would take the memory of a step.
        model(images[:8])
        return not torch.equal(before, _state(device))


def _state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
