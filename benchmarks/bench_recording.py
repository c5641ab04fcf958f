"""What log.layers costs: the seconds of training with and without it, in turns.

    python benchmarks/bench_recording.py ROW IMAGES [--device cpu] [--rounds N]

ROW: lenet, whole epochs of 50,000 images with validation and all that is written of them; or
resnet18 (torchvision's large stem), a twentieth of such an epoch at a time. IMAGES is
ROOT/CLASS/*.jpg of 32×32. Both runs train in one process and record all else that `ptkit train`
does.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from common import Goal, arguments, at_most, begin, image_paths, report, write_lists
from contest import Program, contest

NUM_VALID, BATCH_SIZE = 1000, 128
WITHOUT = "log.layers=false"


@dataclass(frozen=True)
class Row:
    """steps: of a piece of an epoch; 0 for whole epochs."""

    goal: Goal
    steps: int
    rounds: int


ROWS = {
    "lenet": Row(at_most(1.02), steps=0, rounds=8),
    "resnet18": Row(at_most(1.01), steps=20, rounds=12),
}


def main() -> None:
    parser = arguments(__doc__, rounds=0)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    row, paths = ROWS[options.row], image_paths(options.images)
    begin("recording", options.row, note=f"batches of {BATCH_SIZE}, {options.device}")
    with tempfile.TemporaryDirectory() as name:
        file = write_lists(paths, Path(name), num_valid=NUM_VALID)
        words = (options.row, str(BATCH_SIZE), "32", options.device, str(row.steps))
        programs = {
            word: Program("recording.py", (str(file), *words), word=word) for word in ("on", "off")
        }
        figures = contest(programs, rounds=options.rounds or row.rounds)
    what = f"{row.steps} steps" if row.steps else "an epoch"
    report(
        f"`{options.row}` at 32, {what}",
        figures["on"],
        figures["off"],
        against=WITHOUT,
        goal=row.goal,
    )


if __name__ == "__main__":
    main()
