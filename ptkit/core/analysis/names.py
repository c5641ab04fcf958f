"""Layers picked by name or glob."""

import fnmatch
from collections.abc import Sequence

from ptkit.core.calls import nearest
from ptkit.core.errors import UsageError


def match_names(names: Sequence[str], patterns: Sequence[str], *, what: str) -> list[str]:
    """Return the names that equal one of the patterns or match it as a glob, in their own order.

    Raises:
        UsageError: a pattern that matches nothing; the message has the nearest name.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            hint = (
                nearest(pattern, names)
                or f"; there are {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
            )
            raise UsageError(f"--layers {pattern} matches no {what}{hint}")
        chosen |= matched
    return [name for name in names if name in chosen]
