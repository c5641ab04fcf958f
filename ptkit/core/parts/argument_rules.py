"""What an argument may be: words for people, and a check."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Weights and losses are float32: a larger number is infinite there.
_LARGEST = 3.4028234e38
_LARGEST_WHOLE = 2**63 - 1
# The longest side that a JPEG can have.
PIXELS = 65_535


@dataclass(frozen=True)
class Allowed:
    """A rule for one argument.

    text: what a message says after "must be".
    check: says of a value, nested calls and enumerations built, whether it is allowed.
    plural: the text for several of them, in a list.
    parts: the rules of which one must hold, where the text is made of theirs.
    meaning: what the part gets for an allowed value, where people may write it in several ways.
    """

    text: str
    check: Callable[[Any], bool]
    plural: str = ""
    parts: tuple["Allowed", ...] = ()
    meaning: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Together:
    """What the arguments of one part must be to each other.

    check: takes all arguments by name, defaults included, each of them allowed by itself.
    text: the whole message after the part's name.
    """

    check: Callable[[Mapping[str, Any]], bool]
    text: str


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Allowed:
    """Allow finite numbers; low and high are inclusive, above and below exclusive."""
    limits = _limits(low, high, above, below)
    return Allowed(
        text=f"a {'' if limits else 'finite '}number{limits}",
        plural=f"numbers{limits}",
        check=lambda value: (
            isinstance(value, int | float)
            # True is a whole number to Python.
            and not isinstance(value, bool)
            and abs(value) <= _LARGEST
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
        ),
    )


def whole(low: int | None = None, high: int | None = None, *, words: str = "") -> Allowed:
    """Allow whole numbers from low to high, both inclusive; `words` replaces the text."""
    limits, inside = _limits(low, high), number(low, high)
    return Allowed(
        text=words or f"a whole number{limits}",
        plural=f"whole numbers{limits}",
        check=lambda value: (
            isinstance(value, int) and abs(value) <= _LARGEST_WHOLE and inside.check(value)
        ),
    )


def flag() -> Allowed:
    """Allow True and False."""
    return Allowed("True or False", lambda value: isinstance(value, bool), "of True or False")


def one_of(*choices: str | int, words: str = "") -> Allowed:
    """Allow the given texts or whole numbers; `words` replaces the text."""
    return either(*map(_exactly, choices), words=words)


def text(words: str) -> Allowed:
    """Allow any text; `words` says which, and what reads it checks it."""
    return Allowed(words, lambda value: isinstance(value, str), "such texts")


def member_of(owner: str, *names: str) -> Allowed:
    """Allow members of the enumeration `owner`, which the caller has looked up."""
    return Allowed(
        text=listing([f"{owner}.{names[0]}", *names[1:]]),
        check=lambda value: isinstance(value, enum.Enum) and type(value).__name__ == owner,
    )


def list_of(
    item: Allowed, *lengths: int, is_rising: bool = False, has_sum: bool = False
) -> Allowed:
    """Allow lists and tuples of such items, of one of the lengths if any is given, and never empty.

    is_rising: of two numbers the first may not be the larger one. has_sum: numbers may not all be
    0.
    """
    counts = f"{listing([str(length) for length in lengths])} " if lengths else ""
    more = f"{', the smaller first' if is_rising else ''}{', not all 0' if has_sum else ''}"
    return Allowed(
        text=f"a list of {counts}{item.plural}{more}",
        check=lambda value: (
            isinstance(value, list | tuple)
            and len(value) > 0
            and (not lengths or len(value) in lengths)
            and all(map(item.check, value))
            and (not is_rising or value[0] <= value[1])
            and (not has_sum or any(value))
        ),
    )


def either(*rules: Allowed, words: str = "") -> Allowed:
    """Allow what any of the rules allows; `words` replaces the text."""
    # Rules of rules are taken apart: the text then has one "or".
    parts = tuple(part for rule in rules for part in rule.parts or (rule,))
    return Allowed(
        text=words or listing([part.text for part in parts]),
        check=lambda value: any(part.check(value) for part in parts),
        parts=() if words else parts,
        meaning=lambda value: next(part for part in parts if part.check(value)).meaning(value),
    )


def or_none(rule: Allowed) -> Allowed:
    """Allow None too."""
    return either(rule, Allowed("None", lambda value: value is None))


def listing(words: Sequence[str]) -> str:
    """Return `a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _limits(
    low: float | None, high: float | None, above: float | None = None, below: float | None = None
) -> str:
    if low is not None and high is not None:
        return f" of {low}..{high}"
    words = {"of at least": low, "above": above, "of at most": high, "below": below}
    return " and".join(f" {word} {limit}" for word, limit in words.items() if limit is not None)


def _exactly(choice: str | int) -> Allowed:
    # 1 == 1.0 == True to Python.
    return Allowed(repr(choice), lambda value: type(value) is type(choice) and value == choice)


# The ranges that most arguments have.
SHARE, AT_LEAST_0, ABOVE_0, ANY = number(0, 1), number(0), number(above=0), number()
COUNT, SIDE = whole(1), whole(1, PIXELS)
