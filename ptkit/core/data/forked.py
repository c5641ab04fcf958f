"""Work in copies of this process, where threads would wait for each other.

Reading and decoding a small image releases the interpreter's lock five times in 20 µs: two threads
are then no faster than one, and now and then the system runs both on one core.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn, TypeVar

from ptkit.core.data.complaints import without_warnings
from ptkit.core.errors import PtkitError, StorageError, UsageError

T = TypeVar("T")
_Copy = tuple[int, Connection]

_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def can_fork() -> bool:
    """Say whether copies of this process can work.

    Libraries of macOS do not survive it, and torch may be loading something in another thread,
    whose locks nobody would ever release in a copy.
    """
    return sys.platform == "linux" and "torch" not in sys.modules


def in_copies(
    work: Callable[[int], Iterator[T]], *, copies: int, count: int
) -> Generator[T, None, None]:
    """Yield `count` results in turn from copies of this process, where copy k gives what `work(k)`
    yields: result j comes from copy j % copies. They are pickled.

    A copy waits when nobody takes its results, and ends with this process.

    Raises:
        UsageError: the system allows no more processes. StorageError: a copy was killed. Also what
        `work` raises; what is no PtkitError, as StorageError.
    """
    started: list[_Copy] = []
    try:
        for number in range(copies):
            _start(work, number, started)
        for k in range(count):
            try:
                is_error, result = started[k % len(started)][1].recv()
            except EOFError:
                raise StorageError(
                    "a process that decodes images was killed: was memory short?"
                ) from None
            if is_error:
                raise result
            yield result
    finally:
        _end(started)


def _start(work: Callable[[int], Iterator[T]], number: int, started: list[_Copy]) -> None:
    reader, writer = Pipe(duplex=False)
    # A signal must not run this process's handlers in a copy.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        # Newer Pythons warn of threads: a copy has none of them, and asks for none of their locks.
        with without_warnings():
            child = os.fork()
            if not child:
                _serve(lambda: work(number), writer, others=[*started, (0, reader)], mask=before)
        # Before a signal can break this off: it ends the copies that are known.
        started.append((child, reader))
    except OSError as error:
        reader.close()
        raise UsageError(
            f"the system allows no more processes ({error.strerror}): pass --workers 1"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        writer.close()


def _serve(
    work: Callable[[], Iterator[object]],
    writer: Connection,
    *,
    others: list[_Copy],
    mask: set[Any],
) -> NoReturn:
    """Send what `work` yields; a copy never returns to its caller's code."""
    try:
        # With these open, others would not notice that the process they work for has ended.
        for _, reader in others:
            reader.close()
        # Ctrl-C reaches all processes of a terminal; the one that asked ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        gc.disable()
        try:
            for result in work():
                writer.send((False, result))
        except PtkitError as error:
            writer.send((True, error))
        # Others may not travel, or not come back.
        except BaseException as error:
            writer.send((True, StorageError(f"{type(error).__name__} in a process: {error}")))
    finally:
        os._exit(0)


def _end(started: list[_Copy]) -> None:
    for child, reader in started:
        reader.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
