"""Plant every fault of `ptkit diagnose`, and train clean recipes: is each found, and by its name?

    python benchmarks/bench_diagnose.py [--seeds 3] [--only NAME] [--real FOLDER...] [--docs]

Small runs on the digits of data/, seconds each. A fault counts as found where its rule is the
headline: the first of the worst findings. Clean runs should have no FAIL and no WARN.

--real trains clean recipes on folders of classes instead, minutes each: those for small images
where its first image has no side above 64 pixels, else those for photographs. --docs writes the
rows into the tables of docs/diagnose.md; rows of other runs stay.
"""

import argparse
import contextlib
import io
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import ptkit
from ptkit.core.diagnosis.findings import Finding
from ptkit.core.diagnosis.rules import open_findings
from ptkit.core.errors import DivergedError
from ptkit.looking.diagnosis import diagnose

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "diagnose.md"
MODELS = ROOT / "benchmarks" / "plants" / "models.py"
QUICK = {"device": "cpu", "pictures": False, "tensorboard": False, "epochs": 6}
SCRATCH = {"lr": 0.02, "model": f"{MODELS}:Plain()"}

Change = Callable[[int], None]


@dataclass(frozen=True)
class Plant:
    """rule: what must be the headline; "" for a clean run. settings: of the run. prepare: changes
    the lists in the working directory, by a seed.
    """

    name: str
    rule: str
    settings: dict[str, object]
    prepare: Change = lambda seed: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--real", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    if options.real:
        rows = [row for folder in options.real for row in real_rows(folder, options.only)]
        if options.docs:
            write_rows("real", rows)
        return
    rows, faults = [], 0
    for plant in [*PLANTS, *CLEAN]:
        if options.only in plant.name:
            headlines = [headline(plant, seed) for seed in range(options.seeds)]
            wanted = plant.rule or "nothing"
            right = sum(found.partition(" ")[2] == plant.rule for found in headlines)
            faults += right < options.seeds
            told = ", ".join(dict.fromkeys(found or "nothing" for found in headlines))
            rows.append(f"| {plant.name} | {wanted} | {right} of {options.seeds} | {told} |")
            print(rows[-1], flush=True)
    print(f"diagnose: {len(rows) - faults} of {len(rows)} rows right in all seeds")
    if options.docs:
        write_rows("plants", rows, order=[plant.name for plant in [*PLANTS, *CLEAN]])


def write_rows(table: str, rows: list[str], order: Sequence[str] = ()) -> None:
    """Put rows into a table of the page, in place of those with the same first cell. order: of the
    first cells; those that are not in it come last.
    """
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {table} -->\n.*?\n.*?\n)(.*?)(<!-- end -->)", re.DOTALL)
    found = marked.search(text)
    assert found, f"{PAGE} has no table {table}"
    known = {row.split(" | ")[0]: row for row in [*found[2].splitlines(), *rows]}
    places = {f"| {name}": place for place, name in enumerate(order)}
    ordered = sorted(known, key=lambda cell: places.get(cell, len(places)))
    body = "".join(f"{known[cell]}\n" for cell in ordered)
    PAGE.write_text(text.replace(found[0], found[1] + body + found[3]), encoding="utf-8")


def real_rows(folder: Path, only: str) -> Iterator[str]:
    """Train the clean recipes for the images of a folder; yield a row of each."""
    folder = folder.absolute()
    first = min(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".png"))
    with Image.open(first) as image:
        recipes = REAL_SMALL if max(image.size) <= 64 else REAL_PHOTOS
    for recipe in recipes:
        if only not in recipe.name:
            continue
        begin = time.perf_counter()
        accuracy, faults = trained(recipe, seed=0, folder=folder)
        seconds = time.perf_counter() - begin
        told = "; ".join(f"{f.verdict} {f.rule}: {f.judgement.text}" for f in faults) or "nothing"
        row = f"| {folder.name}: {recipe.name} | {accuracy:.1%} | {told} |"
        print(f"{row} {seconds:.0f} s", flush=True)
        yield row


def headline(plant: Plant, seed: int) -> str:
    """Return verdict and rule of the first finding in a planted run that is a FAIL or a WARN, or an
    empty text; of a clean run those of all.
    """
    _, faults = trained(plant, seed)
    if plant.rule == "" and len(faults) > 1:
        return ", ".join(f"{f.verdict} {f.rule}" for f in faults)
    return f"{faults[0].verdict} {faults[0].rule}" if faults else ""


def trained(plant: Plant, seed: int, folder: Path | None = None) -> tuple[float, list[Finding]]:
    """Train a run in a directory of its own, on the digits or the images of a folder; return its
    best accuracy (NaN of one that ended before) and what is a FAIL or a WARN, the worst first.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="plant-") as name:
        os.chdir(name)
        try:
            if folder is None:
                shutil.copytree(ROOT / "data", "data")
            # Of a folder the usual parts, or those that it has.
            ratio = "6:3:1" if folder is None else None
            ptkit.split(folder or "data", ratio=ratio, seed=seed)
            plant.prepare(seed)
            with contextlib.suppress(DivergedError), contextlib.redirect_stderr(io.StringIO()):
                ptkit.train(**{**QUICK, "seed": seed, **plant.settings}, name="run")
            run, found = diagnose(Path("runs/run"))
        finally:
            os.chdir(before)
    accuracy = max(run.metrics.get("valid_accuracy", [math.nan]))
    return accuracy, [f for f in open_findings(found) if f.verdict in ("FAIL", "WARN")]


def rows_of(file: str) -> list[list[str]]:
    return [line.rsplit(" ", 1) for line in Path(file).read_text().splitlines()]


def write(file: str, rows: list[list[str]]) -> None:
    Path(file).write_text("".join(f"{path} {label}\n" for path, label in rows))


def shuffle_labels(seed: int) -> None:
    for file in ("train.txt", "valid.txt"):
        rows = rows_of(file)
        labels = [label for _, label in rows]
        random.Random(seed).shuffle(labels)
        write(file, [[path, label] for (path, _), label in zip(rows, labels, strict=True)])


def flip_labels(share: float) -> Change:
    """Return what gives so many images another class."""

    def flip(seed: int) -> None:
        draws = random.Random(seed)
        for file in ("train.txt", "valid.txt"):
            write(
                file,
                [
                    [
                        p,
                        str((int(k) + draws.randrange(1, 10)) % 10)
                        if draws.random() < share
                        else k,
                    ]
                    for p, k in rows_of(file)
                ],
            )

    return flip


def few_images(count: int) -> Change:
    return lambda seed: write("train.txt", random.Random(seed).sample(rows_of("train.txt"), count))


def copy_valid(seed: int) -> None:
    """Put three in ten validation images into training too."""
    rows = rows_of("valid.txt")
    copied = random.Random(seed).sample(rows, len(rows) * 3 // 10)
    write("train.txt", rows_of("train.txt") + copied)


def one_of_many(seed: int) -> None:
    """Leave one image of each class but one in training."""
    seen: set[str] = set()
    kept = []
    for path, label in rows_of("train.txt"):
        if label == "0" or label not in seen:
            kept.append([path, label])
        seen.add(label)
    write("train.txt", kept)


def one_in_ten(seed: int) -> None:
    """Leave a tenth of the images of one class, in both lists."""
    for file in ("train.txt", "valid.txt"):
        rows = rows_of(file)
        own = [row for row in rows if row[1] == "3"]
        write(file, [row for row in rows if row[1] != "3"] + own[: max(len(own) // 10, 1)])


END = ("ToTensor()",)


def narrow(share: float) -> dict[str, object]:
    """Return the settings of an fp16 run that skips about this share of its steps."""
    return {"model": f"{MODELS}:Narrow(share={share})", "precision": "fp16", "lr": 0.05}


PLANTS = (
    Plant("rate 1,000", "non-finite", {**SCRATCH, "lr": 1000.0, "scheduler": "none", "warmup": 0}),
    Plant("head weights × 50", "initial loss", {**SCRATCH, "init": ("fc=normal_(0, 3)",)}),
    Plant("Linear from 0.01", "initial signal", {"model": f"{MODELS}:TinyWeights()", "lr": 0.02}),
    Plant("not divided by 255", "input",
          {**SCRATCH, "transforms": (*END, f'Lambda("{MODELS}:raw")', "Normalize([0.3], [0.3])"),
           "model": "resnet8()"}),
    Plant("normalised twice", "input",
          {**SCRATCH,
           "transforms": (*END, "Normalize([0.3], [0.3])", f'Lambda("{MODELS}:twice")')}),
    Plant("softmax layer", "softmax before the loss", {"model": f"{MODELS}:Softmax()", "lr": 0.02}),
    Plant("labels shuffled", "not learning", {}, shuffle_labels),
    Plant("rate × 100", "lr too high", {"lr": 10.0}),
    Plant("AdamW, rate × 100", "lr too high", {"optimizer": "AdamW()", "lr": 3.0}),
    Plant("resnet8, rate × 300", "lr too high", {"model": "resnet8()", "lr": 30.0}),
    Plant("rate / 1,000", "lr too low", {**SCRATCH, "lr": 0.00002}),
    Plant("AdamW, rate / 1,000", "lr too low",
          {**SCRATCH, "optimizer": "AdamW()", "lr": 0.000001}),
    Plant("eight sigmoid layers", "vanishing gradient",
          {"model": f"{MODELS}:Sigmoids()", "lr": 0.01}),
    Plant("one image in 200 × 50", "gradient spikes",
          {**SCRATCH, "transforms": (*END, "Normalize([0.3], [0.3])", f"{MODELS}:Spiky()"),
           "eval_transforms": (*END, "Normalize([0.3], [0.3])"), "batch_size": 16, "lr": 0.005,
           "epochs": 10}),
    Plant("a layer at rate / 1,000", "layer imbalance",
          {"groups": ("layer2.0.conv2: lr=0.001x",)}),
    Plant("biases of -10", "dead units", {"model": f"{MODELS}:Dead()", "lr": 0.02}),
    Plant("layers without a gradient", "not updated",
          {"model": f"{MODELS}:Forgotten()", "lr": 0.02}),
    Plant("body frozen at random", "not updated", {"groups": ("*: frozen", "fc: lr=1x")}),
    Plant("frozen norms in training mode", "frozen statistics",
          {"model": f"{MODELS}:Restless()", "lr": 0.05, "groups": ("body.*.1.*: frozen",)}),
    Plant("fp16, a step in six skipped", "non-finite", narrow(0.16)),
    Plant("fp16, all steps skipped", "non-finite", narrow(1)),
    Plant("weight decay 1", "weight decay",
          {**SCRATCH, "optimizer": "SGD(momentum=0.9, weight_decay=1)",
           "epochs": 12}),
    Plant("40 images", "overfitting that costs",
          {**SCRATCH, "epochs": 60, "augment": "none", "loss": "CrossEntropyLoss()",
           "batch_size": 20, "optimizer": "SGD(momentum=0.9)"}, few_images(40)),
    Plant("outputs × 5", "overconfident",
          {"model": f"{MODELS}:Boastful()", "lr": 0.02, "loss": "CrossEntropyLoss()"}),
    Plant("30 % of validation copied", "too good", {"allow_leak": True}, copy_valid),
    Plant("output bias + 3", "output bias", {"model": f"{MODELS}:Biased()", "lr": 0.02}),
    Plant("1 : 110", "collapse", {"loss": "CrossEntropyLoss()", "epochs": 20}, one_of_many),
    Plant("5 % of labels wrong", "label noise", {"epochs": 10}, flip_labels(0.05)),
    Plant("25 % of labels wrong", "label noise", {"epochs": 10}, flip_labels(0.25)),
    Plant("20 ms an image", "data-bound",
          {"transforms": (f'Lambda("{MODELS}:slow")', *END), "eval_transforms": END, "epochs": 6,
           "batch_size": 16, "cache": "off", "workers": 1}, few_images(400)),
)  # fmt: skip
CLEAN = (
    Plant("clean: defaults", "", {"epochs": 15}),
    Plant("clean: AdamW", "", {"optimizer": "AdamW()", "epochs": 15}),
    Plant("clean: lenet at 32", "", {"model": "lenet()", "size": 32, "epochs": 20}),
    Plant("clean: no norms", "", {**SCRATCH, "epochs": 10}),
    Plant("clean: one cycle", "", {"scheduler": "OneCycleLR(max_lr=0.2)", "epochs": 12}),
    Plant("clean: a class of a tenth", "", {"epochs": 15}, one_in_ten),
    Plant("clean: margin loss", "", {"loss": "MultiMarginLoss()", "epochs": 15}),
    Plant("clean: frozen body, small batches", "",
          {"groups": ("conv1: frozen",), "batch_size": 16, "epochs": 10}),
    Plant("clean: frozen norms", "",
          {"model": f"{MODELS}:Calm()", "lr": 0.05, "groups": ("body.*.1.*: frozen",),
           "epochs": 15}),
)  # fmt: skip
REAL_SMALL = (
    Plant("lenet, 3 epochs", "", {"model": "lenet()", "epochs": 3}),
    Plant("lenet, AdamW, 4 epochs", "",
          {"model": "lenet()", "optimizer": "AdamW()", "epochs": 4}),
    Plant("resnet8, 2 epochs", "", {"model": "resnet8()", "epochs": 2}),
    Plant("resnet8 at 16 pixels, one cycle, 4 epochs", "",
          {"model": "resnet8()", "size": 16, "scheduler": "OneCycleLR(max_lr=0.4)", "epochs": 4}),
    Plant("resnet8, rate 0.01 in small batches, 2 epochs", "",
          {"model": "resnet8()", "lr": 0.01, "batch_size": 32, "epochs": 2}),
)  # fmt: skip
REAL_PHOTOS = (
    Plant("the recipe for photographs, 3 epochs", "", {"epochs": 3}),
    Plant("the recipe for photographs at 128 pixels, rate / 3, 4 epochs", "",
          {"recipe": "photos", "size": 128, "lr": 0.00003, "epochs": 4}),
    Plant("resnet8 at 64 pixels from scratch, 4 epochs", "",
          {"recipe": "photos-scratch", "model": "resnet8()", "size": 64, "epochs": 4}),
    Plant("resnet18 at 96 pixels from scratch, AdamW, 4 epochs", "",
          {"recipe": "photos-scratch", "model": "resnet18()", "size": 96, "optimizer": "AdamW()",
           "epochs": 4}),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
