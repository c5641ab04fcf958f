"""`ptkit train` with no flags on data/: accuracy and seconds of whole processes, by seed.

python benchmarks/bench_digits.py [--rounds 3]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, arguments, at_least, at_most, begin, report


def main() -> None:
    options = arguments(__doc__, rounds=3).parse_args()
    begin("digits", note=f"{options.rounds} seeds")
    with tempfile.TemporaryDirectory(prefix="bench-digits-") as name:
        folder = Path(name)
        ptkit(folder, "split", str(ROOT / "data"))
        ptkit(folder, "normstats", "train.txt")
        rows = [one_seed(folder, seed, device=options.device) for seed in range(options.rounds)]
    valid, test, seconds = map(list, zip(*rows, strict=True))
    what = "`ptkit train` on the digits of data/"
    report(
        f"{what}: valid accuracy",
        valid,
        [97.0] * len(valid),
        against="97 %",
        goal=at_least(1),
        unit="%",
    )
    report(f"{what}: test accuracy", test, [97.0] * len(test), against="97 %", unit="%")
    against = "45 s"
    report(
        f"{what}: start-up included",
        seconds,
        [45.0] * len(seconds),
        against=against,
        goal=at_most(1),
        unit="s",
    )


def one_seed(folder: Path, seed: int, *, device: str) -> tuple[float, float, float]:
    """Return validation and test accuracy in percent, and the seconds of training."""
    start = time.perf_counter()
    found = ptkit(folder, "train", "--seed", str(seed), "--device", device)
    seconds = time.perf_counter() - start
    test = ptkit(folder, "confmat", found["checkpoint"], "test.txt")
    return 100 * found["best"]["accuracy"], 100 * test["accuracy"], seconds


def ptkit(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "ptkit", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
