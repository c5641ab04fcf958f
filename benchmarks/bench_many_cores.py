"""Photographs in many threads, on any machine: what the interpreter's lock leaves of the threads.

    python benchmarks/bench_many_cores.py [--threads 16]

Decoding and resizing, which release the lock, are replaced by sleeps, which need no core. What is
left is ptkit's own: files read, boxes drawn and cut out, batches put together in threads, as for
a GPU (flip, colour and normalise run there). The peer: as many threads that only sleep. Processor
time beyond theirs, when they also copy the boxes, which needs no lock, is an upper bound of the
time that an image holds it.
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
from ptkit.core.data.transforms.geometry import Box, random_box
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import thread_pool

DECODE_S, RESIZE_S = 2.5e-3, 2.7e-4
CALLS = ("RandomResizedCrop(224)", "RandomHorizontalFlip()", "ColorJitter(0.4, 0.4, 0.4)")
MOST_US = 60.0
PHOTO = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--batches", type=int, default=64, help="of 64 images, in a round")
    options = parser.parse_args()
    threads, count = options.threads, 64 * options.batches
    begin("many cores", note=f"{threads} threads, {count:,} images a round, batches of 64")
    with tempfile.TemporaryDirectory(prefix="bench-many-cores-") as name:
        maker = maker_of(Path(name))
        boxes = boxes_of(maker, count)
        sleep_for_kernels()
        runs = {
            "ptkit": lambda: make_batches(maker, count, threads=threads),
            "sleep": lambda: only_sleep(count, threads=threads),
            "copy": lambda: only_sleep(count, threads=threads, boxes=boxes),
        }
        figures = figures_in_turns(
            {who: lambda _n, run=run: measured(run) for who, run in runs.items()},
            rounds=options.rounds,
        )
    ours, other, copying = figures["ptkit"], figures["sleep"], figures["copy"]
    report(
        "photos to 224 in threads; decoding and resizing sleep",
        [count / wall for wall, _ in ours],
        [count / wall for wall, _ in other],
        against="threads that only sleep",
        goal=at_least(0.9),
        unit="images/s",
    )
    report(
        "processor time beyond threads that sleep and copy the boxes, an image",
        [(mine - cpu) / count * 1e6 for (_, mine), (_, cpu) in zip(ours, copying, strict=True)],
        [MOST_US] * len(ours),
        against=f"at most {MOST_US:g} µs",
        goal=at_most(1),
        unit="µs",
    )


def maker_of(folder: Path) -> BatchMaker:
    """Return what makes batches for a GPU out of small files that stand for photographs."""
    paths = [folder / f"{number}.jpg" for number in range(64)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((16, 16, 3), np.uint8))
    images = read_list(write_lists(paths, folder))
    pipeline = Pipeline.parse([*CALLS, "ToTensor()"]).for_device(torch.device("cuda"))
    return BatchMaker(images, pipeline, None, torch.zeros(len(images), dtype=torch.int64))


def sleep_for_kernels() -> None:
    """Put sleeps in the place of decoding and of resizing, in this process."""

    def decode(*_: Any) -> decoder.Pixels:
        time.sleep(DECODE_S)
        return PHOTO

    def resize(image: torch.Tensor, size: list[int], *_: Any, out: Any = None) -> torch.Tensor:
        time.sleep(RESIZE_S)
        if out is not None:
            return out
        return torch.empty(
            (*image.shape[:2], *size), dtype=torch.uint8, memory_format=torch.channels_last
        )

    decoder.decode = decode
    torch._C._nn._upsample_bilinear2d_aa = resize


def make_batches(maker: BatchMaker, count: int, *, threads: int) -> None:
    numbers = np.arange(count, dtype=np.int64)
    draws = maker.pipeline.draws(0, epoch=0, keys=numbers)
    whole, size = Selection(numbers % len(maker.images), draws), Sampling(64).batch_size
    parts = (whole.part(start, start + size) for start in range(0, count, size))
    with thread_pool(threads) as pool:
        for _ in in_threads(maker, parts, pool=pool, workers=threads, ahead=2, pinned=False):
            pass


def boxes_of(maker: BatchMaker, count: int) -> list[Box]:
    """Return the boxes that `make_batches` cuts out."""
    (step,) = maker.pipeline.plan.image_steps
    draws = maker.pipeline.draws(0, epoch=0, keys=np.arange(count, dtype=np.int64))
    return [random_box(step.transform, PHOTO.shape[:2], own[step.columns]) for own in draws]


def only_sleep(count: int, *, threads: int, boxes: Sequence[Box] = ()) -> None:
    def some(first: int) -> None:
        for number in range(first, count, threads):
            time.sleep(DECODE_S)
            if boxes:
                top, left, height, width = boxes[number]
                np.array(PHOTO[top : top + height, left : left + width], order="C")
            time.sleep(RESIZE_S)

    with thread_pool(threads) as pool:
        list(pool.map(some, range(threads)))


def measured(run: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a run takes, and those of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
