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

from common import arguments, at_least, begin, figures_in_turns, image_paths, report, write_lists

from ptkit.core.machine import prepare_environment

prepare_environment()

import torch  # noqa: E402
from sides.networks import READY_BATCHES, network  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ptkit.core.config.layers import resolve  # noqa: E402
from ptkit.core.data.loading.batches import Batches  # noqa: E402
from ptkit.core.device import choose_device, prepare_device  # noqa: E402
from ptkit.core.training.observers import Unwatched  # noqa: E402
from ptkit.core.training.setup_data import prepare_data  # noqa: E402

NUM_VALID = 32
# Batches in memory, with labels.
Ready = Iterator[tuple[Tensor, Tensor]]
# Steps of a turn, the first of which does not count: its side was not in the cache; turns of a
# round; and the number of images.
PIECE, PIECES, NUM_IMAGES = 11, 15, 50_000


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
    sides = {"made": made(batches), "ready": ready(batch_size)}
    step = make_step()
    seconds: dict[str, list[float]] = {}

    def round_of(_: int) -> float:
        seconds.update((name, []) for name in sides)
        for _ in range(PIECES):
            for name, side in sides.items():
                seconds[name] += times(step, side)[1:]
        return rate("made")

    def rate(name: str) -> float:
        return batch_size * len(seconds[name]) / sum(seconds[name])

    # Both are measured in the first run of a round; the second only reads its figure.
    figures = figures_in_turns({"made": round_of, "ready": lambda _: rate("ready")}, rounds=rounds)
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


def ready(batch_size: int) -> Ready:
    images = torch.randn(READY_BATCHES, batch_size, 3, 32, 32)
    labels = torch.randint(10, (READY_BATCHES, batch_size))
    some = [part.contiguous(memory_format=torch.channels_last) for part in images]
    return cycle(zip(some, labels, strict=True))


def make_step() -> Callable[[Tensor, Tensor], None]:
    """Return a function that makes one optimizer step, as `make_alone` of sides/networks.py."""
    model = network("lenet", 10).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.001, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


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
