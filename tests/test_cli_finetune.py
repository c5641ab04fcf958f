from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.core.models.zoo import build_model

QUICK = ["--epochs", "1", "--batch-size", "16", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def foreign(here: Path) -> Path:
    """Bare weights of a resnet8 for five classes, nested and prefixed as DataParallel scripts leave
    them.
    """
    model, _ = build_model("resnet8()", num_classes=5, size=16, seed=3)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, "foreign.pth")
    return Path("foreign.pth")


def test_a_checkpoint_goes_on_with_its_own_statistics(here: Path) -> None:
    ptkit("train", *QUICK)
    result = ptkit("finetune", "ckpt.pkl", *QUICK)
    assert result.exit_code == 0
    assert "normalised with the statistics of the weights" in result.stdout
    assert "took 56 of the model's 56 tensors" in result.stdout


@pytest.mark.slow
def test_the_model_of_the_weights_replaces_that_of_a_recipe(here: Path) -> None:
    ptkit("train", *QUICK, "--model", "resnet8")
    result = ptkit("finetune", "ckpt.pkl", "--recipe", "speed", *QUICK)
    assert result.exit_code == 0
    assert "model: resnet8(" in result.stdout
    assert "frozen" not in result.stdout
    result = ptkit("finetune", "ckpt.pkl", "--recipe", "speed", "--model", "resnet20", *QUICK)
    assert "model: resnet20(" in result.stdout


def test_trained_weights_do_not_move_at_a_rate_from_scratch(here: Path) -> None:
    ptkit("train", *QUICK, "--model", "resnet8")
    result = ptkit("finetune", "ckpt.pkl", "--recipe", "small-images", *QUICK)
    assert "lr 0.01: a tenth of that of small-images" in " ".join(result.stdout.split())
    # The head moves at all of it.
    assert "group lr=0.1" in result.stdout
    result = ptkit("finetune", "ckpt.pkl", "--recipe", "small-images", *QUICK, "--lr", "0.3")
    assert result.exit_code == 0, result.stderr
    assert "a tenth of that" not in result.stdout


def test_foreign_weights_are_unwrapped_and_the_head_is_new(foreign: Path) -> None:
    result = ptkit("finetune", str(foreign), "--model", "resnet8", *QUICK, "--verbose")
    assert result.exit_code == 0
    assert "took the weights under state_dict" in result.stdout
    assert "removed the prefix module." in result.stdout
    assert "took 54 of the model's 56 tensors; 2 have another shape" in result.stdout
    assert "fc.weight: (5, 64) in the weights, (3, 64) in the model" in result.stdout


def test_the_head_moves_at_ten_times_the_bodys_rate(foreign: Path) -> None:
    result = ptkit("finetune", str(foreign), "--model", "resnet8", *QUICK, "--lr", "0.01")
    assert "lr 0.01" in result.stdout
    assert "group lr=0.1" in result.stdout


def test_frozen_layers_end_as_they_began(foreign: Path) -> None:
    before = torch.load(foreign, weights_only=True)["state_dict"]
    body = ["--group", "conv1: frozen", "--group", "bn1: frozen", "--group", "layer*: frozen"]
    assert ptkit("finetune", str(foreign), "--model", "resnet8", *QUICK, *body).exit_code == 0
    after = torch.load("ckpt.pkl", weights_only=True)["state_dict"]
    moved = [name for name in after if not torch.equal(after[name], before[f"module.{name}"])]
    assert moved == ["fc.weight", "fc.bias"]


def test_other_classes_get_a_new_head_even_where_the_old_one_would_fit(here: Path) -> None:
    ptkit("train", *QUICK)
    Path("classes.txt").write_text("oak\nbeech\nash\n")
    result = ptkit("finetune", "ckpt.pkl", *QUICK)
    assert "2 were left out" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope.pkl"], 4, "no file nope.pkl"),
        (["resnet188"], 4, "did you mean resnet18?"),
        (["foreign.pth"], 2, "holds bare weights: say which model they are for with --model"),
        (["foreign.pth", "--model", "lenet"], 4, "they look like those of resnet8; choose"),
        (["foreign.pth", "--model", "resnet8", "--group", "fcc: frozen"], 2, "did you mean fc?"),
        (["damaged.pkl"], 4, "damaged.pkl"),
        (["foreign.pth", "--resume", "runs/1"], 2, "ptkit train --resume runs/1"),
    ],
)
def test_a_mistake_gets_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, foreign: Path
) -> None:
    Path("damaged.pkl").write_bytes(foreign.read_bytes()[:1000])
    result = ptkit("finetune", *arguments, *QUICK)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_weights_of_a_setting_go_with_a_folder_of_images(here: Path) -> None:
    result = ptkit("finetune", "images", "--set", "model.weights=none.pkl")
    assert result.exit_code == 4
    assert "none.pkl" in result.stderr
