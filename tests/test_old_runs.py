"""Run folders and checkpoints of an earlier version are read as they were then.

tests/old_runs/README.md says how they were made.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app

ROOT = Path(__file__).parent.parent
RUN = CliRunner()
CLASSES = {
    "one_class": ["zero", "one", "two", "three"],
    "several_classes": ["small", "even", "prime"],
}


@pytest.fixture(params=sorted(CLASSES))
def old(request, tmp_path, monkeypatch, blank_pictures):
    """A copy of one of the old runs with its lists, as the working directory."""
    # The lists name images as ../../../data/...
    (tmp_path / "data").symlink_to(ROOT / "data")
    folder = tmp_path / "tests" / "old_runs" / request.param
    shutil.copytree(ROOT / "tests" / "old_runs" / request.param, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def made_here(old):
    """The old run as if this machine had made it: with other libraries resuming is inexact."""
    state = torch.load("runs/old/last.pkl", weights_only=True)
    assert done("train", "--config", "runs/old/config.toml", "--epochs", "1", "--name", "here")
    here = torch.load("runs/here/last.pkl", weights_only=True)
    # Only what that version wrote down.
    env = {key: here["env"][key] for key in state["env"]}
    torch.save(state | {"env": env}, "runs/old/last.pkl")
    return old


def done(*arguments):
    result = RUN.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*arguments):
    return json.loads(done(*arguments, "--json"))


def expected(old, name):
    return json.loads((old / "expected.json").read_text())[name]


def rows(run):
    """Return metrics.csv without what a clock decides, and without empty cells."""
    with (Path(run) / "metrics.csv").open() as file:
        return [numbers_of(row) for row in csv.DictReader(file)]


def numbers_of(row):
    timings = ("seconds", "images_per_s")
    return {key: float(cell) for key, cell in row.items() if cell and key not in timings}


def numbers(found):
    """Return the values of nested lists and dictionaries in order: numbers apart from the rest."""
    items = found.items() if isinstance(found, dict) else enumerate(found)
    values, others = [], []
    for key, item in items:
        others.append(key)
        if isinstance(item, list | dict):
            inner_values, inner_others = numbers(item)
            values += inner_values
            others += inner_others
        elif isinstance(item, float):
            values.append(item)
        else:
            others.append(item)
    return values, others


def assert_same(found, recorded):
    """Compare what two versions print: text and counts exactly, fractions to 1e-6."""
    (values, others), (old_values, old_others) = numbers(found), numbers(recorded)
    assert others == old_others
    assert values == pytest.approx(old_values, abs=1e-6)


def test_predict_answers_as_the_old_version_did(old):
    found = answer("predict", "runs/old", "valid.txt")
    # The old version did not give the labels of the list.
    assert all(row.pop("true") is not None for row in found)
    assert_same(found, expected(old, "predict"))


def test_confmat_counts_as_the_old_version_did(old):
    found, recorded = answer("confmat", "runs/old/ckpt.pkl", "valid.txt"), expected(old, "confmat")
    assert_same({key: found[key] for key in recorded}, recorded)
    # The old version did not give these.
    new = {"files", "micro_f1", "micro_precision", "micro_recall"}
    new |= {"num_trained_on", "accuracy_without_trained_on", "accuracy_without_trained_on_interval"}
    new |= {"accuracy_interval", "majority", "recall_interval"}
    new |= {"macro_f1", "balanced_accuracy", "auroc", "top5"}
    # Which images they were trained on, the old checkpoints do not know.
    assert (found["num_trained_on"], found["accuracy_without_trained_on"]) == (None, None)
    assert found.keys() - recorded.keys() <= new


def test_the_model_loads_in_python(old):
    model = ptkit.load("runs/old/ckpt.pkl")
    assert list(model.class_names) == CLASSES[old.name]
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, len(CLASSES[old.name]))
    assert model.pipeline["size"] == 16


def test_an_interrupted_run_resumes_exactly(made_here):
    printed = done("train", "--resume", "runs/old")
    assert "bit-exact" in printed
    # Another processor may round differently, and an epoch of training carries that on.
    for found, recorded in zip(rows("runs/old"), expected(made_here, "epochs"), strict=True):
        assert found == pytest.approx(numbers_of(recorded), rel=1e-3)


def test_a_run_gets_more_epochs(old):
    before = rows("runs/old")
    result = answer("train", "--resume", "runs/old", "--epochs", "4")
    assert result["epochs"] == 4
    assert rows("runs/old")[:2] == before
    assert [row["epoch"] for row in rows("runs/old")] == [1, 2, 3, 4]


def test_the_saved_settings_repeat_the_run(old):
    answer("train", "--config", "runs/old/config.toml", "--name", "again")
    settings = [
        line
        for line in Path("runs/old/config.toml").read_text().splitlines()
        if not line.startswith(("train = ", "valid = "))
    ]
    again = Path("runs/again/config.toml").read_text().splitlines()
    assert [line for line in settings if line not in again] == []
    assert rows("runs/again")[0].keys() == rows("runs/old")[0].keys()


def test_finetuning_takes_every_weight(old):
    printed = done("finetune", "runs/old", "--epochs", "1", "--name", "tuned", "--device", "cpu")
    weights = torch.load("runs/old/ckpt.pkl", weights_only=True)["state_dict"]
    assert re.search(rf"\b{len(weights)} of .*\b{len(weights)} tensors", printed)
    assert Path("runs/tuned/ckpt.pkl").exists()


def test_kernels_and_feature_maps_are_drawn(old):
    assert len(answer("viz-weights", "runs/old")["files"]) > 3
    (image, *_) = Path("valid.txt").read_text().split()
    assert answer("viz-featuremaps", "runs/old", image)["files"]
