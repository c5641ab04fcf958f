"""Training with logging, recording and progress, against the model alone and other trainers.

    python benchmarks/bench_train.py ROW IMAGES [--device cpu] [--peers PYTHON]

ROW: lenet-16, lenet-128, lenet-128-epoch (a long epoch, with what is written after it),
lenet-128-records and resnet18-32-records (recorded and saved, against the same run with nothing
written), resnet18-32 (torchvision's large stem, batch 128), resnet18-small-32 (3×3 stem, batch 64),
resnet18-224 (batch 16), resnet18-224-gpu (the same decoded on the GPU), or yolo11n-cls-224
(Ultralytics alone). IMAGES is ROOT/CLASS/*.jpg: 32×32,
and photographs for the rows of 224. Every program is one process; after an epoch that does not
count, each round has one epoch of each.

"Model alone" makes as many steps in ptkit's own process, with its memory allocator and threads, on
batches in memory: plain PyTorch, channels last, fused SGD, the same loss; "plain PyTorch" does so
in a process without that allocator and those threads. ptkit runs as `ptkit train` does, with a
terminal as standard error; its figure is images_per_s of metrics.csv, the others are timed around
an epoch.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common import Goal, arguments, at_least, begin, image_paths, link_tree, report, write_lists
from contest import Program, contest

ALONE = at_least(0.97)


@dataclass(frozen=True)
class Row:
    """steps: per epoch. is_recorded: ptkit's time includes what is written after an epoch. records:
    the goal of a run against the same run with nothing written, which is measured alone then.

    alone, plain, course, lightning, timm: goals; None where that one is not measured. decode:
    data.decode.
    """

    network: str
    size: int
    batch_size: int
    steps: int
    rounds: int
    alone: Goal | None = ALONE
    plain: Goal | None = None
    course: Goal | None = None
    lightning: Goal | None = None
    timm: Goal | None = None
    is_recorded: bool = False
    records: Goal | None = None
    decode: str = "cpu"


ROWS = {
    "lenet-16": Row("lenet", 32, 16, steps=300, rounds=25),
    "lenet-128": Row(
        "lenet",
        32,
        128,
        steps=60,
        rounds=8,
        plain=ALONE,
        course=at_least(5.5),
        lightning=at_least(5.5),
    ),
    "lenet-128-epoch": Row("lenet", 32, 128, steps=390, rounds=6, is_recorded=True),
    "lenet-128-records": Row("lenet", 32, 128, steps=390, rounds=5, records=ALONE),
    # On a GPU an epoch of a second.
    "resnet18-32-records": Row("resnet18", 32, 128, steps=5, rounds=5, records=ALONE),
    "resnet18-32": Row(
        "resnet18", 32, 128, steps=8, rounds=6, lightning=at_least(1.2), timm=at_least(1.4)
    ),
    "resnet18-small-32": Row("resnet18-small", 32, 64, steps=2, rounds=10),
    "resnet18-224": Row(
        "resnet18", 224, 16, steps=5, rounds=3, lightning=at_least(1.15), timm=at_least(1.15)
    ),
    # Wide maps: each is more memory than the C library keeps by itself.
    "mobilenet_v2-224": Row("mobilenet_v2", 224, 32, steps=4, rounds=4, plain=ALONE),
    # On a GPU only: nvJPEG.
    "resnet18-224-gpu": Row(
        "resnet18", 224, 16, steps=5, rounds=3, alone=at_least(0.9), decode="gpu"
    ),
    # Longer epochs: its workers read up to eight batches ahead while they wait for their turn.
    "yolo11n-cls-224": Row("yolo11n-cls", 224, 16, steps=12, rounds=4),
}
NUM_VALID = 32
# So many times longer are the epochs there, if there are images enough.
ON_A_GPU = 20


def main() -> None:
    parser = arguments(__doc__, rounds=0)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    row = ROWS[options.row]
    steps = row.steps * (ON_A_GPU if options.device == "cuda" else 1)
    paths = image_paths(options.images, limit=steps * row.batch_size + NUM_VALID)
    begin(
        "train",
        options.row,
        note=f"{row.network} at {row.size}, batch {row.batch_size}, {options.device}",
    )
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        folder, rounds = Path(name), options.rounds or row.rounds
        what = f"training `{row.network}` at {row.size}, batch {row.batch_size}"
        what += ", data.decode=gpu" if row.decode == "gpu" else ""
        if row.network == "yolo11n-cls":
            ultralytics(
                paths, folder, row, rounds=rounds, device=options.device, python=options.peers
            )
        elif row.records:
            records(what, paths, folder, row, rounds=rounds, device=options.device)
        else:
            measure(
                what, paths, folder, row, rounds=rounds, device=options.device, python=options.peers
            )


def measure(
    what: str,
    paths: list[Path],
    folder: Path,
    row: Row,
    *,
    rounds: int,
    device: str,
    python: str | Path,
) -> None:
    file = write_lists(paths, folder, num_valid=NUM_VALID)
    tree = link_tree(paths[:-NUM_VALID], folder / "tree")
    words = (row.network, str(row.batch_size), str(row.size), device)
    steps = str((len(paths) - NUM_VALID) // row.batch_size)
    if row.is_recorded:
        what = f"{what}, {steps} steps an epoch, with what is written after it"
    ours = Program(
        "ptkit_train.py",
        (str(file), *words, row.decode),
        word="recorded" if row.is_recorded else "round",
        has_terminal=True,
    )
    others = {
        "model alone": (
            row.alone,
            Program("ptkit_train.py", ours.arguments, word="alone", has_terminal=True),
        ),
        "model alone, plain PyTorch": (row.plain, Program("plain_model.py", (steps, *words))),
        "a plain loop, as in the course": (
            row.course,
            Program("course_loop.py", (str(tree), *words)),
        ),
        "Lightning, 2 workers": (row.lightning, _peer("lightning", python, tree, words)),
        "timm, 2 workers": (row.timm, _peer("timm", python, tree, words)),
    }
    asked = {name: (goal, program) for name, (goal, program) in others.items() if goal}
    programs = {"ptkit": ours} | {name: program for name, (_, program) in asked.items()}
    figures = contest(programs, rounds=rounds)
    for name, (goal, _) in asked.items():
        report(what, figures["ptkit"], figures[name], against=name, goal=goal, unit="images/s")


def records(
    what: str, paths: list[Path], folder: Path, row: Row, *, rounds: int, device: str
) -> None:
    """Report a run that records and saves against the same run that writes nothing."""
    file, nothing = write_lists(paths, folder, num_valid=NUM_VALID), "the same run, nothing written"
    arguments = (str(file), row.network, str(row.batch_size), str(row.size), device)
    words = {"ptkit": "recorded", nothing: "unwritten"}
    programs = {name: Program("records.py", arguments, word=word) for name, word in words.items()}
    figures = contest(programs, rounds=rounds)
    steps = (len(paths) - NUM_VALID) // row.batch_size
    report(
        f"{what}, {steps} steps an epoch, recorded and saved",
        figures["ptkit"],
        figures[nothing],
        against=nothing,
        goal=row.records,
        unit="images/s",
    )


def ultralytics(
    paths: list[Path], folder: Path, row: Row, *, rounds: int, device: str, python: str | Path
) -> None:
    """Report Ultralytics' trainer against its own model alone, to compare ptkit's share with."""
    tree = link_tree(paths[:-NUM_VALID], folder / "train").parent
    link_tree(paths[-NUM_VALID:], folder / "val")
    words = (str(tree), str(row.batch_size), str(row.size), device)
    programs = {
        word: Program("ultralytics_loop.py", words, str(python), word, module="ultralytics")
        for word in ("round", "alone")
    }
    figures = contest(programs, rounds=rounds)
    what = f"Ultralytics (not ptkit) training `yolo11n-cls` at {row.size}, batch {row.batch_size}"
    report(what, figures["round"], figures["alone"], against="its model alone", unit="images/s")


def _peer(name: str, python: str | Path, tree: Path, words: tuple[str, ...]) -> Program:
    return Program(f"{name}_loop.py", (str(tree), *words), os.fspath(python), module=name)


if __name__ == "__main__":
    main()
