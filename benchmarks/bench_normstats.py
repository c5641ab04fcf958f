"""`ptkit normstats` against decoding alone, and against ImageFolder with DataLoader.

    python benchmarks/bench_normstats.py IMAGES [PHOTOS] [--limit 50000]

IMAGES is ROOT/CLASS/*.jpg of 32×32, such as the training part of CIFAR-10; PHOTOS the same with
photographs, at their own sizes. Decoding alone, in the same process: ptkit's own reading, with all
its checks of a file, and nothing after it; beside it OpenCV's bare imread, which checks nothing.
ImageFolder is compared in whole processes.
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import (
    arguments,
    at_most,
    begin,
    image_paths,
    in_turns,
    link_tree,
    report,
    run_process,
    write_lists,
)

LOADER = """
import sys, torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

n, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
batch_size = int(sys.argv[2])
images = ImageFolder(sys.argv[1], ToTensor())
for images, _ in DataLoader(images, batch_size=batch_size, num_workers=2):
    n += images.numel() // 3
    total += images.sum((0, 2, 3)).double()
    squares += (images * images).sum((0, 2, 3)).double()
mean = total / n
print(mean, (squares / n - mean * mean).sqrt())
"""


def main() -> None:
    parser = arguments(__doc__, rounds=4)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--limit", type=int, default=50_000)
    options = parser.parse_args()
    begin("normstats", note="files in the page cache")
    measure(
        options.images,
        "images of 32×32",
        limit=options.limit,
        batch_size=256,
        rounds=options.rounds,
    )
    if options.photos:
        # Photos of mixed sizes do not stack: a batch of the DataLoader is one.
        measure(
            options.photos, "photographs", limit=options.limit, batch_size=1, rounds=options.rounds
        )


def measure(images: Path, kind: str, *, limit: int, batch_size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-normstats-") as name:
        paths = image_paths(images, limit=limit)
        file = write_lists(paths, Path(name))
        tree = link_tree(paths, Path(name) / "tree")
        what = f"normstats, {len(paths):,} {kind}"
        in_process(what, file, rounds=rounds)
        whole_processes(what, file, tree, batch_size=batch_size, rounds=max(rounds // 2, 2))


def in_process(what: str, file: Path, *, rounds: int) -> None:
    import cv2

    from ptkit.core.data import images, statistics
    from ptkit.core.data.lists import read_list

    listed = read_list(file)
    paths = [listed.image_path(index) for index in range(len(listed))]
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]

    def decode(read: Callable[[str], object], threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda chunk: [read(path) is None for path in chunk], chunks):
                pass

    for threads in (1, 2):
        runs = {
            "ours": lambda _, threads=threads: statistics.measure(listed, workers=threads),
            "reading": lambda _, threads=threads: decode(images.read, threads),
            "imread": lambda _, threads=threads: decode(
                lambda p: cv2.imread(p, cv2.IMREAD_COLOR_RGB), threads
            ),
        }
        seconds = in_turns(runs, rounds=rounds)
        name = f"{what}, {threads} thread{'s' * (threads > 1)}"
        report(
            name,
            seconds["ours"],
            seconds["reading"],
            against="reading and decoding alone",
            goal=at_most(1.15),
        )
        report(
            name,
            seconds["ours"],
            seconds["imread"],
            against="OpenCV's imread alone, which checks nothing",
            goal=at_most(1.15),
        )


def whole_processes(what: str, file: Path, tree: Path, *, batch_size: int, rounds: int) -> None:
    python = sys.executable
    runs = {
        "ours": lambda _: run_process([python, "-m", "ptkit", "normstats", file]),
        "loader": lambda _: run_process([python, "-c", LOADER, tree, str(batch_size)]),
    }
    seconds = in_turns(runs, rounds=rounds)
    against = "ImageFolder + DataLoader, 2 workers"
    report(
        f"{what}, whole process",
        seconds["ours"],
        seconds["loader"],
        against=against,
        goal=at_most(0.25),
    )


if __name__ == "__main__":
    main()
