"""`ptkit split` with its duplicates check against split-folders, whole processes.

    python benchmarks/bench_split.py IMAGES [TEST] [--peers PYTHON]

IMAGES and TEST hold class folders, which are merged into one tree of hard links (60,000 files for
CIFAR-10). Wait a minute before running it again: ext4 is slow after many deletions.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import arguments, at_most, begin, in_turns, report, run_process
from contest import Program

SPLIT_FOLDERS = "from splitfolders.cli import run; run()"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("folders", type=Path, nargs="+", metavar="IMAGES")
    parser.add_argument(
        "--scratch", type=Path, help="where to work; beside IMAGES, so that hard links are possible"
    )
    options = parser.parse_args()
    beside = options.scratch or options.folders[0].resolve().parent
    with tempfile.TemporaryDirectory(prefix="bench-split-", dir=beside) as name:
        scratch = Path(name)
        num_files = make_tree(options.folders, scratch / "images")
        begin(
            "split", note=f"{num_files:,} files, the check for duplicates included; whole processes"
        )
        compare(scratch, python=str(options.peers), rounds=options.rounds, num_files=num_files)


def make_tree(folders: Sequence[Path], tree: Path) -> int:
    """Hard-link all images as tree/CLASS/*, return their number."""
    num_files = 0
    for folder in folders:
        for image in sorted(folder.glob("*/*")):
            target = tree / image.parent.name / f"{folder.name}-{image.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(image, target)
            num_files += 1
    return num_files


def compare(scratch: Path, *, python: str, rounds: int, num_files: int) -> None:
    # Every run writes into a new folder, all removed at the end: ext4 creates files slowly
    # (tenfold, measured) for a minute after many were deleted, which would flatter us.
    def ptkit(number: int) -> None:
        run_process(
            [sys.executable, "-m", "ptkit", "split", "images", "--out", f"lists{number}"],
            cwd=scratch,
        )

    def split_folders(number: int, *flags: str) -> None:
        words = [
            *flags,
            "--output",
            f"tree{number}{''.join(flags)}",
            "--ratio",
            ".8",
            ".1",
            ".1",
            "--",
            "images",
        ]
        run_process([python, "-c", SPLIT_FOLDERS, *words], cwd=scratch)

    missing = Program("", (), python=python, module="splitfolders").what_is_missing()
    runs = {"ptkit": ptkit}
    if not missing:
        runs |= {
            "copy": split_folders,
            "symlink": lambda number: split_folders(number, "--symlink"),
        }
    seconds = in_turns(runs, rounds=rounds)
    what = f"split {num_files:,} files"
    for name, against, limit in (("copy", "copying", 0.2), ("symlink", "symlinking", 0.33)):
        other = missing or seconds[name]
        report(
            what, seconds["ptkit"], other, against=f"split-folders, {against}", goal=at_most(limit)
        )


if __name__ == "__main__":
    main()
