"""How photographs become squares: the accuracy of crop, pad and stretch.

    python benchmarks/bench_fits.py PHOTOS [--parts features,finetune] [--fits ...] [--seeds 0,1,2]

PHOTOS is ROOT/CLASS/*.jpg. `features`: how many images a head on frozen features gets right in
five-fold cross-validation, and its loss, also with a grey border and one of ImageNet's mean colour.
`finetune`: three epochs of the recipe `photos` on a half of the images, and the accuracy on the
other half. Each seed has its own folds and halves. Rows are printed as they come, then means.
"""

import argparse
import csv
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from common import image_paths

import ptkit
from ptkit.core.data import images
from ptkit.core.data.transforms.completion import complete, evaluation_geometry
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.models.features import features
from ptkit.core.models.packaged_weights import packaged_weights
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import parse_all
from ptkit.core.training.probe.linear_head import choose_penalty

SIZE, BATCH = 224, 27
SQUEEZED = f"Resize(({SIZE}, {SIZE}))"
# Beside the fits of the setting: the same with another border.
BORDERS = {"pad, grey": "PadToSquare(fill=128)", "pad, mean": "PadToSquare(fill=[124, 116, 104])"}
QUIET = {"device": "cpu", "tensorboard": False, "pictures": False, "log_layers": False}


def frozen(photos: Path, fits: list[str], seeds: list[int]) -> Iterator[tuple[str, float, float]]:
    """Yield the share that a head gets right in cross-validation, and its loss."""
    paths = image_paths(photos)
    classes = sorted({path.parent.name for path in paths})
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    pixels = [images.read(path) for path in paths]
    weights = packaged_weights("efficientnet_lite0")
    model, _ = build_model(weights.call, num_classes=1000, size=SIZE, seed=0)
    model.load_state_dict(weights.state_dict)
    of = features(model.eval(), num_classes=1000)
    for fit in fits:
        calls = evaluation_geometry(SIZE, fit) if fit not in BORDERS else None
        calls = calls or parse_all([BORDERS[fit], SQUEEZED])
        pipeline = Pipeline.of(complete(calls, size=SIZE, mean=weights.mean, std=weights.std))
        views = ([], [])
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                batch = torch.stack([pipeline.view(p) for p in pixels[start : start + BATCH]])
                views[0].append(of(batch))
                views[1].append(of(batch.flip(-1)))
        both = tuple(torch.cat(view).clone() for view in views)
        for seed in seeds:
            found = choose_penalty(both, labels, num_classes=len(classes), seed=seed)
            yield fit, found.num_right / found.num_images, found.loss


def finetuned(
    photos: Path, fits: list[str], seeds: list[int]
) -> Iterator[tuple[str, float, float]]:
    """Yield accuracy and loss on the held-out half after the last epoch: the best one would be
    chosen by them.
    """
    for seed in seeds:
        for fit in (fit for fit in fits if fit not in BORDERS):
            with tempfile.TemporaryDirectory() as folder:
                ptkit.split(photos, ratio="1:1", seed=seed, out=folder)
                run = ptkit.train(
                    recipe="photos",
                    epochs=3,
                    train=f"{folder}/train.txt",
                    valid=f"{folder}/valid.txt",
                    fit=fit,
                    seed=seed,
                    out=f"{folder}/runs",
                    **QUIET,
                ).run
                with (Path(run) / "metrics.csv").open() as file:
                    row = list(csv.DictReader(file))[-1]
            yield fit, float(row["valid_accuracy"]), float(row["valid_loss"])


PARTS = {"features": frozen, "finetune": finetuned}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--parts", default="features,finetune")
    parser.add_argument("--fits", default=";".join(["crop", "pad", "stretch", *BORDERS]))
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    fits, seeds = options.fits.split(";"), list(map(int, options.seeds.split(",")))
    for part in options.parts.split(","):
        rows = defaultdict(list)
        for fit, accuracy, loss in PARTS[part](options.photos, fits, seeds):
            rows[fit].append((accuracy, loss))
            print(f"{part}, {fit}: {accuracy:.2%}, loss {loss:.4f}", flush=True)
        for fit, figures in rows.items():
            accuracy, loss = map(statistics.mean, zip(*figures, strict=True))
            print(f"| {part} | {fit} | {accuracy:.1%} | {loss:.3f} | {len(figures)} seeds |")


if __name__ == "__main__":
    main()
