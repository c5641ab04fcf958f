"""Tables of parts: from the name a user writes to the object PyTorch builds, with every argument
checked first.
"""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.parts import checks
from ptkit.core.parts.calls import Call, Symbol, names_code
from ptkit.core.parts.part import Part
from ptkit.core.wording import nearest, reason_of

# What a class raises that checks its arguments, and one that stumbles over wrong ones instead.
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError)
STUMBLES = (ArithmeticError, AttributeError, LookupError)


@dataclass(frozen=True)
class Argument:
    """One argument of a part in words: its default ("" if it must be given), what it may be."""

    name: str
    default_text: str
    allowed_text: str


@dataclass(frozen=True)
class Catalogue:
    """All parts of one kind.

    kind: the word used in messages, such as "optimizer".
    functions: calls that may be an argument, such as `calculate_gain`; name to target.
    symbols: enumerations that may be an argument; name to target.
    """

    kind: str
    parts: Mapping[str, Part]
    functions: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)

    def find(self, call: Call) -> Part:
        """Return the row that a call names; a user's own object, imported, gets an empty one.

        Raises:
            UsageError: no such name; the message has the nearest one.
        """
        if call.prefix:
            target = load_user_object(call)
            if not callable(target):
                raise _has_no_arguments(call, target)
            return Part(target, "")
        part = self.parts.get(call.name)
        if part is None:
            raise call.error(
                f"no {self.kind} is called {call.name}{checks.name_hint(call.name, self.parts)}"
            )
        return part

    def build(self, call: Call, *, supplied: Mapping[str, Any] | None = None) -> Any:
        """Return the object that `call` names, made with its arguments and those that the run
        supplies.

        supplied: arguments given by the run; those the part does not take are left out, those in
        the call win.

        Raises:
            UsageError: unknown name or argument, or a value that the part refuses.
        """
        part = self.find(call)
        bound = self.bind(call, part)
        takes = _parameters(call, part)
        of_the_run = {key: value for key, value in (supplied or {}).items() if key in takes}
        return _constructed(call, part, of_the_run | bound)

    def bind(self, call: Call, part: Part) -> dict[str, Any]:
        """Return the call's arguments by name, checked against the part's signature, nested calls
        built.
        """
        takes = _parameters(call, part)
        takes_any = bool(call.prefix) and any(p.kind is p.VAR_KEYWORD for p in takes.values())
        own = _own_parameters(call, takes)
        parameters = {k: p for k, p in own.items() if k not in part.supplied}
        call = _with_names(call, _positions(own, part), parameters)
        bound: dict[str, Any] = {}
        for key, given in call.kwargs.items():
            if not takes_any:
                checks.check_name(call, key, parameters, of_the_run=own.keys() - parameters.keys())
            bound[key] = self.resolve(call, given, spot=key)
            # Of a user's own function nothing is known but the names of its arguments.
            if not call.prefix:
                bound[key] = checks.checked_value(
                    call, part, parameters[key], bound[key], given=given
                )
            if key in part.tensors and isinstance(bound[key], list | tuple):
                # Imported only here: names and arguments are checked without waiting for torch.
                import torch

                bound[key] = torch.tensor(bound[key], dtype=torch.float32)
        return bound

    def named(self, call: Call) -> Call:
        """Return a call of the table with all its arguments by name; neither names nor values are
        checked.

        Raises:
            UsageError: no such part, or more arguments than it takes without their names.
        """
        part = self.find(call)
        own = _own_parameters(call, _parameters(call, part))
        return _with_names(call, _positions(own, part), own)

    def describe(self, name: str) -> tuple[str, str]:
        """Return `name(arguments with defaults)` and the summary of one part."""
        shown = [
            f"{a.name}={a.default_text}" if a.default_text else a.name for a in self.arguments(name)
        ]
        return f"{name}({', '.join(shown)})", self.parts[name].summary

    def arguments(self, name: str) -> list[Argument]:
        """Return the arguments of one part that a user may give."""
        part = self.parts[name]
        hidden = part.supplied | checks.OLD_ARGUMENTS.keys() | checks.OLD_REDUCTIONS
        return [
            Argument(key, self._default_text(p), rule.text if (rule := part.rule(name, p)) else "")
            for key, p in part.parameters.items()
            if key not in hidden and p.kind not in checks.VARIADIC
        ]

    def resolve(self, call: Call, value: Any, *, spot: str | int) -> Any:
        """Replace nested calls, symbols and lists of them by what they mean."""
        if isinstance(value, Symbol):
            return self._symbol(call, value, spot)
        if isinstance(value, list | tuple):
            return type(value)(self.resolve(call, item, spot=spot) for item in value)
        if not isinstance(value, Call):
            return value
        if value.name in self.functions and not value.prefix:
            part = Part(self.functions[value.name], "")
            return _constructed(value, part, self.bind(value, part))
        return self.build(value)

    def _default_text(self, parameter: inspect.Parameter) -> str:
        default = parameter.default
        if default is parameter.empty:
            return ""
        # An enumeration's member by its name; newer versions of torchvision have its value there.
        for name, target in self.symbols.items():
            for member in pkgutil.resolve_name(target):
                if default in (member, member.value):
                    return f"{name}.{member.name}"
        return repr(default)

    def _symbol(self, call: Call, symbol: Symbol, spot: str | int) -> Any:
        if symbol.owner not in self.symbols:
            hint = f"; enumerations: {', '.join(self.symbols) or 'none'}"
            # Pillow's names, Image.BILINEAR and Image.Resampling.BILINEAR, as older code has them.
            for owner, target in self.symbols.items():
                if symbol.member in pkgutil.resolve_name(target).__members__:
                    hint = f"; did you mean {owner}.{symbol.member}?"
            raise call.error(f"{symbol} is not known here{hint}", spot)
        owner = pkgutil.resolve_name(self.symbols[symbol.owner])
        if symbol.member not in owner.__members__:
            hint = nearest(symbol.member, owner.__members__)
            raise call.error(f"{symbol.owner} has no {symbol.member}{hint}", spot)
        return owner[symbol.member]


def refuse_user_code(call: Call, *, where: str, remedy: str) -> None:
    """Refuse a call out of a file that would import code; `remedy` says what to do instead.

    Raises:
        CheckpointError: the call has a prefix, or names a function as `module:function` anywhere
            inside.
    """
    if names_code(call):
        # timm's own: their arguments can name files to load.
        what = "a model of timm" if call.prefix == "timm" else "user code"
        raise CheckpointError(f"{where} names {what} ({call}); nothing was run: {remedy}")


def load_user_object(call: Call) -> Any:
    """Import the object that `module:name` or `path/to/file.py:name` names.

    Raises:
        UsageError: no such file, module or name, or the import itself fails.
    """
    return load_function(f"{call.prefix}:{call.name}", call=call)


def load_function(text: str, *, call: Call | None = None) -> Any:
    """Import `module:name` or `path/to/file.py:name`; `call` is where the text is, for the
    error message.
    """
    prefix, _, name = text.rpartition(":")
    shown = call or Call(name, prefix=prefix, source=text)
    if not prefix or not name.isidentifier():
        raise shown.error(f'expected "module:function" or "file.py:function", found "{text}"')
    is_file = prefix.endswith(".py")
    if is_file and not Path(prefix).is_file():
        raise shown.error(f"no file {prefix}")
    try:
        module = _file_module(os.path.realpath(prefix)) if is_file else _named_module(prefix)
    # The user's module may raise anything.
    except Exception as error:
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
    # Modules in the current folder, as `python -m` finds them; the ptkit script would not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(name)


def _parameters(call: Call, part: Part) -> checks.Parameters:
    try:
        return part.parameters
    except (TypeError, ValueError):
        raise _has_no_arguments(call, part.load()) from None


def _has_no_arguments(call: Call, target: Any) -> UsageError:
    found = type(target).__name__
    return call.error(f"{call.name} is a {found}, not a function or class with arguments")


def _own_parameters(call: Call, takes: checks.Parameters) -> checks.Parameters:
    """Return what a part takes today; a user's own function may have arguments of old names."""
    old = () if call.prefix else checks.OLD_ARGUMENTS
    return {k: p for k, p in takes.items() if k not in old and p.kind not in checks.VARIADIC}


def _positions(parameters: checks.Parameters, part: Part) -> list[str]:
    """Return the arguments that may go without a name, in PyTorch's order.

    The first one is left out where the run supplies it: the tensor to fill, the optimizer to
    schedule.
    """
    names = [key for key, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return names[1:] if names and names[0] in part.supplied else names


def _with_names(call: Call, names: list[str], parameters: checks.Parameters) -> Call:
    checks.check_count(call, names, parameters)
    first = dict(zip(names, call.args, strict=False))
    for key in first.keys() & call.kwargs.keys():
        raise call.error(f"{call.name} got {key} twice", key)
    spots: dict[str | int, int] = {
        names[k] if isinstance(k, int) else k: spot for k, spot in call.spots.items()
    }
    return replace(call, args=(), kwargs={**first, **call.kwargs}, spots=spots)


def _constructed(call: Call, part: Part, arguments: Mapping[str, Any]) -> Any:
    checks.check_complete(call, part, _parameters(call, part), arguments)
    try:
        return part.load()(**arguments)
    except REFUSALS as error:
        raise call.error(f"{call.name}: {reason_of(error)}") from error
    except STUMBLES as error:
        raise call.error(
            f"{call.name} cannot take these arguments ({type(error).__name__}: {error})"
        ) from error
