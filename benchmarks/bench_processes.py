"""Several processes of gloo that train one model on one machine, against one process: the time of a
step, and the accuracy.

    python benchmarks/bench_processes.py [--rounds 3] [--most 4] [--model resnet8]

All have the same cores, divided among them: what they cost, not what more cores would gain. Images
are those of data/.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, arguments, begin, report

BATCH_SIZE = 64
QUICK = [
    "--set",
    "log.tensorboard=false",
    "--set",
    "log.pictures=false",
    "--set",
    "log.layers=false",
]
# What is trained: a net whose steps are short, and one whose gradients take time to exchange.
RUNS = {
    "resnet8": ["--size", "16", "--epochs", "15"],
    "resnet18": ["--size", "32", "--epochs", "2"],
}


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--most", type=int, default=4, help="processes, at most")
    parser.add_argument("--model", choices=list(RUNS), help="one of the models only")
    options = parser.parse_args()
    numbers = [n for n in (1, 2, 4, 8) if n <= options.most]
    begin("processes", note=f"batches of {BATCH_SIZE} in all processes, {options.rounds} seeds")
    with tempfile.TemporaryDirectory(prefix="bench-processes-") as name:
        folder = Path(name)
        run(folder, ["-m", "ptkit", "split", str(ROOT / "data"), "--quiet"], num_ranks=1)
        run(folder, ["-m", "ptkit", "normstats", "train.txt", "--quiet"], num_ranks=1)
        for model in [options.model] if options.model else RUNS:
            compare(folder, model, numbers, num_seeds=options.rounds)


def compare(folder: Path, model: str, numbers: list[int], *, num_seeds: int) -> None:
    """Train with each number of processes, and report those of several against one."""
    # Seed by seed: a slow moment of the machine hits all numbers of processes.
    rows = [
        [trained(folder, model, seed=seed, num_ranks=number) for number in numbers]
        for seed in range(num_seeds)
    ]
    for place, number in enumerate(numbers[1:], start=1):
        what = f"{model} at {RUNS[model][1]} pixels, {number} processes"
        for unit, index in (("ms a step", 0), ("% valid accuracy", 1)):
            ours, alone = ([row[k][index] for row in rows] for k in (place, 0))
            report(what, ours, alone, against="1 process", unit=unit)


def trained(folder: Path, model: str, *, seed: int, num_ranks: int) -> tuple[float, float]:
    """Train; return the milliseconds of a step, the median over the epochs but the first, and the
    best accuracy in percent.
    """
    name = f"{model}-{num_ranks}-{seed}"
    command = [
        "train",
        "--model",
        model,
        *RUNS[model],
        *QUICK,
        "--batch-size",
        str(BATCH_SIZE),
        "--seed",
        str(seed),
    ]
    run(folder, ["-m", "ptkit", *command, "--name", name, "--device", "cpu", "--quiet"],
        num_ranks=num_ranks)  # fmt: skip
    with (folder / "runs" / name / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    rates = [float(epoch["images_per_s"]) for epoch in epochs[1:]]
    best = max(float(epoch["valid_accuracy"]) for epoch in epochs)
    return 1000 * BATCH_SIZE / statistics.median(rates), 100 * best


def run(folder: Path, command: list[str], *, num_ranks: int) -> None:
    """Run Python in a folder, as so many processes that share the cores.

    Raises:
        SystemExit: it failed; its output is the message.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    own = {"OMP_NUM_THREADS": str(max((cores or 1) // num_ranks, 1))}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [sys.executable, *(launcher if num_ranks > 1 else []), *command],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
