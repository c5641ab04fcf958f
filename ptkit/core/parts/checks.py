"""What can be wrong with a call's names and values, and the message for each: what was found, what
is allowed.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

from ptkit.core.parts.argument_rules import listing
from ptkit.core.parts.calls import Call
from ptkit.core.parts.part import Part
from ptkit.core.wording import nearest

# What an argument, a value or a part was called in older PyTorch, and what it is called now.
OLD_ARGUMENTS = {
    "resample": "interpolation",
    "fillcolor": "fill",
    "last_epoch": "--resume, which restores the schedule",
    "verbose": "nothing: the rate of every group is always recorded",
}
# Old names that PyTorch still takes: they work, and are not listed.
OLD_REDUCTIONS = frozenset({"size_average", "reduce"})
_OLD_VALUES = {"elementwise_mean": "mean"}
_OLD_PARTS = {"Scale": "Resize", "RandomSizedCrop": "RandomResizedCrop", "NLLLoss2d": "NLLLoss"}
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")
_FEW_NAMES = 5
# Of more names than these a message sends to `ptkit list`.
_MANY_NAMES = 40

Parameters = Mapping[str, inspect.Parameter]
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def name_hint(name: str, names: Collection[str]) -> str:
    """Return what an unknown name may mean: a new name, those it is a piece of, one nearly the
    same; else all names.
    """
    if _OLD_PARTS.get(name) in names:
        return f"; it is called {_OLD_PARTS[name]} now"
    # Pieces of a name, such as "cosine" or "RandomFlip", are not near to any whole one.
    pieces = [piece.lower() for piece in _PIECE.findall(name)] if len(name) > 1 else []
    longer = [
        known for known in names if pieces and all(piece in known.lower() for piece in pieces)
    ]
    if 0 < len(longer) <= _FEW_NAMES:
        return f"; did you mean {listing(longer)}?"
    if hint := nearest(name, names):
        return hint
    if len(names) > _MANY_NAMES:
        return f"; `ptkit list` has all {len(names)}"
    return f"; there are: {', '.join(names)}"


def check_count(call: Call, names: Sequence[str], parameters: Parameters) -> None:
    """Refuse more arguments without their names than `names` has.

    Raises:
        UsageError: there are more.
    """
    if len(call.args) <= len(names):
        return
    message = f"{call.name} takes at most {len(names)} arguments without their names"
    if names:
        message += f": {', '.join(names)}"
    elif parameters:
        message += f"; with their names: {', '.join(parameters)}"
    else:
        message = f"{call.name} takes no arguments"
    raise call.error(message, len(names))


def check_name(call: Call, key: str, parameters: Parameters, *, of_the_run: Set[str]) -> None:
    """Refuse the name of an argument that a part does not have, or that the run gives.

    Raises:
        UsageError: the nearest name, the name it has now, or all names.
    """
    if key in parameters:
        return
    # Of the new names some are arguments, which the part has or not; the others are advice.
    new = OLD_ARGUMENTS.get(key)
    if new is not None and (not new.isidentifier() or new in parameters):
        raise call.error(f"{key} is called differently now: use {new}", key)
    if key in of_the_run:
        raise call.error(f"{call.name} has no argument {key} here: it comes from the run", key)
    hint = nearest(key, parameters) or f"; it takes: {', '.join(parameters) or 'none'}"
    raise call.error(f"{call.name} has no argument {key}{hint}", key)


def checked_value(
    call: Call, part: Part, parameter: inspect.Parameter, value: Any, *, given: Any
) -> Any:
    """Return what the part gets for a value; refuse one that the argument may not have.

    value: with nested calls and enumerations built. given: as written in the call.

    Raises:
        UsageError: what is allowed, and what was found.
    """
    if isinstance(value, str) and value in _OLD_VALUES:
        raise call.error(f'"{value}" is called "{_OLD_VALUES[value]}" now', parameter.name)
    rule = part.rule(call.name, parameter)
    if rule is None:
        return value
    if not rule.check(value):
        # A call of one argument is written as the notation writes that argument.
        found = str(Call("", (given,)))[1:-1]
        raise call.error(
            f"{call.name}: {parameter.name} must be {rule.text}, found {found}", parameter.name
        )
    return rule.meaning(value)


def check_complete(call: Call, part: Part, takes: Parameters, given: Mapping[str, Any]) -> None:
    """Refuse a call that lacks an argument, or whose arguments do not fit each other.

    Raises:
        UsageError: the first that is missing, or what does not fit.
    """
    for key, parameter in takes.items():
        is_needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if is_needed and key not in given:
            rule = None if call.prefix else part.rule(call.name, parameter)
            wanted = f"; it must be {rule.text}" if rule else ""
            raise call.error(f"{call.name}: missing a required argument: {key!r}{wanted}")
    together = None if call.prefix else part.rule_together(call.name)
    if together and not together.check({key: p.default for key, p in takes.items()} | dict(given)):
        raise call.error(f"{call.name}: {together.text}")
