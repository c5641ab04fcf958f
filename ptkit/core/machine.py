"""What this machine offers."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# Values of --device: auto is the best that there is.
DEVICES = ("auto", "cpu", "cuda", "mps")
# Of the container that this runs in, if any.
_CGROUP = Path("/sys/fs/cgroup")
# Options of mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
# Seconds until a thread that waits for the interpreter's lock asks for it; Python's own are 5 ms.
_SWITCH_INTERVAL = 1e-3


def num_cores() -> int:
    """Return how many processors this process may use: of those that torchrun starts on a machine,
    each has its share.
    """
    return max(_allowed_cores() // num_processes_here(), 1)


def num_processes_here() -> int:
    """Return how many processes torchrun started on this machine for one job; 1 without it."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(int(ranks) if ranks.isdecimal() else 1, 1)


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    import psutil

    process = psutil.Process()
    # Windows can restrict a process; macOS cannot.
    allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    return len(allowed or []) or os.cpu_count() or 1


def free_bytes() -> int:
    """Return how much memory is free without swapping; a container's limit (cgroup v2) counts."""
    # Only when it is asked for: on Linux it reads /proc.
    import psutil

    free: int = psutil.virtual_memory().available
    try:
        limit, used = (
            (_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        counted = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    # Files that were read a while ago stay in memory until somebody needs it.
    needed = int(used) - int(counted.get("inactive_file", 0))
    return free if limit == "max" else max(min(free, int(limit) - needed), 0)


def decoding_threads(threads: int, **options: Any) -> "ThreadPoolExecutor":
    """Return a pool of threads that decode images. options: see ThreadPoolExecutor.

    Decoding a small image takes 10 µs, less than it takes to wake the thread that waits for the
    interpreter's lock: so the same thread gets the lock again, until the other one asks for it.
    After 5 ms each time, as Python has it, two threads take a third longer.
    """
    # `ptkit --help` needs none.
    from concurrent.futures import ThreadPoolExecutor

    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
    return ThreadPoolExecutor(threads, "ptkit-decode", **options)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Stop the search for cyclic garbage while a block makes very many objects that all stay: a
    tenth of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def search_garbage_rarely() -> None:
    """Search for cyclic garbage every 100,000 new objects: every 700 costs a third of the time of
    importing torch.
    """
    gc.set_threshold(100_000, *gc.get_threshold()[1:])


def prepare_environment() -> None:
    """Set what torch reads when it is imported, unless the user set it.

    OpenMP's threads wait by spinning. Long spinning starves the decoding threads and every other
    process of a shared machine; none at all costs small nets time when nothing else runs.
    """
    # Of several processes, what torch's C++ warns of is that another one has ended: ptkit says it.
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free, up to 1 GiB: else every step maps and clears the same pages
    anew.

    Small nets train faster for it, and those with wide maps of photographs far more so
    (docs/speed.md); with another C library nothing happens.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None:
        return
    for option, value in (
        # However large: what is mapped for one tensor alone goes with it.
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 1 << 30),
        (_M_TOP_PAD, 64 << 20),
    ):
        mallopt(option, value)


def give_freed_memory_back() -> None:
    """Give the system what `keep_freed_memory` kept; with another C library nothing happens."""
    malloc_trim = _of_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None where it has none."""
    with suppress(OSError, AttributeError, TypeError):
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
        return function
    return None
