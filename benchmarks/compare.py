"""Two source trees of ptkit against each other, in turns: what a change costs or brings.

    python benchmarks/compare.py OTHER IMAGES [--only ROW ...]

OTHER is another checkout, such as `git worktree add ../before COMMIT` makes. IMAGES is
ROOT/CLASS/*.jpg of 32×32. Rows: startup, split, normstats, and those of bench_train.py, whose
figure is the training rate with everything on. A ratio is this tree over the other.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bench_split import make_tree
from bench_startup import make_images
from bench_train import NUM_VALID, ROWS
from common import arguments, begin, image_paths, in_turns, report, run_process, write_lists
from contest import Program, contest

HERE = Path(__file__).resolve().parent.parent
TRAIN = ("lenet-16", "lenet-128", "resnet18-32")


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("other", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--only", nargs="+", default=("startup", "split", "normstats", *TRAIN))
    options = parser.parse_args()
    trees = {"this": HERE, "other": options.other.resolve()}
    begin("compare", note=f"this tree against {options.other}")
    for name in options.only:
        with tempfile.TemporaryDirectory(
            prefix="bench-compare-", dir=options.images.resolve().parent
        ) as folder:
            if name in ROWS:
                compare_training(name, options.images, Path(folder), trees, options)
            else:
                compare_processes(name, options.images, Path(folder), trees, options)


def compare_processes(name, images, folder, trees, options) -> None:  # type: ignore[no-untyped-def]
    """Time whole processes of both trees."""
    commands: Mapping[str, Callable[[int], list[str]]]
    if name == "startup":
        make_images(folder / "images")
        commands = {
            "`ptkit --help`": lambda _: ["--help"],
            "`ptkit train --help`": lambda _: ["train", "--help"],
            "`ptkit split` on 1,000 files": lambda _: ["split", "images", "--out", "lists"],
        }
    elif name == "split":
        count = make_tree([images], folder / "images")
        # A new folder each time: ext4 creates files slowly after many were deleted.
        commands = {
            f"`ptkit split` on {count:,} files": lambda n: ["split", "images", "--out", f"lists{n}"]
        }
    else:
        paths = image_paths(images, limit=20_000)
        write_lists(paths, folder)
        what = f"`ptkit normstats`, {len(paths):,} images"
        commands = {what: lambda _: ["normstats", "train.txt"]}

    def run(tree: Path, words: list[str]) -> None:
        run_process([sys.executable, "-m", "ptkit", *words], cwd=folder, source=tree)

    for what, words in commands.items():
        seconds = in_turns(
            {
                which: lambda n, tree=tree, which=which, words=words: run(
                    tree, [word + which if word.startswith("lists") else word for word in words(n)]
                )
                for which, tree in trees.items()
            },
            rounds=options.rounds,
        )
        report(what, seconds["this"], seconds["other"], against="the other tree")


def compare_training(name, images, folder, trees, options) -> None:  # type: ignore[no-untyped-def]
    """Let both trees train in turns, an epoch at a time."""
    row = ROWS[name]
    paths = image_paths(images, limit=row.steps * row.batch_size + NUM_VALID)
    file = write_lists(paths, folder, num_valid=NUM_VALID)
    words = (str(file), row.network, str(row.batch_size), str(row.size), "cpu")
    programs = {
        which: Program(
            os.fspath(tree / "benchmarks/sides/ptkit_train.py"),
            words,
            has_terminal=True,
            source=str(tree),
        )
        for which, tree in trees.items()
    }
    figures = contest(programs, rounds=max(options.rounds, row.rounds))
    what = f"training `{row.network}` at {row.size}, batch {row.batch_size}"
    report(what, figures["this"], figures["other"], against="the other tree", unit="images/s")


if __name__ == "__main__":
    main()
