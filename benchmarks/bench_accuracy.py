"""Time to an accuracy on the test part of CIFAR-10, as JPEGs, with `ptkit train --recipe speed`, or
with `speed-gpu` on a GPU.

    python benchmarks/bench_accuracy.py IMAGES TEST [--rounds 1] [--epochs 1 2] [--recipe NAME]

IMAGES and TEST are FOLDER/CLASS/*.jpg. 2,000 of IMAGES are for validation; the test part is
evaluated once, after the run. One seed per round: the goals are for the mean of five. Seconds are
those of whole processes; those of training leave out start-up, validation and what is written.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import arguments, at_least, at_most, begin, image_paths, report, write_lists

NUM_VALID = 2000
# For a number of epochs: the accuracy in percent to reach, in how many seconds with start-up, and
# of training alone.
GOALS = {
    "speed": {1: (72.0, 40.0, None), 2: (80.0, 70.0, None)},
    "speed-gpu": {10: (90.5, 20.0, 4.0)},
}


class Result(NamedTuple):
    """Test accuracy in percent, seconds of the process, and of training alone."""

    accuracy: float
    process_s: float
    training_s: float


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("images", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--recipe", choices=list(GOALS))
    parser.add_argument("--epochs", type=int, nargs="+")
    parser.add_argument("--model")
    options = parser.parse_args()
    recipe = options.recipe or ("speed-gpu" if options.device == "cuda" else "speed")
    begin("accuracy", part=recipe, note=f"{options.rounds} seeds")
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as name:
        folder, test = Path(name), Path(name) / "test"
        test.mkdir()
        write_lists(image_paths(options.images), folder, num_valid=NUM_VALID)
        write_lists(image_paths(options.test), test)
        more = ["--device", options.device, *(["--model", options.model] if options.model else [])]
        for epochs in options.epochs or list(GOALS[recipe]):
            rows = [
                one_seed(folder, recipe, "--epochs", str(epochs), "--seed", str(seed), *more)
                for seed in range(options.rounds)
            ]
            show(recipe, epochs, rows)


def one_seed(folder: Path, recipe: str, *more: str) -> Result:
    start = time.perf_counter()
    found = ptkit(folder, "train", "--recipe", recipe, *more)
    seconds = time.perf_counter() - start
    accuracy = ptkit(folder, "confmat", found["checkpoint"], "test/train.txt")["accuracy"]
    return Result(100 * accuracy, seconds, training_seconds(folder / found["checkpoint"]))


def training_seconds(checkpoint: Path) -> float:
    """Return the time that the epochs of a run took without their validation."""
    num_images = len((checkpoint.parents[2] / "train.txt").read_text().splitlines())
    with open(checkpoint.with_name("metrics.csv"), newline="") as file:
        return sum(num_images / float(row["images_per_s"]) for row in csv.DictReader(file))


def show(recipe: str, epochs: int, rows: list[Result]) -> None:
    """Report the means over the seeds against the goals."""
    what = f"CIFAR-10, `--recipe {recipe}`, {epochs} epoch{'s' * (epochs > 1)}, mean of {len(rows)}"
    mean = Result(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))
    if epochs not in GOALS[recipe]:
        print(
            f"{what}: {mean.accuracy:.2f} % after {mean.training_s:.1f} s of training,"
            f" {mean.process_s:.1f} s in all"
        )
        return
    accuracy, process_s, training_s = GOALS[recipe][epochs]
    report(
        f"{what}: test accuracy",
        [mean.accuracy],
        [accuracy],
        against=f"{accuracy:g} %",
        goal=at_least(1),
        unit="%",
    )
    seconds = [("start-up included", mean.process_s, process_s)]
    if training_s is not None:
        seconds.append(("training alone", mean.training_s, training_s))
    for name, found, limit in seconds:
        report(f"{what}: {name}", [found], [limit], against=f"{limit:g} s", goal=at_most(1))


def ptkit(folder: Path, *words: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "ptkit", *words, "--json"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
