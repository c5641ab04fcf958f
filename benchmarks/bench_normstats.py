"""`ptkit normstats` against decoding alone (in one process), and against ImageFolder with DataLoader (whole processes).

    python benchmarks/bench_normstats.py IMAGES [--rounds 5] [--limit 50000]

IMAGES is ROOT/CLASS/*.jpg, such as the training part of CIFAR-10.
"""

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import HEADER, in_turns, machine, report, run_process

LOADER = """
import sys, torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

n, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
for images, _ in DataLoader(ImageFolder(sys.argv[1], ToTensor()), batch_size=256, num_workers=2):
    n += images.numel() // 3
    total += images.sum((0, 2, 3)).double()
    squares += (images * images).sum((0, 2, 3)).double()
mean = total / n
print(mean, (squares / n - mean * mean).sqrt())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=50_000)
    options = parser.parse_args()
    paths = sorted(options.images.resolve().glob("*/*.jpg"))
    random.Random(0).shuffle(paths)
    with tempfile.TemporaryDirectory(prefix="bench-normstats-") as name:
        file = Path(name) / "train.txt"
        file.write_text("".join(f"{path} 0\n" for path in paths[: options.limit]))
        print(f"{machine()}; {min(len(paths), options.limit):,} images, {options.rounds} rounds\n\n{HEADER}")
        in_process(file, rounds=options.rounds)
        whole_processes(file, options.images, rounds=options.rounds)


def in_process(file: Path, *, rounds: int) -> None:
    from ptkit.core.data import images, statistics
    from ptkit.core.data.lists import read_list

    listed = read_list(file)
    paths = [listed.image_path(index) for index in range(len(listed))]
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]

    def decode(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda chunk: [images.read(path) for path in chunk], chunks):
                pass

    for threads in (1, 2):
        seconds = in_turns(
            {
                "ours": lambda _, threads=threads: statistics.measure(listed, workers=threads),
                "decode": lambda _, threads=threads: decode(threads),
            },
            rounds=rounds,
        )
        name = f"normstats, {threads} thread{'s' * (threads > 1)}; peer: reading and decoding alone"
        report(name, seconds["ours"], seconds["decode"], goal=1.25)


def whole_processes(file: Path, images: Path, *, rounds: int) -> None:
    python = sys.executable
    seconds = in_turns(
        {
            "ours": lambda _: run_process([python, "-m", "ptkit", "normstats", file]),
            "loader": lambda _: run_process([python, "-c", LOADER, images]),
        },
        rounds=max(rounds // 2, 2),
    )
    name = "normstats, whole process; peer: ImageFolder + DataLoader, 2 workers"
    report(name, seconds["ours"], seconds["loader"], goal=0.25)


if __name__ == "__main__":
    main()
