"""Photographs in many threads, on any machine: what the interpreter's lock leaves of the threads.

    python benchmarks/bench_many_cores.py [--threads 16]

Decoding and resizing, which release the lock, are replaced by sleeps, which need no core. What is
left is ptkit's own: files read, boxes drawn and cut out, batches put together in threads, as for
a GPU (flip, colour and normalise run there). The peer: as many threads that only sleep.

The processor time of one thread without the sleeps, handing over included, is an upper bound of the
time that an image holds the lock: reading its file and copying its box need no lock.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import arguments, at_least, at_most, begin, figures_in_turns, report, write_lists

from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import Sampling, Selection
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.streaming import BatchMaker, in_threads
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import thread_pool

DECODE_S, RESIZE_S = 2.5e-3, 2.7e-4
LISTS = {
    "RandomResizedCrop": (
        "RandomResizedCrop(224)",
        "RandomHorizontalFlip()",
        "ColorJitter(0.4, 0.4, 0.4)",
    ),
    "Resize, RandomCrop": ("Resize(256)", "RandomCrop(224)", "RandomHorizontalFlip()"),
    "Resize, CenterCrop": ("Resize(256)", "CenterCrop(224)"),
}
MOST_US = 60.0
PHOTO = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--batches", type=int, default=64, help="of 64 images, in a round")
    options = parser.parse_args()
    threads, count = options.threads, 64 * options.batches
    begin("many cores", note=f"{threads} threads, {count:,} images a round, batches of 64")
    naps = sleep_for_kernels()
    with tempfile.TemporaryDirectory(prefix="bench-many-cores-") as name:
        for what, calls in LISTS.items():
            maker = maker_of(Path(name), calls)
            measure(what, maker, naps, count, threads=threads, rounds=options.rounds)


def measure(
    what: str, maker: BatchMaker, naps: dict[str, float], count: int, *, threads: int, rounds: int
) -> None:
    runs = {
        "ptkit": lambda: make_batches(maker, count, threads=threads),
        "sleep": lambda: only_sleep(count, threads=threads),
        "alone": lambda: make_batches(maker, count, threads=1),
    }
    figures = figures_in_turns(
        {
            who: lambda _n, run=run, who=who: measured(run, naps, is_awake=who == "alone")
            for who, run in runs.items()
        },
        rounds=rounds,
    )
    ours, other, alone = figures["ptkit"], figures["sleep"], figures["alone"]
    report(
        f"photos to 224 in threads, {what}; decoding and resizing sleep",
        [count / wall for wall, _ in ours],
        [count / wall for wall, _ in other],
        against="threads that only sleep",
        goal=at_least(0.9),
        unit="images/s",
    )
    report(
        f"processor time of an image in one thread, {what}, without decoding and resizing",
        [processor / count * 1e6 for _, processor in alone],
        [MOST_US] * len(ours),
        against=f"at most {MOST_US:g} µs",
        goal=at_most(1),
        unit="µs",
    )


def maker_of(folder: Path, calls: Sequence[str]) -> BatchMaker:
    """Return what makes batches for a GPU; small files take the place of photographs."""
    paths = [folder / f"{number}.jpg" for number in range(64)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((16, 16, 3), np.uint8))
    images = read_list(write_lists(paths, folder))
    pipeline = Pipeline.parse([*calls, "ToTensor()"]).for_device(torch.device("cuda"))
    return BatchMaker(images, pipeline, None, torch.zeros(len(images), dtype=torch.int64))


def sleep_for_kernels() -> dict[str, float]:
    """Put sleeps in the place of decoding and of resizing, in this process; return their lengths,
    which may be changed.
    """
    naps = {"decode": DECODE_S, "resize": RESIZE_S}

    def nap(what: str) -> None:
        # Even no time at all takes the system some.
        if seconds := naps[what]:
            time.sleep(seconds)

    def decode(*_: Any, **_more: Any) -> decoder.Pixels:
        nap("decode")
        return PHOTO

    def resize(image: torch.Tensor, size: list[int], *_: Any, out: Any = None) -> torch.Tensor:
        nap("resize")
        if out is not None:
            return out
        return torch.empty(
            (*image.shape[:2], *size), dtype=torch.uint8, memory_format=torch.channels_last
        )

    decoder.decode = decode
    torch._C._nn._upsample_bilinear2d_aa = resize
    return naps


def make_batches(maker: BatchMaker, count: int, *, threads: int) -> None:
    numbers = np.arange(count, dtype=np.int64)
    draws = maker.pipeline.draws(0, epoch=0, keys=numbers)
    whole, size = Selection(numbers % len(maker.images), draws), Sampling(64).batch_size
    parts = (whole.part(start, start + size) for start in range(0, count, size))
    with thread_pool(threads) as pool:
        for _ in in_threads(maker, parts, pool=pool, workers=threads, ahead=2, pinned=False):
            pass


def only_sleep(count: int, *, threads: int) -> None:
    def some(share: int) -> None:
        for _ in range(share):
            time.sleep(DECODE_S)
            time.sleep(RESIZE_S)

    with thread_pool(threads) as pool:
        list(pool.map(some, [count // threads] * threads))


def measured(
    run: Callable[[], None], naps: dict[str, float], *, is_awake: bool
) -> tuple[float, float]:
    """Return the seconds that a run takes, and those of processor time; awake, nobody sleeps."""
    usual = dict(naps)
    if is_awake:
        naps.update(decode=0.0, resize=0.0)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    naps.update(usual)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
