"""What the C libraries that decode images write to standard error, caught while they work.

libjpeg, libpng and libtiff complain there and nowhere else: OpenCV gives a damaged JPEG as an image
that is partly grey, and says nothing of it. They write to C's `stderr`, which glibc lets a program
set ("Standard Streams" in its manual). While an image is being decoded it is a stream of ours,
which knows the thread that writes: so threads do not mix, file descriptor 2 is never moved, and
Python's own standard error goes where it always went. Elsewhere (macOS, Windows, musl) nothing is
caught.
"""

import contextlib
import ctypes
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _StreamFunctions(ctypes.Structure):
    """cookie_io_functions_t of stdio.h: read, write, seek, close."""

    _fields_ = (
        ("read", ctypes.c_void_p),
        ("write", _Write),
        ("seek", ctypes.c_void_p),
        ("close", ctypes.c_void_p),
    )


# Thread -> what was written in it; a thread is in it while it decodes.
_captured: dict[int, bytes] = {}
# The filter that ignores warnings, and an entry for each thread that asked for it.
_quiet: list[Any] = []
_lock = threading.Lock()


class _StderrCapture:
    """Captures what the thread that enters it writes; not to be entered twice."""

    def __enter__(self) -> None:
        with _lock:
            if not _captured:
                _stderr.value = _stream
            _captured[threading.get_ident()] = b""

    def __exit__(self, *_error: object) -> None:
        with _lock:
            del _captured[threading.get_ident()]
            if not _captured:
                _stderr.value = _real


# For a block that decodes many images: to begin and to end takes half a microsecond, a twentieth of
# what a small JPEG takes.
capturing_stderr = _StderrCapture()


def with_stderr(work: Callable[..., T], *args: Any) -> tuple[T, str]:
    """Return what `work(*args)` gives, and what its C code meanwhile wrote to standard error."""
    thread = threading.get_ident()
    if thread not in _captured:
        with capturing_stderr:
            return with_stderr(work, *args)
    _captured[thread] = b""
    result = work(*args)
    written = _captured[thread]
    return result, written.decode(errors="replace") if written else ""


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore Python's warnings, in all threads, until the last of those that are in here is out.

    Threads that enter and leave warnings.catch_warnings in turns would leave its filter in place.
    """
    with _lock:
        if not _quiet:
            _quiet.append(warnings.catch_warnings())
            _quiet[0].__enter__()
            warnings.simplefilter("ignore")
        _quiet.append(None)
    try:
        yield
    finally:
        with _lock:
            _quiet.pop()
            if len(_quiet) == 1:
                _quiet.pop().__exit__(None, None, None)


def _write(_cookie: int | None, text: int, length: int) -> int:
    """Keep what a decoding thread writes; what any other thread writes goes on to the screen."""
    found, thread = ctypes.string_at(text, length), threading.get_ident()
    if thread in _captured:
        _captured[thread] += found
    else:
        with contextlib.suppress(OSError):  # as C's own stream: nobody is told
            os.write(2, found)
    return length


# Kept as long as the process: C has its address.
_called_by_c = _Write(_write)


def _open_stream(libc: ctypes.CDLL) -> int | None:
    """Return a FILE * that calls `_write`, None where C's `stderr` must not be set."""
    # musl has fopencookie too, but its stderr is a constant in write-protected memory.
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.fopencookie.restype = ctypes.c_void_p
    functions = _StreamFunctions(None, _called_by_c, None, None)
    stream: int | None = libc.fopencookie(None, b"w", functions)
    # Without a buffer: a text arrives in the thread that wrote it.
    libc.setbuf(ctypes.c_void_p(stream), None)
    return stream


def _start_anew() -> None:
    """Forget the threads of the parent process, of which none is left after a fork."""
    _captured.clear()
    _stderr.value = _real
    if _quiet:
        _quiet[0].__exit__(None, None, None)
        _quiet.clear()
    _lock.release()


_stream: int | None = None
_stderr = ctypes.c_void_p()
if os.name == "posix":
    # A child that is made while another thread holds the lock would wait for it forever.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_start_anew
    )
    _libc = ctypes.CDLL(None)
    if (_stream := _open_stream(_libc)) is not None:
        _stderr = ctypes.c_void_p.in_dll(_libc, "stderr")
_real = _stderr.value
