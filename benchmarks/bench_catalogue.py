"""Every loss and optimizer on the digits of data/ with default settings: accuracy and seconds.

python benchmarks/bench_catalogue.py [--epochs 8] [--only AdamW Muon]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine

from ptkit.core.config.layers import resolve
from ptkit.core.errors import UsageError
from ptkit.core.machine import prepare_environment

DIGITS = Path(__file__).resolve().parent.parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=[], help="names of losses and optimizers")
    options = parser.parse_args()
    prepare_environment()
    from ptkit.core.training.optimization.optimizers import OPTIMIZERS
    from ptkit.core.training.tasks.losses import RULES

    # With its default margin of 0, a network that puts all images in one place would be perfect.
    losses = {name: {"call": f"{name}()"} for name in RULES} | {
        "MarginRankingLoss": {"call": "MarginRankingLoss(margin=0.5)"},
        "HingeEmbeddingLoss, of pairs": {"call": "HingeEmbeddingLoss()", "pairs": True},
    }
    optimizers = {name: {"call": f"{name}()"} for name in OPTIMIZERS.parts if name != "LBFGS"}
    if options.only:
        losses, optimizers = (
            {k: v for k, v in some.items() if k in options.only} for some in (losses, optimizers)
        )
    with tempfile.TemporaryDirectory(prefix="bench-catalogue-") as folder:
        subprocess.run(
            [sys.executable, "-m", "ptkit", "split", str(DIGITS), "--quiet"], cwd=folder, check=True
        )
        os.chdir(folder)
        print(f"{machine()}; {options.epochs} epochs\n")
        show("loss", losses, options.epochs)
        show("optimizer", optimizers, options.epochs)
        if not options.only or "LBFGS" in options.only:
            # Made for large batches.
            call = "LBFGS(max_iter=4, line_search_fn='strong_wolfe')"
            show("optimizer", {"LBFGS": {"call": call}}, options.epochs, batch_size=719)
        os.chdir("/")


def show(section: str, rows: dict[str, dict], epochs: int, batch_size: int = 64) -> None:
    """Print a table of the accuracy of the last epoch and the best."""
    if not rows:
        return
    print(
        f"| {section} | accuracy after the last epoch | best epoch | seconds |\n|---|---|---|---|"
    )
    for name, setting in rows.items():
        start = time.perf_counter()
        try:
            asked = {"epochs": epochs, "batch_size": batch_size, "device": "cpu"}
            found = train({section: setting, "train": asked})
        except UsageError as error:
            print(f"| {name} | {str(error).splitlines()[0]} | | |", flush=True)
            continue
        print(
            f"| {name} | {found[-1]:.2%} | {max(found):.2%} | {time.perf_counter() - start:.1f} |",
            flush=True,
        )
    print()


def train(settings: dict) -> list[float]:
    """Return the validation accuracy of each epoch."""
    from ptkit.core.training.loop import fit
    from ptkit.core.training.observers import Unwatched
    from ptkit.core.training.setup import prepare

    run = prepare(resolve(settings), Unwatched(), is_resumed=False)
    return [result.valid["accuracy"] for result in fit(run.training)]


if __name__ == "__main__":
    main()
