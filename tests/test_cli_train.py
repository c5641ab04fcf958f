import csv
import json
import os
import re
import shutil
import time
from pathlib import Path

import matplotlib
import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.commands.output import process_began
from ptkit.core.shares import interval, share_text
from ptkit.plots.fonts import missing_font_note

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
    assert found.keys() == {
        *("run", "checkpoint", "epochs", "best", "majority", "verdicts"),
        *("seconds", "images_per_s", "odd"),
    }
    assert found["best"].keys() == {"epoch", "accuracy", "loss", "accuracy_interval"}
    assert found["run"] == "runs/x"


def test_the_accuracy_has_its_interval_and_the_share_of_the_largest_class(here: Path) -> None:
    printed = ptkit("train", *QUICK).stdout
    found = json.loads(ptkit("train", *QUICK, "--json").stdout)
    right = round(found["best"]["accuracy"] * 21)
    assert found["best"]["accuracy_interval"] == list(interval(right, 21))
    assert found["majority"] == {"class": "bar", "share": 1 / 3}
    assert f'valid accuracy {share_text(right, 21)}, always "bar" 33.3%, loss' in printed


def test_what_should_be_known_of_a_run_is_told_with_the_command_that_helps(here: Path) -> None:
    names = ["--name", "x"]
    found = ptkit("train", *QUICK, *names)
    shutil.rmtree("runs/x")
    said = json.loads(ptkit("train", *QUICK, *names, "--json").stdout)["verdicts"]
    notes = [line for line in found.stdout.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {verdict['text']}" for verdict in said]
    assert [verdict["rule"] for verdict in said][-1] == "few_validation_images"
    assert "`ptkit split FOLDER --kfold 5`" in notes[-1]


def test_the_best_epoch_is_chosen_by_the_metric_that_is_named(here: Path) -> None:
    arguments = ["--set", "train.metric=macro_f1", "--epochs", "3", "--json"]
    best = json.loads(ptkit("train", *QUICK, *arguments).stdout)["best"]
    with Path("runs/1/metrics.csv").open() as file:
        rows = {int(row["epoch"]): float(row["valid_macro_f1"]) for row in csv.DictReader(file)}
    assert best.keys() == {"epoch", "accuracy", "macro_f1", "loss", "accuracy_interval"}
    assert best["macro_f1"] == pytest.approx(max(rows.values()), rel=1e-5)
    assert best["macro_f1"] == pytest.approx(rows[best["epoch"]], rel=1e-5)


def test_a_run_by_another_metric_is_resumed(here: Path) -> None:
    ptkit("train", *QUICK, "--set", "train.metric=auroc")
    result = ptkit("train", "--resume", "runs/1", "--epochs", "2", "--json")
    assert json.loads(result.stdout)["best"]["auroc"] > 0.5
    with Path("runs/1/metrics.csv").open() as file:
        assert [row["valid_auroc"] != "" for row in csv.DictReader(file)] == [True, True]


def test_flags_win_over_set_over_toml(here: Path) -> None:
    Path("mine.toml").write_text(
        "[train]\nepochs = 1\nseed = 5\npatience = 3\n[log]\ntensorboard = false\n"
        "pictures = false\n"
    )
    result = ptkit("train", "--config", "mine.toml", "--set", "train.seed=6", "--batch-size", "24")
    assert result.exit_code == 0
    config = torch.load("runs/1/ckpt.pkl", weights_only=True)["config"]["train"]
    assert (config["seed"], config["batch_size"], config["patience"]) == (6, 24, 3)


def test_a_batch_size_can_be_measured(here: Path) -> None:
    result = ptkit("train", *QUICK, "--batch-size", "auto")
    assert result.exit_code == 0
    assert "batch size: 16, of those measured (16: " in result.stdout
    refused = ptkit("train", *QUICK, "--batch-size", "some")
    assert refused.exit_code == 2
    assert "'some' is neither a whole number nor auto" in refused.stderr


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
            "no list nope.txt: run `ptkit split FOLDER` first, name FOLDER here, or another list"
            " with --valid",
        ),
        (["--model", "resnet88"], 2, "no model is called resnet88; did you mean resnet8?"),
        (["--lr", "0"], 2, "--lr must be above 0"),
        (["--epochs", "0"], 2, "--epochs must be at least 1"),
        (["--augment", "saef"], 2, "did you mean safe?"),
        (["--set", "train.epochs=0"], 2, "train.epochs must be at least 1"),
        (["--fit", "crp"], 2, "--fit must be one of auto, crop, pad, stretch, found 'crp'; did"),
        (["--workers", "-3"], 2, "--workers must be at least 0, found -3"),
        (["--set", "train.epoch=1"], 2, "did you mean epochs?"),
        (["--set", "train.metric=top5"], 2, "one of loss, accuracy, macro_f1, balanced_accuracy,"),
        (["--set", "train.metric=f1_macro"], 2, "found 'f1_macro'; did you mean macro_f1?"),
        (["--optimizer", "SGD(momentum=0.9, lr=0.1)", "--lr", "0.1"], 2, "given twice"),
        (["--resume", "nowhere"], 2, "nowhere does not exist: expected a run folder"),
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


def test_a_class_name_that_no_font_has_is_said_once_and_drawn_with_a_font_of_the_users(
    here: Path,
) -> None:
    # For private use: a character of this font of matplotlib's own alone.
    (here / "classes.txt").write_text("bar\n\ue00a\nsquare\n", encoding="utf-8")
    found = ptkit("train", *QUICK)
    assert found.stderr.count("no font here has all characters of 1 class name") == 1
    assert "or pass --set log.font=FILE" in found.stderr
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXNonUni.ttf"
    found = ptkit("train", *QUICK, "--set", f"log.font={font}")
    assert found.exit_code == 0
    assert "no font here" not in found.stderr


def test_a_class_name_of_two_lines_is_told_in_one() -> None:
    note = missing_font_note(["a\nb\ue00a"], remedy="--font FILE") or ""
    assert "#0 = a\\nb" in note
    assert "\n" not in note


def test_a_font_that_is_none_is_refused_before_anything_is_written(here: Path) -> None:
    found = ptkit("train", *QUICK, "--set", "log.font=train.txt")
    assert found.exit_code == 2
    assert "train.txt is not a font: name a .ttf, .otf or .ttc file" in found.stderr
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("command", "flag"), [("train", "--model resnet18"), ("probe", "--backbone resnet18")]
)
def test_a_model_in_the_place_of_images_is_told_its_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [command, "resnet18"])
    assert (result.exit_code, result.stderr) == (
        2,
        f"ptkit: resnet18 is a model, and there is no such folder: {flag}\n",
    )


def test_the_time_in_all_counts_the_start_of_the_program(here: Path) -> None:
    token = process_began.set(time.perf_counter() - 1000)
    try:
        printed = ptkit("train", *QUICK).stdout
    finally:
        process_began.reset(token)
    assert float(re.search(r"; ([\d.]+) s in all\n", printed)[1]) > 1000
