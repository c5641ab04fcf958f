"""What making batches costs a training step, on a machine that is never quiet.

    python benchmarks/bench_steps.py IMAGES [--rounds 20]

IMAGES is ROOT/CLASS/*.jpg of 32×32. A model of plain PyTorch trains in one process, a few steps at
a time, in turns: on batches that ptkit makes of kept images, and on batches in memory. So a slow
second hits both sides, as it does not where whole epochs take turns (bench_train.py). What ptkit's
loop does around a step is not part of it.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from common import arguments, at_least, begin, image_paths, report, write_lists

from ptkit.core.machine import prepare_environment

prepare_environment()

from sides.networks import make_step, ready_batches  # noqa: E402
from torch import Tensor  # noqa: E402

from ptkit.core.config.layers import resolve  # noqa: E402
from ptkit.core.data.loading.batches import Batches  # noqa: E402
from ptkit.core.device import choose_device, prepare_device  # noqa: E402
from ptkit.core.training.observers import Unwatched  # noqa: E402
from ptkit.core.training.setup_data import prepare_data  # noqa: E402

NUM_VALID = 32
# Batches in memory, with labels.
Ready = Iterator[tuple[Tensor, Tensor]]
# Steps of a turn; the first does not count, as what its side needs was not in the cache.
PIECE = 11
# Turns of a round.
PIECES = 15
NUM_IMAGES = 50_000


def main() -> None:
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    begin("steps", note="in turns of a few steps, cpu")
    prepare_device(choose_device("cpu"), deterministic=False)
    with tempfile.TemporaryDirectory(prefix="bench-steps-") as folder:
        paths = image_paths(options.images, limit=NUM_IMAGES)
        file = write_lists(paths, Path(folder), num_valid=NUM_VALID)
        for batch_size in (128, 16):
            measure(file, batch_size=batch_size, rounds=options.rounds)


def measure(file: Path, *, batch_size: int, rounds: int) -> None:
    batches = prepared(file, batch_size)
    sides = {"made": made(batches), "ready": cycle(ready_batches(batch_size, 32, "cpu"))}
    step = make_step("lenet", device="cpu", dtype=None)
    figures: dict[str, list[float]] = {name: [] for name in sides}
    # The first round does not count.
    for number in range(-1, rounds):
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(PIECES):
            for name, side in sides.items():
                seconds[name] += times(step, side)[1:]
        for name, some in seconds.items():
            if number >= 0:
                figures[name].append(batch_size * len(some) / sum(some))
    report(
        f"steps of `lenet` at 32, batch {batch_size}: crop, flip, normalise",
        figures["made"],
        figures["ready"],
        against="steps on batches in memory",
        goal=at_least(0.97),
        unit="images/s",
    )


def prepared(file: Path, batch_size: int) -> Batches:
    data = {
        "train": str(file),
        "valid": str(file.with_name("valid.txt")),
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "cache": "ram",
        "transforms": ["RandomCrop(32, padding=4)", "RandomHorizontalFlip()"],
    }
    settings = resolve({"data": data, "train": {"batch_size": batch_size}})
    return prepare_data(
        settings.data, settings.train, device=choose_device("cpu"), counting=Unwatched().counting
    ).train


def made(batches: Batches) -> Ready:
    epoch = 0
    while True:
        epoch += 1
        yield from ((batch.images, batch.labels) for batch in batches.epoch(epoch))


def times(step: Callable[[Tensor, Tensor], None], side: Ready) -> list[float]:
    """Return the seconds of each step of a turn, its batch included."""
    seconds = []
    for _ in range(PIECE):
        start = time.perf_counter()
        step(*next(side))
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
