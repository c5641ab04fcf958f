"""Arguments of a schedule that only the run knows, or that have one value for each group."""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call
from ptkit.core.parts.catalogue import load_function
from ptkit.core.training.optimization.parameter_groups import Group

# Arguments that may be lists with one item a parameter group.
PER_GROUP = {
    "LambdaLR": ("lr_lambda",),
    "ReduceLROnPlateau": ("min_lr",),
    "OneCycleLR": ("max_lr", "base_momentum", "max_momentum"),
    "WarmupCosineLR": ("delay_epochs",),
}
# What an expression may hold.
_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    **{name: getattr(math, name) for name in ("cos", "sin", "exp", "sqrt", "log")},
    "min": min,
    "max": max,
}


def arguments_of_run(
    call: Call, given: Mapping[str, Any], groups: list[Group], *, epochs: int, ticks_per_epoch: int
) -> dict[str, Any]:
    """Return what the run fills in where the call leaves it out.

    given: the arguments of the call by name.
    """
    ticks = epochs * ticks_per_epoch
    rates = [group["lr"] for group in groups]
    found: dict[str, Any] = {"T_max": ticks, "total_iters": ticks, "max_lr": rates}
    # OneCycleLR takes its length in either form.
    if "epochs" in given:
        found["steps_per_epoch"] = ticks_per_epoch
    elif "steps_per_epoch" in given or call.name == "WarmupCosineLR":
        found |= {"epochs": epochs, "ticks_per_epoch": ticks_per_epoch}
    else:
        found["total_steps"] = ticks
    if not any(key in group for group in groups for key in ("momentum", "betas")):
        found["cycle_momentum"] = False
    return found


def arguments_by_group(
    call: Call, given: Mapping[str, Any], groups: list[Group], *, epochs: int, ticks_per_epoch: int
) -> dict[str, Any]:
    """Return the arguments that are lists, with one value a group, and LambdaLR's functions.

    A list may also have one value for each group that the user made: parameters split off from it
    (norms and biases without weight decay, those of a companion optimizer) get the same value.

    Raises:
        UsageError: a list of another length, or a text that is not a function.
    """
    if call.name == "LambdaLR" and "lr_lambda" not in given:
        raise call.error(
            'LambdaLR needs a function: LambdaLR("0.95 ** epoch") or LambdaLR("module:function")'
        )
    if call.name == "OneCycleLR":
        _check_one_rate(call, given, groups)
    found: dict[str, Any] = {
        key: _for_each(call, key, values=given[key], groups=groups)
        for key in PER_GROUP.get(call.name, ())
        if isinstance(given.get(key), list | tuple)
    }
    if call.name == "LambdaLR":
        texts = found.get("lr_lambda", given["lr_lambda"])
        spot = "lr_lambda" if "lr_lambda" in call.spots else 0
        build = partial(_function, call, spot, epochs=epochs, ticks_per_epoch=ticks_per_epoch)
        found["lr_lambda"] = list(map(build, texts)) if isinstance(texts, list) else build(texts)
    return found


def _for_each(call: Call, key: str, *, values: Sequence[Any], groups: Sequence[Group]) -> list[Any]:
    families = list(dict.fromkeys(_family(group) for group in groups))
    if len(values) == len(groups):
        return list(values)
    if len(values) == len(families):
        return [values[families.index(_family(group))] for group in groups]
    raise call.error(
        f"{key} has {len(values)} values for {len(families)} parameter groups:"
        f" {'; '.join(families)}",
        key if key in call.spots else 0,
    )


def _family(group: Group) -> str:
    return str(group.get("family", group.get("name")))


def _check_one_rate(call: Call, given: Mapping[str, Any], groups: Sequence[Group]) -> None:
    if isinstance(given.get("max_lr"), int | float) and len({group["lr"] for group in groups}) > 1:
        raise call.error(
            "max_lr would give all groups one rate, though they have different ones: leave it out,"
            " or give a list",
            "max_lr" if "max_lr" in call.spots else 0,
        )


def _function(
    call: Call, spot: str | int, text: Any, *, epochs: int, ticks_per_epoch: int
) -> Callable[[int], float]:
    if not isinstance(text, str):
        raise call.error(
            f"expected an expression in `epoch` or module:function, found {text!r}", spot
        )
    if ":" in text:
        function = load_function(text, call=call)
        if not callable(function):
            raise call.error(f"{text} is a {type(function).__name__}, not a function", spot)
        # A plain function: LambdaLR saves the attributes of callable objects in its state.
        return lambda tick: _checked_factor(function, tick, call=call, spot=spot)
    expression = Expression(text, call=call, spot=spot)
    for epoch in range(epochs):
        expression(epoch)
    return lambda tick: expression(tick / ticks_per_epoch)


def _checked_factor(function: Any, tick: int, *, call: Call, spot: str | int) -> float:
    try:
        return float(function(tick))
    except Exception as error:  # the user's function may raise anything
        raise call.error(
            f"the function failed at {tick}: {type(error).__name__}: {error}", spot
        ) from error


def check_length(call: Call, scheduler: Any, *, ticks: int) -> None:
    """Refuse a schedule that ends before the run, which PyTorch notices only at its end.

    Raises:
        UsageError: it has fewer steps than the run.
    """
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < ticks:
        raise UsageError(
            f"{call.name} is {total} steps long, but the run has {ticks}: leave its length out"
        )


class Expression:
    """An arithmetic expression in `epoch`; nothing else can be named in it.

    call, spot: where the text is, for error messages.

    Raises:
        UsageError: the text is something else; also when a value cannot be computed.
    """

    def __init__(self, text: str, *, call: Call, spot: str | int = 0) -> None:
        self._call, self._text, self._spot = call, text, spot
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise call.error(f"{text!r} is not an expression: {error.msg}", spot) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise call.error(f"cannot read this expression: {error}", spot) from None
        self(0)

    def __call__(self, epoch: float) -> float:
        """Return the value at `epoch`, a finite number of at least 0."""
        try:
            value = float(self._value(self._tree, epoch))
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise self._call.error(
                f"{self._text!r} at epoch {epoch:g}: {error}", self._spot
            ) from None
        if not 0 <= value < math.inf:
            raise self._call.error(
                f"{self._text!r} at epoch {epoch:g} is {value:g}; a rate cannot be below 0 or"
                " infinite",
                self._spot,
            )
        return value

    def _value(self, node: ast.expr, epoch: float) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id="epoch"):
                return epoch
            case ast.Name(id="pi"):
                return math.pi
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return self._applied(node.op, (node.left, node.right), epoch)
            case ast.Compare(ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return self._applied(op, (node.left, right), epoch)
            case ast.IfExp():
                chosen = node.body if self._value(node.test, epoch) else node.orelse
                return self._value(chosen, epoch)
            case ast.UnaryOp(op=ast.USub()):
                return -self._value(node.operand, epoch)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(self._value(argument, epoch) for argument in node.args))
        known = ", ".join(_FUNCTIONS)
        raise self._call.error(
            f"it can have only numbers, epoch, pi, + - * / // % **, < >, `A if B else C`, {known}",
            self._spot,
        )

    def _applied(self, op: Any, operands: tuple[ast.expr, ast.expr], epoch: float) -> float:
        # Whole numbers would grow without limit: 9 ** 9 ** 9 never ends.
        return _OPERATORS[type(op)](*(float(self._value(node, epoch)) for node in operands))
