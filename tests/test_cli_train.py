import json
import os
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner, Result

from ptkit.cli import app

QUICK = ["--epochs", "1", "--batch-size", "16", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_train_tells_what_it_decided_and_where_the_result_is(here: Path) -> None:
    result = ptkit("train", *QUICK)
    assert result.exit_code == 0
    assert "data: 48 training and 21 validation images, 3 classes, 16×16" in result.stdout
    assert "model: resnet8()" in result.stdout
    assert "epoch 1/1  loss" in result.stdout
    assert "checkpoint: runs/1/ckpt.pkl" in result.stdout


def test_json_is_one_object_and_nothing_else(here: Path) -> None:
    result = ptkit("train", *QUICK, "--json", "--name", "x")
    found = json.loads(result.stdout)
    assert found.keys() == {"run", "checkpoint", "epochs", "best", "seconds", "images_per_s"}
    assert found["best"].keys() == {"epoch", "accuracy", "loss"}
    assert found["run"] == "runs/x"


def test_flags_win_over_set_over_toml(here: Path) -> None:
    Path("mine.toml").write_text(
        "[train]\nepochs = 1\nseed = 5\npatience = 3\n[log]\ntensorboard = false\n"
    )
    result = ptkit("train", "--config", "mine.toml", "--set", "train.seed=6", "--batch-size", "24")
    assert result.exit_code == 0
    config = torch.load("runs/1/ckpt.pkl", weights_only=True)["config"]["train"]
    assert (config["seed"], config["batch_size"], config["patience"]) == (6, 24, 3)


def test_the_run_named_by_resume_goes_on(here: Path) -> None:
    ptkit("train", *QUICK)
    result = ptkit("train", "--resume", "runs/1", "--epochs", "2", "--json")
    assert json.loads(result.stdout)["epochs"] == 2
    assert not Path("runs/2").exists()


def test_own_code_trains_but_is_never_imported_from_a_checkpoint(here: Path) -> None:
    Path("net.py").write_text(
        "import pathlib\nfrom torch import nn\npathlib.Path('imported').touch()\ndef"
        " Net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))\n"
    )
    assert ptkit("train", *QUICK, "--model", "net.py:Net").exit_code == 0
    os.remove("imported")
    refused = ptkit("finetune", "ckpt.pkl", *QUICK)
    assert refused.exit_code == 4
    assert "names user code" in refused.stderr
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--valid", "nope.txt"],
            3,
            "no list nope.txt: run `ptkit split FOLDER` first, or name another with --valid",
        ),
        (["--model", "resnet88"], 2, "no model is called resnet88; did you mean resnet8?"),
        (["--lr", "0"], 2, "optimizer.lr must be above 0"),
        (["--epochs", "0"], 2, "train.epochs must be at least 1"),
        (["--augment", "saef"], 2, "did you mean safe?"),
        (["--set", "train.epoch=1"], 2, "did you mean epochs?"),
        (["--optimizer", "SGD(momentum=0.9, lr=0.1)", "--lr", "0.1"], 2, "given twice"),
        (["--resume", "nowhere"], 2, "cannot read nowhere/config.toml"),
        (["--config", "nope.toml"], 2, "cannot read nope.toml"),
    ],
)
def test_a_mistake_gets_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, here: Path
) -> None:
    result = ptkit("train", *QUICK, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_caret_stands_under_the_mistake(here: Path) -> None:
    result = ptkit("train", *QUICK, "--transform", "RandomCrop(16, pading=2)")
    assert result.stderr.splitlines() == [
        "ptkit: RandomCrop has no argument pading; did you mean padding?",
        "    RandomCrop(16, pading=2)",
        "                   ^",
    ]
