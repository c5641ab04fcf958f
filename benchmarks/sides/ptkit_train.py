"""A whole run of ptkit with events, checkpoints, records and the live line; and its model alone.

ptkit_train.py LIST NETWORK BATCH_SIZE SIZE DEVICE [DECODE]

DECODE: data.decode. Words: `round`, an epoch of the run; `alone`, as many steps of plain PyTorch on
batches in memory, with the network, memory format, precision, loss and kind of optimizer of the
run, in its process; `recorded`, an epoch, until all that is written after it is on the disk.
Figures: images per second of training.
"""

import functools
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ptkit.core.machine import prepare_environment

prepare_environment()

from networks import make_alone  # noqa: E402
from turns import Turns  # noqa: E402

from ptkit.commands.output import Printer  # noqa: E402
from ptkit.commands.train import TrainingScreen  # noqa: E402
from ptkit.core.config.layers import resolve  # noqa: E402
from ptkit.core.config.settings import Settings  # noqa: E402
from ptkit.core.device import choose_device, choose_dtype  # noqa: E402
from ptkit.core.training import session  # noqa: E402
from ptkit.core.training.run_place import Place  # noqa: E402
from ptkit.core.training.writer import Writer  # noqa: E402

CALLS = {
    "lenet": "lenet()",
    "resnet18": "resnet18(stem='standard')",
    "resnet18-small": "resnet18(stem='small')",
    "mobilenet_v2": "mobilenet_v2()",
}
SMALL_IMAGES = ["RandomCrop(32, padding=4)", "RandomHorizontalFlip()"]


def main() -> None:
    _, name, batch_size, size, device = sys.argv[1:6]
    settings = settings_of(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="bench-run-") as folder:
        dtype = choose_dtype("auto", choose_device(device))
        watch = Screen(
            lambda: make_alone(name, int(batch_size), int(size), device=device, dtype=dtype)
        )
        session.run(settings, watch=watch, place=Place(Path(folder)), link=None)


def settings_of(arguments: Sequence[str]) -> Settings:
    """Return the settings of a run: list, network, batch size, size, device, data.decode."""
    file, name, batch_size, size, device = arguments[:5]
    return resolve(
        {
            "data": {
                "train": file,
                "valid": str(Path(file).parent / "valid.txt"),
                "size": int(size),
                "transforms": SMALL_IMAGES if size == "32" else [],
                "decode": "".join(arguments[5:]) or "cpu",
            },
            "model": {"call": CALLS[name]},
            # Only the first epochs of an unlimited run are measured: a rate that changes little.
            "optimizer": {
                "call": "SGD(momentum=0.9, nesterov=True, weight_decay=5e-4)",
                "lr": 0.001,
            },
            # Uncompiled, as the model alone is.
            "train": {
                "batch_size": int(batch_size),
                "device": device,
                "epochs": 10_000,
                "compile": False,
            },
        }
    )


class Screen(TrainingScreen):
    """The display of `ptkit train`, which waits before each epoch until it is asked for."""

    def __init__(self, make: Callable[[], Callable[[int], float]]) -> None:
        super().__init__(Printer(as_json=False, quiet=False))
        self.turns, self.make, self.alone = Turns(), make, None
        self.num_steps, self.word, self.began = 0, "", 0.0

    def begin(self, run, *, epochs, num_steps, faster=()):  # type: ignore[no-untyped-def]
        super().begin(run, epochs=epochs, num_steps=num_steps)
        self.num_steps = num_steps
        self.wait()

    def epoch(self, result, *, is_best):  # type: ignore[no-untyped-def]
        # A writer still at work would take a core from the program that has the next turn.
        for writer in self.writers:
            writer.wait()
        figure = result.images_per_s
        if self.word == "recorded":
            # All the time since the turn began counts, but that of evaluation does not.
            train_s = self.num_images / figure
            seconds = time.perf_counter() - self.began - result.seconds + train_s
            figure = self.num_images / seconds
        super().epoch(result, is_best=is_best)
        self.turns.end(figure)
        self.wait()

    def step(self, progress):  # type: ignore[no-untyped-def]
        super().step(progress)
        if progress.step == progress.num_steps:
            self.num_images = progress.totals.read().num_images

    def wait(self) -> None:
        self.word = self.turns.begin(others={"alone": self.run_alone})
        self.began = time.perf_counter()
        self.pace.begin_epoch()

    @functools.cached_property
    def writers(self) -> list[Writer]:
        """The threads that write the run; asked for after an epoch, when they are there."""
        found = [each for each in gc.get_objects() if isinstance(each, Writer)]
        # Without them a turn would end before its epoch is on the disk.
        assert found, "no Writer of the run was found"
        return found

    def run_alone(self) -> float:
        self.alone = self.alone or self.make()
        return self.alone(self.num_steps)


if __name__ == "__main__":
    main()
