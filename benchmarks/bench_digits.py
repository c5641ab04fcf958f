"""`ptkit train` with no flags on data/: validation and test accuracy and seconds of whole processes, three seeds.

python benchmarks/bench_digits.py [--seeds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine

DIGITS = Path(__file__).resolve().parent.parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-digits-") as name:
        folder = Path(name)
        ptkit(folder, "split", str(DIGITS))
        ptkit(folder, "normstats", "train.txt")
        print(
            f"{machine()}\n\n| seed | valid accuracy | test accuracy | seconds, start-up included |\n|---|---|---|---|"
        )
        rows = [one_seed(folder, seed) for seed in range(options.seeds)]
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"| mean | {means[0]:.2%} | {means[1]:.2%} | {means[2]:.1f} |")
    print(f"\ngoal: above 97 % within 45 s: {'yes' if means[0] > 0.97 and means[2] < 45 else 'NO'}")


def one_seed(folder: Path, seed: int) -> tuple[float, float, float]:
    start = time.perf_counter()
    found = ptkit(folder, "train", "--seed", str(seed))
    seconds = time.perf_counter() - start
    test = ptkit(folder, "confmat", found["checkpoint"], "test.txt")
    row = found["best"]["accuracy"], test["accuracy"], seconds
    print(f"| {seed} | {row[0]:.2%} | {row[1]:.2%} | {row[2]:.1f} |", flush=True)
    return row


def ptkit(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "ptkit", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
