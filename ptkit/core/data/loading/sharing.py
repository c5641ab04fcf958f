"""Decoded lists that several runs of one process share in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptkit.core.data.loading.kept import Kept

# By key, while runs share what they keep; else None.
_shared: dict[str, Kept] | None = None


@contextmanager
def sharing_decoded() -> Iterator[None]:
    """Let lists that are kept in memory be decoded once while the block runs, for several runs."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def decoded_once(key_of: Callable[[], str], decode: Callable[[], Kept]) -> Kept:
    """Return decoded images, those of an earlier run where runs share them.

    key_of: gives what tells them from others; called only where they are shared.
    """
    if _shared is None:
        return decode()
    key = key_of()
    if key not in _shared:
        _shared[key] = decode()
    return _shared[key]
