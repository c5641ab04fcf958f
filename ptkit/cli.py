"""How the process of a command starts and ends; the commands are in commands/app.py."""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

# How long an interrupted command may clear away what it had half done.
_CLEANING_S = 5.0


def main() -> None:
    """Run the command line."""
    began = time.perf_counter()
    # Importing the commands takes half a second, and leaves nothing to clear away.
    _on_stop(_end_at_once)
    from ptkit.core.machine import prepare_environment, search_garbage_rarely

    # An error of our own ends with 1.
    status = [1]
    # Registered first, it is called last.
    atexit.register(_leave_at_once, status)
    search_garbage_rarely()
    prepare_environment()
    from typer.main import get_command

    from ptkit.commands.app import app
    from ptkit.commands.output import process_began

    process_began.set(began)
    run = get_command(app)
    # Half-done work is cleared away. Training has handlers of its own for the first signal.
    _on_stop(_Stop())
    try:
        # Also of `python -m ptkit`.
        run(prog_name="ptkit")
    except SystemExit as end:
        status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    _say("interrupted" if number == signal.SIGINT else "terminated")
    # An exception would be lost where an import or a destructor catches it.
    os._exit(128 + number)


class _Stop:
    """What the first signal does; the second one ends the process wherever it is."""

    second = signal.SIG_DFL

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self.second)
        # An exception may break off the start of a thread, for which cleaning up would wait for
        # good.
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
            signal.setitimer(signal.ITIMER_REAL, _CLEANING_S)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _say("terminated")
        raise SystemExit(128 + number)


def _say(word: str) -> None:
    # The signal may have come in the middle of writing to sys.stderr, which takes no second writer.
    with suppress(OSError):
        os.write(2, f"ptkit: {word}\n".encode())


def _leave_at_once(status: Sequence[int]) -> None:
    """End the process without taking torch's modules apart, which takes a second; status: the exit
    status first.
    """
    if "torch" not in sys.modules:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader is gone
        os._exit(status[0] or 120)
    os._exit(status[0])
