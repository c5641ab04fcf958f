"""How images become square: by their centre, with a border, or squeezed; in training and after."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import make_lists
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.core.config.dependents import _RESIZES
from ptkit.core.config.layers import gather
from ptkit.core.data.transforms.catalogue import BY_NAME
from ptkit.core.data.transforms.completion import (
    complete,
    default_transforms,
    evaluation_geometry,
    fit_of,
)
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.parts.calls import joined, parse_all

QUICK = ["--epochs", "1", "--batch-size", "16", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false"]  # fmt: skip
PAD = ["PadToSquare()", "Resize((16, 16))", "ToTensor()"]

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def pipeline_of(checkpoint: str) -> list[str]:
    calls = torch.load(checkpoint, weights_only=True)["pipeline"]["calls"]
    return [call for call in calls if not call.startswith("Normalize")]


@pytest.mark.parametrize("augment", ["auto", "none", "safe", "natural"])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [32, 224])
def test_evaluation_that_goes_with_a_ready_list_shows_the_whole_image(augment, fit, size):
    ready = default_transforms(augment, size, fit)
    training = complete(ready, size=size, fit=fit)
    *geometry, last = evaluation_of(training)
    assert (tuple(geometry), str(last)) == (evaluation_geometry(size, fit), "ToTensor()")
    assert Pipeline.of(training).size == (size, size)


def test_a_crop_loses_what_is_at_the_edge_and_the_others_do_not():
    # A red stripe at the left edge of a wide picture.
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, :20] = 255, 0, 0
    red = {}
    for fit in ("auto", "crop", "pad", "stretch"):
        calls = (*evaluation_geometry(96, fit), *parse_all(["ToTensor()"]))
        image = Pipeline.of(calls).view(pixels)
        red[fit] = int((image[0] - image[1] > 0.5).sum())
    assert (red["auto"], red["crop"]) == (0, 0)
    # 20 of 300 pixels wide: 6.4 of 96, as high as the picture, or a third of it.
    assert red["stretch"] == 6 * 96
    assert red["pad"] == 6 * 32


def test_below_64_pixels_a_crop_is_asked_for_and_stretching_is_usual():
    assert evaluation_geometry(28) == evaluation_geometry(28, "stretch")
    assert joined(evaluation_geometry(28, "crop")) == "Resize(32), CenterCrop(28)"
    shifted = complete(default_transforms("auto", 28, "crop"), size=28, fit="crop")
    assert joined(shifted) == "Resize(32), RandomCrop(28, padding=3), ToTensor()"


def test_the_fit_of_a_pipeline_is_read_from_its_calls():
    for size in (32, 224):
        for fit in ("crop", "pad", "stretch"):
            geometry = evaluation_geometry(size, fit)
            is_usual = geometry == evaluation_geometry(size)
            assert fit_of([*map(str, geometry), "ToTensor()"], size) == (
                "auto" if is_usual else fit
            )
    assert fit_of(["Resize(232)", "CenterCrop(224)", "ToTensor()"], 224) == "auto"


def test_a_fit_replaces_lists_of_a_recipe_that_resize_and_keeps_others():
    assert gather({"fit": "pad"}, recipe="photos-scratch").data.transforms == ()
    kept = gather({"fit": "pad"}, base={"data": {"transforms": ["RandomRotation(9)"]}})
    assert kept.data.transforms == ("RandomRotation(9)",)
    # Inside another step it changes what is square already.
    inside = "RandomApply([RandomResizedCrop(16)], p=0.5)"
    assert gather({"fit": "pad"}, base={"data": {"transforms": [inside]}}).data.transforms == (
        inside,
    )


def test_lists_that_a_fit_replaces_are_those_that_it_may_not_stand_beside():
    resizing = {spec.name for spec in BY_NAME.values() if spec.resizes}
    taken = {name for name in BY_NAME if _RESIZES.match(f"{name}(16)")}
    assert taken == resizing | {"Normalize"}


def test_the_checkpoint_of_a_padded_run_pads_and_so_does_what_goes_on_from_it(here: Path) -> None:
    trained = ptkit("train", "--fit", "pad", *QUICK)
    assert "augment: RandomCrop(16, padding=2);" in trained.stdout
    assert f"evaluated with: {', '.join(PAD)}" in trained.stdout
    assert pipeline_of("ckpt.pkl") == PAD
    # Nothing is said of it again, and another size is no matter.
    assert ptkit("finetune", "ckpt.pkl", "--size", "20", *QUICK).exit_code == 0
    assert pipeline_of("ckpt.pkl")[:2] == ["PadToSquare()", "Resize((20, 20))"]
    assert tomllib.loads(Path("runs/2/config.toml").read_text())["data"]["fit"] == "pad"
    resumed = ptkit("train", "--resume", "runs/2", "--epochs", "2")
    assert (resumed.exit_code, pipeline_of("runs/2/last.pkl")[0]) == (0, "PadToSquare()")


def test_an_own_list_is_completed_by_the_fit(here: Path) -> None:
    result = ptkit("train", "--fit", "pad", "--transform", "RandomHorizontalFlip()", *QUICK)
    assert (result.exit_code, pipeline_of("ckpt.pkl")) == (0, PAD)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--transform", "Resize((16, 16))"], "--transform (data.transforms) with its own Resize"),
        (
            ["--transform", "RandomResizedCrop(16)"],
            "--transform (data.transforms) with its own RandomResizedCrop",
        ),
        (
            ["--set", "data.eval_transforms=['Resize(16)', 'CenterCrop(16)']"],
            "data.eval_transforms with its own Resize",
        ),
    ],
)
def test_a_fit_beside_a_list_that_resizes_is_an_error(here: Path, flags, message) -> None:
    result = ptkit("train", "--fit", "stretch", *flags, *QUICK)
    assert result.exit_code == 2
    assert f"--fit stretch (data.fit) has no effect beside {message}: leave" in result.stderr
    assert not Path("runs").exists()


def test_viz_transforms_draws_what_training_with_the_fit_would_see(here: Path) -> None:
    Image.fromarray(np.full((10, 30, 3), 200, np.uint8)).save("wide.png")
    result = ptkit("viz-transforms", "wide.png", "--fit", "pad", "--size", "16", "--json")
    assert '"PadToSquare()", "Resize((16, 16))"' in result.stdout
    assert ptkit("viz-transforms", "wide.png", "--fit", "round").exit_code == 2
