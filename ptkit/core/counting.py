"""Showing the progress of a pass over images or files."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Called with what is counted and how many there are; gives the function that counts.
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def uncounted(_what: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda _count: None)
