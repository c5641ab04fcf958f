import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ptkit.commands.app import app

from example_run import write_run  # isort: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path)


def viz_weights(*arguments):
    return CliRunner().invoke(app, ["viz-weights", *map(str, arguments)])


def names(folder, pattern="*"):
    return sorted(path.name for path in Path(folder).glob(pattern) if not path.name.startswith("."))


@pytest.mark.usefixtures("blank_pictures")
def test_every_convolution_of_a_run_is_drawn_into_the_run_folder(run):
    result = viz_weights("ckpt.pkl")
    assert result.exit_code == 0
    assert "conv1: 16×3×3×3, 0 of 16 dead" in result.stdout
    assert "9 pictures in runs/1/viz-weights" in result.stdout
    assert len(names("runs/1/viz-weights", "kernels-*.png")) == 9
    assert len(names("runs/1/viz-weights", "events.out.tfevents.*")) == 1
    assert np.asarray(Image.open("runs/1/viz-weights/kernels-conv1.png")).shape[1] > 300


def test_table_has_a_row_per_output_channel_with_its_norm(run):
    viz_weights("runs/1", "--layers", "conv1")
    rows = list(csv.DictReader(Path("runs/1/viz-weights/kernels.csv").read_text().splitlines()))
    weight = torch.load("ckpt.pkl", weights_only=True)["state_dict"]["conv1.weight"]
    first = [row for row in rows if row["layer"] == "conv1"]
    assert [float(row["norm"]) for row in first] == pytest.approx(
        weight.flatten(1).norm(dim=1).tolist(), rel=1e-5
    )
    assert [float(row["max"]) for row in first] == pytest.approx(
        weight.flatten(1).amax(dim=1).tolist(), rel=1e-5
    )
    assert {row["is_dead"] for row in rows} == {"False"}


def test_bare_weights_of_an_unknown_model_are_drawn_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {
        "a/b.weight": torch.randn(4, 3, 3, 3),
        "index": torch.zeros(2, 2, 2, 2, dtype=torch.long),
        "c": torch.ones(3),
    }
    weights["a/b.weight"][1] = 0
    torch.save({"state_dict": weights}, "bare.pt")
    result = viz_weights("bare.pt", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["files"][:2] == [
        "ptkit-viz-weights/kernels-a_b.png",
        "ptkit-viz-weights/kernels.csv",
    ]
    assert all(Path(file).is_file() for file in found["files"])
    assert "a/b,1,0,0,0,True" in Path("ptkit-viz-weights/kernels.csv").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_globs_choose_layers_and_the_next_run_replaces_the_pictures(run):
    (run / "viz-weights").mkdir()
    (run / "viz-weights" / "mine.png").write_bytes(b"x")
    viz_weights("ckpt.pkl", "--layers", "layer2.*")
    result = viz_weights("ckpt.pkl", "--layers", "layer1.*", "--layers", "conv1.weight")
    assert result.exit_code == 0
    expected = [
        "kernels-conv1.png",
        "kernels-layer1.0.conv1.png",
        "kernels-layer1.0.conv2.png",
        "mine.png",
    ]
    assert names("runs/1/viz-weights", "*.png") == expected
    assert len(names("runs/1/viz-weights", "events.out.tfevents.*")) == 1


def test_out_and_scale_choose_the_folder_and_the_look(run):
    for scale in ("layer", "kernel"):
        assert (
            viz_weights("ckpt.pkl", "--out", scale, "--scale", scale, "--layers", "conv1").exit_code
            == 0
        )
    layer, kernel = (
        np.asarray(Image.open(f"{scale}/kernels-conv1.png")) for scale in ("layer", "kernel")
    )
    assert layer[100:].std() < kernel[100:].std()
    assert not (run / "viz-weights").exists()


def test_quiet_prints_nothing(run):
    assert viz_weights("ckpt.pkl", "--quiet", "--layers", "conv1").output == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope.pkl"], 4, "nope.pkl"),
        (["ckpt.pkl", "--layers", "layr1.0.conv1"], 2, "did you mean layer1.0.conv1?"),
        (["ckpt.pkl", "--view", "grid"], 2, "--view must be one of auto, channels"),
        (["ckpt.pkl", "--gap-colour", "blu"], 2, "--gap-colour must be a grey of 0..1"),
        (["ckpt.pkl", "--scale", "row"], 2, "--scale must be one of layer, kernel"),
        (["flat.pt"], 4, "flat.pt has no convolution kernels"),
        (["text.pt"], 4, "text.pt is not a file of weights"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(run, arguments, code, message):
    torch.save({"fc.weight": torch.zeros(3, 4)}, "flat.pt")
    Path("text.pt").write_text("hello")
    result = viz_weights(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
