"""Time to an accuracy on the test part of CIFAR-10, as JPEGs, with `ptkit train --recipe speed`.

    python benchmarks/bench_accuracy.py IMAGES TEST [--rounds 1] [--epochs 1 2]

IMAGES and TEST are FOLDER/CLASS/*.jpg. 2,000 of IMAGES are for validation; the test part is
evaluated once, after the run. One seed per round: the goals are for the mean of five. Seconds are
those of whole processes.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, at_least, at_most, begin, image_paths, report, write_lists

NUM_VALID = 2000
# For a number of epochs: the accuracy in percent to reach, in how many seconds with start-up.
GOALS = {1: (72.0, 40.0), 2: (80.0, 70.0)}


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("images", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--epochs", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--model")
    options = parser.parse_args()
    begin("accuracy", note=f"{options.rounds} seeds")
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as name:
        folder, test = Path(name), Path(name) / "test"
        test.mkdir()
        write_lists(image_paths(options.images), folder, num_valid=NUM_VALID)
        write_lists(image_paths(options.test), test)
        more = ["--device", options.device, *(["--model", options.model] if options.model else [])]
        for epochs in options.epochs:
            rows = [
                one_seed(folder, "--epochs", str(epochs), "--seed", str(seed), *more)
                for seed in range(options.rounds)
            ]
            show(epochs, rows)


def one_seed(folder: Path, *more: str) -> tuple[float, float]:
    """Return the test accuracy in percent and the seconds of `ptkit train`, start-up included."""
    start = time.perf_counter()
    found = ptkit(folder, "train", "--recipe", "speed", *more)
    seconds = time.perf_counter() - start
    return (
        100 * ptkit(folder, "confmat", found["checkpoint"], "test/train.txt")["accuracy"],
        seconds,
    )


def show(epochs: int, rows: list[tuple[float, float]]) -> None:
    """Report the means over the seeds against the goals."""
    accuracies, seconds = map(list, zip(*rows, strict=True))
    accuracy, limit = GOALS.get(epochs, (None, None))
    what = f"CIFAR-10, `--recipe speed`, {epochs} epoch{'s' * (epochs > 1)}, mean of {len(rows)}"
    mean, mean_s = sum(accuracies) / len(rows), sum(seconds) / len(rows)
    if accuracy is None or limit is None:
        print(f"{what}: {mean:.2f} % after {mean_s:.1f} s")
        return
    report(
        f"{what}: test accuracy",
        [mean],
        [accuracy],
        against=f"{accuracy:g} %",
        goal=at_least(1),
        unit="%",
    )
    report(f"{what}: start-up included", [mean_s], [limit], against=f"{limit:g} s", goal=at_most(1))


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
