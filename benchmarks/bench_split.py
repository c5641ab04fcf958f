"""`ptkit split` with its duplicates check against split-folders, whole processes.

    python benchmarks/bench_split.py CIFAR [--peer-python PYTHON]

CIFAR holds class folders, or train/CLASS and test/CLASS, which are put together as one tree of hard links (60,000
files for CIFAR-10). split-folders must be installed here or in the environment of --peer-python.
Wait a minute before running it again: ext4 is slow after many deletions.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import HEADER, in_turns, machine, report, run_process

SPLIT_FOLDERS = "from splitfolders.cli import run; run()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument(
        "--scratch", type=Path, help="where to work; by default beside FOLDER, so that links are possible"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="bench-split-", dir=options.scratch or options.folder.resolve().parent
    ) as name:
        scratch = Path(name)
        num_files = make_tree(options.folder, scratch / "images")
        print(f"{machine()}; {num_files:,} files, {options.rounds} rounds\n\n{HEADER}")
        compare(scratch, peer_python=options.peer_python, rounds=options.rounds, num_files=num_files)


def make_tree(folder: Path, tree: Path) -> int:
    """Hard-link all images as tree/CLASS/*, return their number."""
    num_files = 0
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()] or [folder]
    for part in parts:
        for image in sorted(part.glob("*/*")):
            target = tree / image.parent.name / f"{part.name}-{image.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(image, target)
            num_files += 1
    return num_files


def compare(scratch: Path, *, peer_python: str, rounds: int, num_files: int) -> None:
    # Every run writes into a new folder, all removed at the end: ext4 creates files slowly (tenfold, measured) for
    # a minute after many were deleted, which would flatter us.
    def ptkit(number: int) -> None:
        run_process([sys.executable, "-m", "ptkit", "split", "images", "--out", f"lists{number}"], cwd=scratch)

    def split_folders(number: int, *flags: str) -> None:
        output = f"tree{number}{''.join(flags)}"
        command = [
            peer_python,
            "-c",
            SPLIT_FOLDERS,
            *flags,
            "--output",
            output,
            "--ratio",
            ".8",
            ".1",
            ".1",
            "--",
            "images",
        ]
        run_process(command, cwd=scratch)

    seconds = in_turns(
        {"ptkit": ptkit, "copy": split_folders, "symlink": lambda number: split_folders(number, "--symlink")},
        rounds=rounds,
    )
    report(f"split {num_files:,} files, split-folders copying", seconds["ptkit"], seconds["copy"], goal=0.2)
    report(f"split {num_files:,} files, split-folders symlinking", seconds["ptkit"], seconds["symlink"], goal=0.33)


if __name__ == "__main__":
    main()
