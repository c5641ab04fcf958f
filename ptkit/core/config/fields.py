"""How a setting is declared: its default, meaning and range, and where it is to be given."""

from dataclasses import field
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """The range of a number; low and high are inclusive, above is exclusive."""

    low: float | None = None
    high: float | None = None
    above: float | None = None


class Form(NamedTuple):
    """What a whole number or a text must match as a whole, and the same in words."""

    pattern: str
    words: str


_NO_LIMITS = Limits()


def setting(
    default: Any,
    meaning: str,
    *,
    keyword: str | None = None,
    flag: str | None = None,
    choices: tuple[str, ...] = (),
    within: Limits | Form = _NO_LIMITS,
    is_path: bool = False,
) -> Any:
    """Declare a setting.

    meaning: a sentence, shown as help and in the docs. keyword: in Python, where the key is not
    unique or not clear by itself. flag: on the command line, for the few that have one.
    """
    rules = {
        "meaning": meaning,
        "keyword": keyword,
        "flag": flag,
        "choices": choices,
        "within": within,
        "is_path": is_path,
    }
    return field(default=default, metadata=rules)
