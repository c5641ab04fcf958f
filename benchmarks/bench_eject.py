"""Does an ejected script train as its run does? Three recipes with three seeds, both ways.

    python benchmarks/bench_eject.py IMAGES PHOTOS [--seeds 3 | --seed 2] [--only NAME] [--docs]

IMAGES: class folders of 32×32 images. PHOTOS: class folders of photographs. The digits are those of
data/. The losses of the first 20 steps and the best validation accuracy are compared. --docs
writes the table into docs/ejecting.md.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import image_paths, machine, write_lists

import ptkit

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ejecting.md"
NUM_STEPS = 20
QUIET = {"tensorboard": False, "pictures": False, "log_layers": False, "link": None}
HEADER = (
    "| recipe | seed | largest difference of 20 losses | accuracy of the run, 95 % interval |"
    " of the script |\n|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Recipe:
    """images: which ones. settings: of the run."""

    name: str
    images: str
    settings: dict[str, Any]


RECIPES = (
    Recipe("digits, the defaults", "digits", {}),
    Recipe(
        "lenet, AdamW, StepLR, balanced loss, own transforms",
        "small",
        {
            "epochs": 3,
            "model": "lenet",
            "optimizer": "AdamW(weight_decay=0.05)",
            "scheduler": "StepLR(step_size=2, gamma=0.3)",
            "loss": "CrossEntropyLoss(weight='balanced')",
            "transforms": [
                "RandomCrop(32, padding=4, padding_mode='reflect')",
                "RandomHorizontalFlip()",
                "ColorJitter(0.2, 0.2)",
            ],
            "ema": 0.98,
        },
    ),
    Recipe(
        "photographs, the defaults (a fitted head, then EfficientNet-Lite0), fewer pixels",
        "photos",
        {"size": 96, "batch_size": 8, "epochs": 2},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--only", default="")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    rows = []
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    for recipe in RECIPES:
        if options.only in recipe.name:
            with own_folder():
                make_lists(recipe.images, options.images.resolve(), options.photos.resolve())
                for seed in seeds:
                    rows.append(row_of(recipe, seed))
                    print(rows[-1], flush=True)
                    if options.docs:
                        write_table(rows)


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="eject-") as name:
        os.chdir(name)
        try:
            yield
        finally:
            os.chdir(before)


def make_lists(images: str, small: Path, photos: Path) -> None:
    """Write the lists of a recipe into the working directory."""
    if images == "small":
        write_lists(image_paths(small, limit=2500), Path(), num_valid=500)
    else:
        folder = {"digits": ROOT / "data", "photos": photos}[images]
        ptkit.split(folder, ratio="8:1:1")


def row_of(recipe: Recipe, seed: int) -> str:
    """Train with a seed both ways, and return the row of the table."""
    # The page is of a CPU, and a GPU tries out before the first step what would count as losses.
    settings = {"device": "cpu", **recipe.settings, "seed": seed}
    script = Path(f"script{seed}.py")
    ptkit.eject(script, **settings)
    ours, result = with_losses(lambda: ptkit.train(**settings, **QUIET))
    theirs, text = with_losses(lambda: output_of(script))
    pairs = list(zip(ours, theirs, strict=True))[:NUM_STEPS]
    difference = max(abs(a - b) / abs(a) for a, b in pairs)
    accuracies = [float(share) for share in re.findall(r"accuracy +([\d.]+)%\n", text)]
    low, high = (100 * bound for bound in result.accuracy_interval)
    return (
        f"| {recipe.name} | {seed} | {difference:.1e} | {result.best['accuracy']:.2%}"
        f" ({low:.1f} to {high:.1f} %) | {max(accuracies):.2f}% |"
    )


def output_of(script: Path) -> str:
    """Run a script and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(script), run_name="__main__")
    return printed.getvalue()


def with_losses(run: Callable[[], Any]) -> tuple[list[float], Any]:
    """Return the losses of the steps while something ran, and what it returned."""
    found: list[float] = []
    backward, fit = torch.Tensor.backward, torch.optim.LBFGS.step
    inside_fit: list[bool] = []

    def kept(loss: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        if not inside_fit:
            found.append(loss.item())
        return backward(loss, *arguments, **keywords)

    def fitted(optimizer: torch.optim.LBFGS, closure: Any) -> Any:
        # The head that is fitted before the first step.
        inside_fit.append(True)
        try:
            return fit(optimizer, closure)
        finally:
            inside_fit.pop()

    torch.Tensor.backward = kept  # type: ignore[method-assign]
    torch.optim.LBFGS.step = fitted  # type: ignore[method-assign]
    try:
        return found, run()
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        torch.optim.LBFGS.step = fit  # type: ignore[method-assign]


def write_table(rows: list[str]) -> None:
    """Put rows into the table of the page; those of other recipes and seeds stay."""
    text = PAGE.read_text(encoding="utf-8")
    old = [line for line in text.splitlines() if re.match(r"\| .* \| \d+ \|", line)]
    by_key = {tuple(line.split("|")[1:3]): line for line in [*old, *rows]}
    names = [f" {recipe.name} " for recipe in RECIPES]
    ordered = sorted(by_key, key=lambda key: (names.index(key[0]), int(key[1])))
    table = "\n".join([HEADER, *(by_key[key] for key in ordered)])
    text = re.sub(r"\| recipe \|.*?(?=\n\n)", lambda _: table, text, flags=re.DOTALL)
    text = re.sub(r"(?<=Measured on ).*?(?=\.\n)", lambda _: machine(), text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
