"""A run folder as `ptkit train` leaves it, with its lists and images, for the tests of reports."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Markup, quotes, a line feed, Hebrew, and a mark that turns what follows.
HOSTILE = "a\"><script>alert(1)<\\script><img src=x onerror=alert(2)>'&lt;\nשלום\u202egnp.png"
CLASSES = ("<b>ants", 'bees"')
EPOCHS = [
    "epoch,train_loss,train_accuracy,valid_loss,valid_accuracy,lr,seconds",
    "1,0.9,0.5,0.8,0.6,0.1,1.5",
    "2,0.5,0.8,nan,0.7,0.01,1.5",
    "3,0.4,0.9,0.6,0.7,0.001,1.5",
]


def write_run(folder: Path, *, num: int = 12, is_done: bool = True) -> Path:
    """Write runs/1/ of two classes, of which every third answer is wrong, with lists and images in
    data/; the first validation image has a hostile name. Return the run.
    """
    data, run = folder / "data", folder / "runs" / "1"
    data.mkdir(parents=True)
    (run / "kernels").mkdir(parents=True)
    parts = {part: [f"{part}{k}.png" for k in range(num)] for part in ("train", "valid")}
    parts["valid"][0] = HOSTILE
    rng = np.random.default_rng(0)
    for part, names in parts.items():
        for name in names:
            Image.fromarray(rng.integers(0, 256, (24, 16, 3), np.uint8)).save(data / name)
        lines = [f"{json.dumps(name)} {k % 2}\n" for k, name in enumerate(names)]
        (data / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
    (data / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    lists = "".join(f'{part} = "../../data/{part}.txt"\n' for part in parts)
    (run / "config.toml").write_text(f'[data]\n{lists}[model]\ncall = "resnet8()"\n')
    (run / "metrics.csv").write_text("\n".join([*EPOCHS, ""]))
    for name in ("kernels/conv1", "gradcam"):
        Image.new("RGB", (40, 30), (0, 90, 200)).save(run / f"{name}.png")
    if is_done:
        write_answers(run, parts["valid"])
    return run


def write_answers(run: Path, paths: Sequence[str]) -> None:
    """Write answers of which every third is wrong."""
    rows = []
    for k, path in enumerate(paths):
        is_wrong = k % 3 == 0
        words = CLASSES[k % 2], CLASSES[(k + is_wrong) % 2]
        rows.append((path, *words, 0.9, 0.1 if is_wrong else 0.9))
    header = ("path", "true", "predicted", "probability", "probability_of_true")
    write_table(run / "valid_predictions.csv", [header, *rows])


def write_table(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
