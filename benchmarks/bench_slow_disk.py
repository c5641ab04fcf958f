"""Batches from a slow disk behind a narrow link, against the rate of the link.

    python benchmarks/bench_slow_disk.py IMAGES [--files 2000] [--rate 20] [--latency 20]

IMAGES is ROOT/CLASS/*.jpg. The list repeats the first 200, as if there were 100 GB: every
read waits `--latency` milliseconds, and all of them share a link of `--rate` MB/s. The disk is
simulated where ptkit reads a file, so that reading, decoding and batching are ptkit's own.
"""

import threading
import time
from pathlib import Path

from common import arguments, at_least, at_most, begin, image_paths, report

MB = 1e6


class Link:
    """A connection that transfers bytes at a rate, each file after a delay."""

    def __init__(self, rate: float, latency_s: float) -> None:
        self.rate, self.latency_s = rate, latency_s
        self._lock, self._free_at = threading.Lock(), 0.0
        self.num_bytes = 0

    def pass_through(self, num_bytes: int) -> None:
        """Wait as long as a file of this size takes."""
        time.sleep(self.latency_s)
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter()) + num_bytes / self.rate
            self.num_bytes += num_bytes
            ready = self._free_at
        time.sleep(max(ready - time.perf_counter(), 0))


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("images", type=Path)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=20.0, help="MB/s of the link")
    parser.add_argument(
        "--latency", type=float, default=20.0, help="milliseconds until a file comes"
    )
    options = parser.parse_args()
    paths = [str(path) for path in image_paths(options.images, limit=200)]
    size = sum(Path(path).stat().st_size for path in paths) / len(paths)
    # Small files are bound by the answers and not by the link: 32 readers get no more than this.
    rate = min(options.rate * MB, 32 * 1000 / options.latency * size)
    note = (
        f"{options.files:,} files of {size / 1000:.0f} kB a round, {options.latency:g} ms each,"
        f" {rate / MB:.3g} MB/s"
    )
    begin("slow disk", note=note)
    shares, growths = [], []
    for _ in range(options.rounds):
        share, growth = measured(paths, options.files, rate=rate, latency_s=options.latency / 1000)
        shares.append(share * rate / MB)
        growths.append(growth)
    full = [rate / MB] * options.rounds
    report(
        "batches at 224 from a slow disk",
        shares,
        full,
        against="its link",
        goal=at_least(0.9),
        unit="MB/s",
    )
    what = "memory, the rounds after the first"
    report(what, [max(growths[1:])], [128.0], against="128 MiB", goal=at_most(1), unit="MiB more")


def measured(
    paths: list[str], num_files: int, *, rate: float, latency_s: float
) -> tuple[float, float]:
    """Return the share of the link that was used, and the growth of the process in MiB."""
    from ptkit.core.data import images as decoder
    from ptkit.core.data.keyed import Sampling
    from ptkit.core.data.lists import list_of
    from ptkit.core.data.loading.batches import Batches
    from ptkit.core.data.transforms.completion import complete
    from ptkit.core.data.transforms.pipeline import Pipeline
    from ptkit.core.parts.calls import parse_all

    link, read, before = Link(rate, latency_s), decoder.read_bytes, _resident()

    def slowly(path: str | Path, **arguments: int) -> bytes:
        data = read(path, **arguments)
        link.pass_through(len(data))
        return data

    calls = complete(
        parse_all(("RandomResizedCrop(224)", "RandomHorizontalFlip()")),
        size=224,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    listed = list_of([paths[k % len(paths)] for k in range(num_files)], ("one",))
    batches = Batches(listed, Pipeline.of(calls), Sampling(32, shuffle=True))
    decoder.read_bytes = slowly
    try:
        start = time.perf_counter()
        for _ in batches.epoch():
            pass
        seconds = time.perf_counter() - start
    finally:
        decoder.read_bytes = read
        batches.close()
    return link.num_bytes / rate / seconds, _resident() - before


def _resident() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
