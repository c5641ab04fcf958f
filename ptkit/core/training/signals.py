"""Ctrl-C and SIGTERM while a run goes on: they ask, and the run stops where that is safe."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ptkit.core.errors import InterruptedRunError
from ptkit.core.ranks import here
from ptkit.core.training.observers import Unwatched, Watcher


@dataclass
class StopFlag:
    """Which signal asked the run to stop, or None."""

    signal_number: int | None = None

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            InterruptedRunError: it was.
        """
        if self.signal_number is not None:
            raise InterruptedRunError(
                "interrupted before training began", signal_number=self.signal_number
            )

    def of_one(self) -> "StopFlag":
        """Return what a process may look at by itself; of several ranks none stops alone."""
        return self if here().is_alone else StopFlag()


class Stoppable(Unwatched):
    """Shows all that `watch` shows of the time before and after the steps, and stops there."""

    def __init__(self, watch: Watcher, flag: StopFlag) -> None:
        self._watch, self._flag = watch, flag
        self.transferred = watch.transferred  # type: ignore[method-assign]
        self.warn = watch.warn  # type: ignore[method-assign]

    def say(self, text: str) -> None:
        self._watch.say(text)
        self._flag.check()

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        with self._watch.counting(what, total) as advance:

            def advance_or_stop(count: int) -> None:
                advance(count)
                self._flag.check()

            yield advance_or_stop


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the first SIGINT or SIGTERM in a flag; a second one acts at once.

    Where the handler that was there has a `second`, as that of the command line, the second one is
    for that.
    """
    flag = StopFlag()
    # In other threads signal.signal raises ValueError: there signals keep their usual effect.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    second = {number: getattr(handler, "second", handler) for number, handler in before.items()}

    def remember(number: int, _frame: FrameType | None) -> None:
        # Only a flag: an exception could break off anything, such as the start of a thread.
        flag.signal_number = number
        _handle(second)

    _handle(dict.fromkeys(before, remember))
    try:
        yield flag
    finally:
        _handle(before if flag.signal_number is None else second)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
