import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.commands.list import CATALOGUES


@pytest.mark.parametrize("kind", CATALOGUES)
def test_every_kind_is_listed_with_its_arguments(kind: str) -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", kind, "--json"]).stdout)
    assert len(rows) >= 10
    assert all(row["call"].startswith(f"{row['name']}(") and row["summary"] for row in rows)
    assert all(argument["allowed_text"] for row in rows for argument in row["arguments"])


def test_arguments_are_pytorchs_own_without_those_the_run_gives() -> None:
    text = CliRunner().invoke(app, ["list", "optimizers"]).stdout
    assert "SGD(momentum=0, dampening=0, weight_decay=0, nesterov=False" in text
    assert "params" not in text


def test_models_say_where_each_comes_from() -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", "models", "--json"]).stdout)
    origins = {row["name"]: row["origin"] for row in rows}
    assert (origins["resnet8"], origins["resnet18"]) == ("ptkit", "torchvision")
    text = CliRunner().invoke(app, ["list", "models"]).stdout
    assert "resnet8(in_channels=3)\n    ptkit: 78,000 parameters" in text
    assert "vgg11(dropout=0.5, in_channels=3)\n    torchvision: 132.9 million parameters" in text


def test_other_parts_have_no_origin() -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", "inits", "--json"]).stdout)
    assert {key for row in rows for key in row} == {"name", "call", "summary", "arguments"}


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["list", "optimisers"])
    assert result.exit_code == 2
    assert "did you mean optimizers?" in result.stderr


def test_plot_draws_the_rate_of_every_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = 'LambdaLR(["0.5 ** epoch", "1"])'
    result = CliRunner().invoke(
        app, ["list", "schedulers", "--plot", call, "--epochs", "4", "--json"]
    )
    found = json.loads(result.stdout)
    assert (found["per"], found["files"]) == ("epoch", ["ptkit-list/schedule.png"])
    # The warm-up covers the first tenth of the four epochs.
    assert found["rates"] == [[0.025, 0.025], [0.5, 1.0], [0.25, 1.0], [0.125, 1.0]]
    with Image.open(tmp_path / "ptkit-list" / "schedule.png") as picture:
        assert picture.size[0] > 500


def test_plot_says_what_it_shows_and_draws_into_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rates.png"
    call = "ReduceLROnPlateau(patience=1)"
    result = CliRunner().invoke(
        app, ["list", "schedulers", "--plot", call, "--epochs", "9", "--out", str(file)]
    )
    assert "for a validation loss that never improves" in result.stdout
    with Image.open(file) as picture:
        assert picture.format == "PNG"
    assert [path.name for path in file.parent.iterdir()] == ["rates.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizers", "--plot", "SGD()"], "--plot draws schedules only"),
        (["schedulers", "--epochs", "3"], "--epochs is for --plot only"),
        (["schedulers", "--out", "x.png"], "--out is for --plot only"),
        (["schedulers", "Step*", "--plot", "StepLR(3)"], "leave Step* out"),
        (["schedulers", "--plot", "SteppLR(3)"], "did you mean StepLR?"),
        (["schedulers", "--plot", "StepLR(3)", "--epochs", "0"], "0"),
        (["schedulers", "--plot", "WarmupCosineLR(delay_epochs=[])"], "cannot be empty"),
        (
            ["schedulers", "--plot", "OneCycleLR(max_lr=[1.0, 2.0], base_momentum=[0.8])"],
            "of one length",
        ),
        (["schedulers", "--plot", "OneCycleLR(total_steps=9000000)"], "too many to draw"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["list", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_plot_leaves_a_file_alone_that_is_no_picture(tmp_path: Path) -> None:
    file = tmp_path / "thesis.png"
    file.write_text("mine")
    result = CliRunner().invoke(
        app, ["list", "schedulers", "--plot", "StepLR(3)", "--out", str(file)]
    )
    assert (result.exit_code, file.read_text()) == (2, "mine")
    assert "is not a PNG" in result.stderr


def test_data_sets_are_listed_with_their_licences() -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", "data", "--json"]).stdout)
    assert {"cifar10", "fashion-mnist", "flowers102", "food101", "pets"} <= {
        r["name"] for r in rows
    }
    assert all(row["licence"] and row["source"] and row["citation"] for row in rows)
    text = CliRunner().invoke(app, ["list", "data"]).stdout
    assert "cifar10\n    photos of 32×32 in 10 classes: 50,000 and 10,000; 170 MB; licence:" in text
    assert "hf:NAME\n" in text
