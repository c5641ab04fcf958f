"""What it costs to read kept images with their checksums compared, against reading them alone.

python benchmarks/faults/cache_checksums.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ptkit.core.data.loading.checksums import sums_of
from ptkit.core.machine import num_cores

NUM_BYTES = 1 << 30


def seconds(work: Callable[[], object]) -> float:
    """Return the least of three times."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.bin"
        np.random.default_rng(0).integers(0, 256, NUM_BYTES, dtype=np.uint8).tofile(file)
        # In the system's memory from now on.
        file.read_bytes()
        read = seconds(lambda: np.fromfile(file, np.uint8))
        checked = seconds(lambda: sums_of(file, into=np.empty(NUM_BYTES, np.uint8).data))
    print(
        f"opening 1 GiB that is in memory: {1e3 * read:.0f} ms read by one thread,"
        f" {1e3 * checked:.0f} ms with checksums ({num_cores()} cores)"
    )


if __name__ == "__main__":
    main()
