"""Decoded images that several runs of one process share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptkit.core.data.loading.kept import Kept

# By key, while runs share; else None.
_shared: dict[str, Kept] | None = None


@contextmanager
def sharing_decoded() -> Iterator[None]:
    """Let lists that are kept in memory be decoded once while the block runs."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def shared(key: Callable[[], str]) -> Kept | None:
    """Return what was decoded for a key where runs share, if it was; else `key` is not called."""
    return _shared.get(key()) if _shared else None


def decoded_once(key: Callable[[], str], decode: Callable[[], Kept]) -> Kept:
    """Return what `decode` gives, or gave for this key before, where runs share."""
    if _shared is None:
        return decode()
    name = key()
    if name not in _shared:
        _shared[name] = decode()
    return _shared[name]
