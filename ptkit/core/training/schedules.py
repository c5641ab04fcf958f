"""Learning-rate schedules: torch's own schedulers drive a shadow optimizer, and the warm-up multiplies.

SequentialLR refuses ReduceLROnPlateau and mangles OneCycleLR; a shadow with one dummy parameter a group has neither
fault, and the real rate is the shadow's times the warm-up factor.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ptkit.core.calls import Call, parse
from ptkit.core.catalogue import Catalogue, Part, load_function
from ptkit.core.errors import UsageError

_SUPPLIED = frozenset({"optimizer"})

_ROWS = {
    "StepLR": ("epoch", "times gamma every step_size epochs"),
    "MultiStepLR": ("epoch", "times gamma at each milestone"),
    "ExponentialLR": ("epoch", "times gamma every epoch"),
    "CosineAnnealingLR": ("step", "half a cosine down to eta_min (Loshchilov and Hutter 2017)"),
    "ReduceLROnPlateau": ("epoch", "times factor when the validation loss or accuracy stops improving"),
    "LambdaLR": ("epoch", 'a factor of the epoch: LambdaLR("0.95 ** epoch") or LambdaLR("module:function")'),
    "OneCycleLR": ("step", "up to max_lr and down far below (Smith and Topin 2018)"),
    "CosineAnnealingWarmRestarts": ("epoch", "cosine that starts again every T_0 epochs"),
    "LinearLR": ("step", "linear between two factors"),
    "PolynomialLR": ("step", "polynomial down to zero"),
}

SCHEDULERS = Catalogue(
    "schedule",
    {name: Part(f"torch.optim.lr_scheduler:{name}", text, supplied=_SUPPLIED) for name, (_, text) in _ROWS.items()},
)

# What only the run knows, filled in when the call leaves it out.
_LENGTH_ARGUMENTS = ("T_max", "total_steps", "total_iters")


class Schedule:
    """The rate of every parameter group, step by step.

    A "tick" is a step or an epoch, as `per` says. `set_rates` writes the current rates (and the momentum, where the
    schedule cycles it) into the optimizer's groups.
    """

    def __init__(
        self, scheduler: Any, shadow: torch.optim.Optimizer, *, per: str, metric: str, warmup_steps: int
    ) -> None:
        self._scheduler, self._shadow = scheduler, shadow
        self.per, self.metric, self.warmup_steps = per, metric, warmup_steps
        self.num_steps = 0
        cycles_momentum = getattr(scheduler, "cycle_momentum", False)
        self._cycled = [k for k in ("momentum", "betas") if cycles_momentum and k in shadow.param_groups[0]]

    def set_rates(self, optimizer: Any) -> None:
        """Give every group of `optimizer` its rate for the coming step."""
        factor = min(1.0, (self.num_steps + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        for group, shadow in zip(optimizer.param_groups, self._shadow.param_groups, strict=True):
            group["lr"] = shadow["lr"] * factor
            for key in self._cycled:
                group[key] = shadow[key]

    def after_step(self) -> None:
        """Tell the schedule that an optimizer step was made."""
        self.num_steps += 1
        if self.per == "step" and self._scheduler is not None:
            self._tick()

    def after_epoch(self, *, valid_loss: float, valid_accuracy: float) -> None:
        """Tell the schedule that an epoch ended, with what ReduceLROnPlateau may watch."""
        if self.per != "epoch" or self._scheduler is None:
            return
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(valid_accuracy if self.metric == "accuracy" else valid_loss)
        else:
            self._tick()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, enough to go on exactly."""
        inner = {} if self._scheduler is None else _plain(self._scheduler.state_dict())
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self._shadow.param_groups]
        return {"num_steps": self.num_steps, "scheduler": inner, "groups": _plain(groups)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        for group, saved in zip(self._shadow.param_groups, state["groups"], strict=True):
            group.update(saved)

    def go_on_from(self, state: dict[str, Any], *, epochs_done: int) -> None:
        """Stand where a schedule of another length would stand after as many steps and epochs."""
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.load_state_dict(state)
            return
        self.num_steps = state["num_steps"]
        for _ in range(self.num_steps if self.per == "step" else epochs_done):
            if self._scheduler is not None:
                self._tick()

    def _tick(self) -> None:
        try:
            self._scheduler.step()
        except ValueError as error:
            raise UsageError(f"the schedule ended before the run: {' '.join(str(error).split())}") from None


def build_schedule(
    text: str, optimizer: Any, *, per: str, warmup: float, metric: str, epochs: int, steps_per_epoch: int
) -> Schedule:
    """Return the schedule that a call names, over the groups of `optimizer`.

    per: "step", "epoch", or "auto" for what the schedule is usually stepped by. warmup: share of the run over which
    the rate rises linearly.

    Raises:
        UsageError: unknown name or argument, or ReduceLROnPlateau per step.
    """
    warmup_steps = round(warmup * epochs * steps_per_epoch)
    shadow = _shadow_of(optimizer)
    if text.strip() == "none":
        return Schedule(None, shadow, per="epoch", metric=metric, warmup_steps=warmup_steps)
    call = parse(text)
    SCHEDULERS.find(call)
    if per == "auto":
        per = _ROWS[call.name][0]
    if call.name == "ReduceLROnPlateau" and per == "step":
        raise call.error("ReduceLROnPlateau watches the validation metric, which is known once an epoch")
    if call.name == "OneCycleLR":
        warmup_steps = 0  # it warms up by itself
    supplied = _supplied(call, shadow, ticks=epochs * (steps_per_epoch if per == "step" else 1), metric=metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scheduler = SCHEDULERS.build(_with_function(call, supplied), supplied=supplied)
    # The shadow never steps; without this mark torch takes that for a mistake and warns.
    shadow._opt_called = True  # type: ignore[attr-defined]
    return Schedule(scheduler, shadow, per=per, metric=metric, warmup_steps=warmup_steps)


def _shadow_of(optimizer: Any) -> torch.optim.Optimizer:
    """Return an optimizer with a dummy parameter for each group, at that group's rate, momentum or betas."""
    groups = []
    for group in optimizer.param_groups:
        own = {key: group[key] for key in ("momentum", "betas") if key in group}
        dummy = torch.nn.Parameter(torch.zeros(()))
        groups.append({"params": [dummy], "lr": group["lr"], **own})
    kind = torch.optim.Adam if any("betas" in group for group in groups) else torch.optim.SGD
    return kind(groups, lr=groups[0]["lr"])


def _supplied(call: Call, shadow: torch.optim.Optimizer, *, ticks: int, metric: str) -> dict[str, Any]:
    """Return what the run fills in where the call leaves it out."""
    supplied: dict[str, Any] = {"optimizer": shadow}
    if not ("epochs" in call.kwargs or "steps_per_epoch" in call.kwargs):
        supplied |= dict.fromkeys(_LENGTH_ARGUMENTS, ticks)
    if call.name == "OneCycleLR":
        supplied["max_lr"] = [group["lr"] for group in shadow.param_groups]
        if not any(key in group for group in shadow.param_groups for key in ("momentum", "betas")):
            supplied["cycle_momentum"] = False
    if call.name == "ReduceLROnPlateau" and metric == "accuracy":
        supplied["mode"] = "max"
    return supplied


def _with_function(call: Call, supplied: dict[str, Any]) -> Call:
    """Turn LambdaLR's text into a function, which goes in with what the run supplies."""
    if call.name != "LambdaLR":
        return call
    given = call.args[0] if call.args else call.kwargs.get("lr_lambda")
    if given is None:
        raise call.error('LambdaLR needs a function: LambdaLR("0.95 ** epoch") or LambdaLR("module:function")')
    texts = given if isinstance(given, list | tuple) else [given]
    functions = [_function_of(call, item) for item in texts]
    num_groups = len(supplied["optimizer"].param_groups)
    if isinstance(given, list | tuple) and len(functions) != num_groups:
        raise call.error(f"LambdaLR has {len(functions)} functions, the optimizer {num_groups} parameter groups", 0)
    supplied["lr_lambda"] = functions if isinstance(given, list | tuple) else functions[0]
    return Call("LambdaLR", source=call.source, spots=call.spots)


def _function_of(call: Call, text: Any) -> Callable[[int], float]:
    if not isinstance(text, str):
        raise call.error(f"expected an expression in `epoch` or module:function, found {text!r}", 0)
    if ":" in text:
        return load_function(text, call=call)
    expression = Expression(call, text)
    # A plain function: LambdaLR writes the inside of callable objects into its state.
    return lambda epoch: expression(epoch)


_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "cos": math.cos,
    "sin": math.sin,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
    "min": min,
    "max": max,
}


class Expression:
    """An arithmetic expression in `epoch`, such as "0.95 ** epoch"; nothing else can be named in it."""

    def __init__(self, call: Call, text: str) -> None:
        self._call, self._text = call, text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            raise call.error(f"{text!r} is not an expression: {error.msg}", 0) from None
        self(0)

    def __call__(self, epoch: int) -> float:
        try:
            return float(self._value(self._tree, epoch))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise self._call.error(f"{self._text!r} at epoch {epoch}: {error}", 0) from None

    def _value(self, node: ast.expr, epoch: int) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id="epoch"):
                return epoch
            case ast.Name(id="pi"):
                return math.pi
            case ast.BinOp() if type(node.op) in _OPERATORS:
                left, right = self._value(node.left, epoch), self._value(node.right, epoch)
                # Whole numbers would grow without limit: 9 ** 9 ** 9 never ends.
                return _OPERATORS[type(node.op)](float(left), float(right))
            case ast.UnaryOp(op=ast.USub()):
                return -self._value(node.operand, epoch)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(self._value(argument, epoch) for argument in node.args))
        raise self._call.error(f"only numbers, epoch, pi, + - * / ** and {', '.join(_FUNCTIONS)} can stand in it", 0)


def _plain(value: Any) -> Any:
    """Return containers of plain values: schedulers keep bound methods and functions in their state."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
