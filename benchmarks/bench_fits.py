"""How photographs become squares: the accuracy of crop, pad and stretch, on a half of the images
that was held out.

    python benchmarks/bench_fits.py PHOTOS [--fits crop,pad,stretch] [--seeds 0,1,2]

PHOTOS is ROOT/CLASS/*.jpg, or parts of such. Each seed splits them into halves, another one each.
`probe` fits a head to frozen features, `finetune` makes three epochs of the recipe `photos` after
it. A row a fit and seed; then the mean over the seeds.
"""

import argparse
import csv
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import ptkit

WEIGHTS = "efficientnet_lite0"
QUIET = {"tensorboard": False, "pictures": False, "log_layers": False}


def measured(photos: Path, fit: str, seed: int) -> dict[str, tuple[float, float]]:
    """Return accuracy and loss on the held-out half, of probe and finetune."""
    with tempfile.TemporaryDirectory() as folder:
        ptkit.split(photos, ratio="1:1", seed=seed, out=folder)
        lists = {"train": f"{folder}/train.txt", "valid": f"{folder}/valid.txt"}
        common = {**lists, **QUIET, "fit": fit, "seed": seed, "out": f"{folder}/runs"}
        probe = ptkit.probe(WEIGHTS, **common)
        tuned = ptkit.train(recipe="photos", epochs=3, **common)
        return {"probe": last_row(probe.run), "finetune": last_row(tuned.run)}


def last_row(run: Path) -> tuple[float, float]:
    """Return accuracy and loss of a run's last epoch: the best one would be chosen by them."""
    with (Path(run) / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    return float(row["valid_accuracy"]), float(row["valid_loss"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--fits", default="crop,pad,stretch")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    rows = defaultdict(list)
    for seed in map(int, options.seeds.split(",")):
        for fit in options.fits.split(","):
            for how, (accuracy, loss) in measured(options.photos, fit, seed).items():
                rows[fit, how].append((accuracy, loss))
                print(f"{fit}, {how}, seed {seed}: {accuracy:.2%}, loss {loss:.4f}", flush=True)
    print("\n| fit | probe | loss | finetune | loss |\n|---|---|---|---|---|")
    for fit in options.fits.split(","):
        cells = [
            text
            for how in ("probe", "finetune")
            for accuracy, loss in [map(statistics.mean, zip(*rows[fit, how], strict=True))]
            for text in (f"{accuracy:.1%}", f"{loss:.3f}")
        ]
        print(f"| `{fit}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
