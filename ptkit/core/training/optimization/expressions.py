"""Arithmetic expressions in `epoch`, such as "0.95 ** epoch": read, never run as code."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from ptkit.core.parts.calls import Call

_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
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
                return self._value(
                    node.body if self._value(node.test, epoch) else node.orelse, epoch
                )
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
