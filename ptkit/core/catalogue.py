"""Tables of parts: from the name a user writes to the object PyTorch builds, with every argument checked first."""

import enum
import importlib
import importlib.util
import inspect
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ptkit.core.calls import Call, Symbol, nearest
from ptkit.core.errors import CheckpointError

# What an argument or a value was called in older PyTorch, and what it is called now.
_OLD_ARGUMENTS = {
    "size_average": 'reduction="mean" or "sum"',
    "reduce": 'reduction="mean" or "sum"',
    "resample": "interpolation",
    "fillcolor": "fill",
    "last_epoch": "--resume, which restores the schedule",
    "verbose": "nothing: the rate of every group is always recorded",
}
_OLD_VALUES = {"elementwise_mean": "mean"}
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Part:
    """One row of a table.

    target: `module:attribute`, imported when the part is built.
    supplied: arguments that the run gives and the user may not.
    tensors: arguments for which lists of numbers become float tensors.
    mixed: arguments that take other types than their default's.
    """

    target: str
    summary: str
    supplied: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Catalogue:
    """All parts of one kind.

    kind: the word used in messages, such as "optimizer".
    functions: calls that may stand as an argument, such as `calculate_gain`; name to target.
    symbols: enumerations that may stand as an argument; name to target.
    """

    kind: str
    parts: Mapping[str, Part]
    functions: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)

    def find(self, call: Call) -> Part:
        """Return the row that a built-in call names.

        Raises:
            UsageError: no such name; the message has the nearest one.
        """
        part = self.parts.get(call.name)
        if part is None:
            raise call.error(f"no {self.kind} is called {call.name}{nearest(call.name, self.parts)}")
        return part

    def build(self, call: Call, *, supplied: Mapping[str, Any] | None = None) -> Any:
        """Return the object that `call` names, made with its arguments and those that the run supplies.

        supplied: arguments given by the run; those the part does not take are left out, those in the call win.

        Raises:
            UsageError: unknown name or argument, or a value that the part refuses.
        """
        if call.prefix:
            target, part = load_user_object(call), Part(call.prefix, "")
        else:
            part = self.find(call)
            target = _imported(part.target)
        arguments = self.bind(call, target, part)
        takes = _parameters(call, target)
        for key, value in (supplied or {}).items():
            if key in takes:
                arguments.setdefault(key, value)
        return _constructed(call, target, arguments)

    def bind(self, call: Call, target: Callable[..., Any], part: Part) -> dict[str, Any]:
        """Return the call's arguments by name, checked against the signature of `target`, nested calls built."""
        takes = _parameters(call, target)
        # A user's own function may have arguments of old names, and may take any name.
        old = () if call.prefix else _OLD_ARGUMENTS
        takes_any = bool(call.prefix) and any(p.kind is p.VAR_KEYWORD for p in takes.values())
        own = {k: p for k, p in takes.items() if k not in old and p.kind not in _VARIADIC}
        parameters = {k: p for k, p in own.items() if k not in part.supplied}
        bound: dict[str, Any] = {}
        names = _positions(own, part)
        for position, value in enumerate(call.args):
            if position >= len(names):
                raise call.error(f"{call.name} takes at most {len(names)} arguments without their names", position)
            if names[position] in part.supplied:
                message = f"{call.name}: {names[position]} comes from the run and not from the call; name the argument"
                raise call.error(message, position)
            bound[names[position]] = self._checked(call, names[position], value, part, parameters, spot=position)
        for key, value in call.kwargs.items():
            self._check_name(call, key, parameters, bound, takes_any=takes_any)
            bound[key] = self._checked(call, key, value, part, parameters, spot=key)
        return bound

    def describe(self, name: str) -> tuple[str, str]:
        """Return `name(arguments with defaults)` and the summary of one part."""
        part = self.parts[name]
        hidden = part.supplied | _OLD_ARGUMENTS.keys()
        shown = []
        for key, parameter in inspect.signature(_imported(part.target)).parameters.items():
            if key in hidden or parameter.kind in _VARIADIC:
                continue
            has_default = parameter.default is not parameter.empty
            shown.append(f"{key}={_default_text(parameter.default)}" if has_default else key)
        return f"{name}({', '.join(shown)})", part.summary

    def _check_name(
        self, call: Call, key: str, parameters: Mapping[str, Any], bound: Mapping[str, Any], *, takes_any: bool
    ) -> None:
        if key in bound:
            raise call.error(f"{call.name} got {key} twice", key)
        if key in parameters or takes_any:
            return
        if key in _OLD_ARGUMENTS:
            raise call.error(f"{key} is called differently now: use {_OLD_ARGUMENTS[key]}", key)
        allowed = ", ".join(parameters) or "none"
        hint = nearest(key, parameters)
        raise call.error(f"{call.name} has no argument {key}{hint or f'; it takes: {allowed}'}", key)

    def _checked(
        self, call: Call, key: str, value: Any, part: Part, parameters: Mapping[str, Any], *, spot: str | int
    ) -> Any:
        # Of a user's own function nothing is known but the names of its arguments.
        if not call.prefix:
            if isinstance(value, str) and value in _OLD_VALUES:
                raise call.error(f'"{value}" is called "{_OLD_VALUES[value]}" now', spot)
            if key not in part.mixed:
                _check_type(call, key, value, parameters.get(key), spot=spot)
        value = self.resolve(call, value, spot=spot)
        if key in part.tensors and _is_numbers(value):
            import torch

            return torch.tensor(value, dtype=torch.float32)
        return value

    def resolve(self, call: Call, value: Any, *, spot: str | int) -> Any:
        """Replace nested calls, symbols and lists of them by what they stand for."""
        if isinstance(value, Symbol):
            return self._symbol(call, value, spot)
        if isinstance(value, Call):
            return self._nested(value)
        if isinstance(value, list | tuple):
            return type(value)(self.resolve(call, item, spot=spot) for item in value)
        return value

    def _nested(self, call: Call) -> Any:
        if call.name in self.functions and not call.prefix:
            target = _imported(self.functions[call.name])
            return _constructed(call, target, self.bind(call, target, Part("", "")))
        return self.build(call)

    def _symbol(self, call: Call, symbol: Symbol, spot: str | int) -> Any:
        if symbol.owner not in self.symbols:
            known = ", ".join(self.symbols) or "none"
            raise call.error(f"{symbol} is not known here; enumerations: {known}", spot)
        owner = _imported(self.symbols[symbol.owner])
        if symbol.member not in owner.__members__:
            hint = nearest(symbol.member, owner.__members__)
            raise call.error(f"{symbol.owner} has no {symbol.member}{hint}", spot)
        return owner[symbol.member]


def refuse_user_code(call: Call, *, where: str, remedy: str) -> None:
    """Refuse a call out of a file that would import code; `remedy` says what to do instead.

    Raises:
        CheckpointError: the call has a prefix, or names a function as `module:function` anywhere inside.
    """
    if call.prefix or any(_names_code(value) for value in (*call.args, *call.kwargs.values())):
        raise CheckpointError(f"{where} names user code ({call}); nothing was run: {remedy}")


def load_user_object(call: Call) -> Any:
    """Import the object that `module:name` or `path/to/file.py:name` stands for.

    Raises:
        UsageError: no such file, module or name, or the import itself fails.
    """
    return load_function(f"{call.prefix}:{call.name}", call=call)


def load_function(text: str, *, call: Call | None = None) -> Any:
    """Import `module:name` or `path/to/file.py:name`; `call` is where the text stands, for the error message."""
    prefix, _, name = text.rpartition(":")
    shown = call or Call(name, prefix=prefix, source=text)
    if not prefix or not name.isidentifier():
        raise shown.error(f'expected "module:function" or "file.py:function", found "{text}"')
    if prefix.endswith(".py") and not Path(prefix).is_file():
        raise shown.error(f"no file {prefix}")
    try:
        module = _file_module(os.path.realpath(prefix)) if prefix.endswith(".py") else _named_module(prefix)
    except Exception as error:  # the user's module may raise anything
        raise shown.error(f"cannot import {prefix}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise shown.error(f"{prefix} has no {name}{nearest(name, vars(module))}")
    return getattr(module, name)


@cache
def _file_module(path: str) -> Any:
    # Two files in different folders may have one name.
    name = f"ptkit_user_{Path(path).stem}_{zlib.crc32(os.fsencode(path)):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickling (worker processes) looks classes up by module name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _named_module(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(name)


def _parameters(call: Call, target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        raise call.error(f"{call.name} is a {type(target).__name__}, not a function or class with arguments") from None


def _positions(parameters: Mapping[str, inspect.Parameter], part: Part) -> list[str]:
    """Return the arguments that may go without a name, in PyTorch's order.

    The first one is left out where the run supplies it: the tensor to fill, the optimizer to schedule.
    """
    names = [name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return names[1:] if names and names[0] in part.supplied else names


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _constructed(call: Call, target: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise call.error(f"{call.name}: {error}") from None
    try:
        return target(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise call.error(f"{call.name}: {message}") from error
    # PyTorch stumbles over some wrong arguments instead of checking them.
    except (ArithmeticError, AttributeError, LookupError) as error:
        raise call.error(f"{call.name} cannot take these arguments ({type(error).__name__}: {error})") from error


def _check_type(call: Call, key: str, value: Any, parameter: inspect.Parameter | None, *, spot: str | int) -> None:
    """Refuse text or yes/no where the default is a number, and the like; PyTorch often notices only steps later."""
    default = None if parameter is None else parameter.default
    if isinstance(default, bool) and not isinstance(value, bool):
        raise call.error(f"{call.name}: {key} must be True or False, found {value!r}", spot)
    is_plain_number = isinstance(default, int | float) and not isinstance(default, bool)
    if is_plain_number and isinstance(value, str | bool | None):
        raise call.error(f"{call.name}: {key} must be a number, found {value!r}", spot)
    if isinstance(default, str) and isinstance(value, bool | float | list | tuple | None):
        raise call.error(f"{call.name}: {key} must be text such as {default!r}, found {value!r}", spot)
    if isinstance(default, enum.Enum) and isinstance(value, str):
        raise call.error(f"{call.name}: {key} is written without quotes, such as {_default_text(default)}", spot)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value)


def _names_code(value: Any) -> bool:
    if isinstance(value, Call):
        return bool(value.prefix) or any(_names_code(item) for item in (*value.args, *value.kwargs.values()))
    if isinstance(value, list | tuple):
        return any(_names_code(item) for item in value)
    return isinstance(value, str) and ":" in value


def _default_text(default: Any) -> str:
    # AutoAugmentPolicy prints as <AutoAugmentPolicy.IMAGENET: 'imagenet'>.
    if isinstance(default, enum.Enum):
        return f"{type(default).__name__}.{default.name}"
    return repr(default)
