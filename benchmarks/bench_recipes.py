"""Validation accuracy and time of each recipe: `ptkit train --recipe NAME`, whole processes.

    python benchmarks/bench_recipes.py IMAGES PHOTOS [--only NAME]

IMAGES: CIFAR-10 as class folders of JPEGs. PHOTOS: class folders of photographs. Long recipes are
cut short, as each row says; complete, they take that many times longer. `finetune` has no
pretrained weights here: it trains the checkpoint of the row before on the digits of data/.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, arguments, begin, image_paths, report, write_lists


@dataclass(frozen=True)
class Row:
    """A run of a recipe, on the lists of a folder, with more flags."""

    recipe: str
    lists: str
    words: tuple[str, ...]
    about: str


ROWS = (
    Row("course", "cifar", ("--epochs", "5"), "CIFAR-10, 5 of 30 epochs"),
    Row(
        "small-images",
        "digits",
        ("--epochs", "8", "--size", "16", "--transform", "RandomCrop(16, padding=2)"),
        "the digits at 16 pixels, 8 of 30 epochs",
    ),
    Row("photos-scratch", "photos", ("--epochs", "4"), "photographs of 2 classes, 4 of 60 epochs"),
    Row("speed", "cifar", (), "CIFAR-10, whole"),
    Row(
        "finetune",
        "digits",
        ("--transform", "RandomCrop(32, padding=2)"),
        "from the row before to the digits, whole",
    ),
)


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", choices=[row.recipe for row in ROWS])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-recipes-") as name:
        folder = Path(name)
        for lists, images, share in (("cifar", options.images, 25), ("photos", options.photos, 5)):
            paths = image_paths(images)
            (folder / lists).mkdir()
            write_lists(paths, folder / lists, num_valid=len(paths) // share)
        ptkit(folder, "split", str(ROOT / "data"), "--out", "digits")
        for row in ROWS:
            if options.only in (None, row.recipe):
                begin("recipes", row.recipe, note=row.about)
                measure(row, folder, device=options.device)


def measure(row: Row, folder: Path, *, device: str) -> None:
    command = ["train"]
    if row.recipe == "finetune":
        command = ["finetune", str(folder / "cifar" / "ckpt.pkl"), "--size", "32"]
    start = time.perf_counter()
    found = ptkit(
        folder / row.lists, *command, "--recipe", row.recipe, "--device", device, *row.words
    )
    seconds = time.perf_counter() - start
    lines = (folder / row.lists / "classes.txt").read_text().splitlines()
    chance = 100 / len(lines)
    what = f"`{row.recipe}`: {row.about}"
    report(
        f"{what}: accuracy", [100 * found["best"]["accuracy"]], [chance], against="chance", unit="%"
    )
    report(f"{what}: start-up included", [seconds], [60.0], against="a minute")


def ptkit(folder: Path, *words: str) -> dict:
    command = [sys.executable, "-m", "ptkit", *words, "--json"]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
