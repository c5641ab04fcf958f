"""Every loss trains a real network on real images: some of five digits, a tiny ResNet, one recipe
for all.
"""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config.layers import resolve
from ptkit.core.training.loop import fit
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.losses import RULES

pytestmark = pytest.mark.usefixtures("blank_pictures")

DIGITS = Path(__file__).parent.parent / "data"
RECIPE = {
    "data": {"augment": "none"},
    "optimizer": {"call": "AdamW(weight_decay=0.05)", "lr": 0.005},
    "train": {"epochs": 5, "batch_size": 32},
}
CALLS = {name: f"{name}()" for name in RULES} | {
    # At its default margin of 0 every network that gives all images one place is right.
    "MarginRankingLoss": "MarginRankingLoss(margin=0.5)",
    # At its default margin of 0 two classes must stand at right angles at least, which takes
    # longer.
    "CosineEmbeddingLoss": "CosineEmbeddingLoss(margin=0.2)",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for digit in "01234":
        shutil.copytree(DIGITS / digit, folder / "data" / digit)
    found = CliRunner().invoke(
        app, ["split", str(folder / "data"), "--ratio", "5:1:4", "--out", str(folder)]
    )
    assert found.exit_code == 0
    return folder


def accuracy_of(digits: Path, loss: dict[str, object]) -> float:
    lists = {"data": {"train": str(digits / "train.txt"), "valid": str(digits / "valid.txt")}}
    run = prepare(resolve(RECIPE, lists, {"loss": loss}), Unwatched(), is_resumed=False)
    *_, last = fit(run.training)
    return last.valid["accuracy"]


# One each of the main ways in which outputs are read; the others in the slow set.
QUICK = ("CrossEntropyLoss",)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_loss_learns_the_digits(name: str, digits: Path) -> None:
    assert accuracy_of(digits, {"call": CALLS[name]}) > 0.9


@pytest.mark.slow
def test_a_hinge_on_distances_learns_the_digits(digits: Path) -> None:
    assert accuracy_of(digits, {"call": "HingeEmbeddingLoss()", "pairs": True}) > 0.9
