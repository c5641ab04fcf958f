import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.transforms.pipeline import Pipeline

from example_run import write_images, write_run  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_images(tmp_path)


def viz_featuremaps(*arguments):
    return CliRunner().invoke(app, ["viz-featuremaps", *map(str, arguments)])


def test_last_layer_of_each_resolution_is_drawn_for_eight_images(paths):
    result = viz_featuremaps("ckpt.pkl", *paths)
    assert result.exit_code == 0
    assert "drawing 8 of 12 images; --num-images draws more" in result.stdout
    found = sorted(path.name for path in Path("runs/1/viz-featuremaps").glob("*.png"))
    assert found == ["features-layer1.png", "features-layer2.png", "features-layer3.png"]
    assert len(list(Path("runs/1/viz-featuremaps").glob("events.out.tfevents.*"))) == 1


def test_table_has_every_channel_as_the_model_gives_it(paths):
    viz_featuremaps("ckpt.pkl", paths[0], "--layers", "fc")
    rows = list(
        csv.DictReader(Path("runs/1/viz-featuremaps/feature_maps.csv").read_text().splitlines())
    )
    model = ptkit.load("ckpt.pkl")
    with torch.inference_mode():
        scores = model(Pipeline.parse(model.pipeline["calls"]).read_image(paths[0])[None])[0]
    assert [float(row["max"]) for row in rows] == pytest.approx(scores.tolist(), rel=1e-4)


def test_of_two_views_the_unmirrored_one_is_drawn(paths):
    contents = torch.load("ckpt.pkl", weights_only=True)
    contents["pipeline"]["calls"].insert(1, "WithHorizontalFlip()")
    torch.save(contents, "views.pkl")
    viz_featuremaps("ckpt.pkl", paths[0], "--out", "one")
    result = viz_featuremaps("views.pkl", paths[0], "--out", "views")
    assert result.exit_code == 0, result.stderr
    assert Path("views/feature_maps.csv").read_text() == Path("one/feature_maps.csv").read_text()


def test_more_images_are_more_rows_and_nothing_is_said_when_all_are_drawn(paths):
    few = viz_featuremaps("ckpt.pkl", *paths[:2], "--out", "few", "--layers", "layer1")
    many = viz_featuremaps(
        "ckpt.pkl", *paths, "--out", "many", "--layers", "layer1", "--num-images", 12
    )
    assert "--num-images" not in few.stdout + many.stdout
    heights = [
        len(np.asarray(Image.open(f"{folder}/features-layer1.png"))) for folder in ("few", "many")
    ]
    assert heights[1] - heights[0] > 10 * 60


def test_list_shows_layers_with_shapes_without_images(paths):
    result = viz_featuremaps("ckpt.pkl", "--list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["layer2"] == ["Sequential", "32×8×8", "1", "*"]
    assert lines["layer1.0.relu"] == ["ReLU", "16×16×16", "2"]
    assert lines["fc"] == ["Linear", "3", "1"]
    found = json.loads(viz_featuremaps("ckpt.pkl", "--list", "--json").stdout)
    assert found["files"] == []
    assert found["layers"][-1] == {"name": "fc", "kind": "Linear", "shape": [3], "num_calls": 1}
    assert not Path("runs/1/viz-featuremaps").exists()


def test_bare_weights_work_with_the_answers_of_a_checkpoint(paths):
    torch.save(torch.load("ckpt.pkl", weights_only=True)["state_dict"], "bare.pt")
    answers = [
        "--model",
        "resnet8",
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.25,0.25,0.25",
        "--size",
        "16",
    ]
    assert viz_featuremaps("bare.pt", paths[0], *answers, "--layers", "layer3").exit_code == 0
    assert viz_featuremaps("ckpt.pkl", paths[0], "--layers", "layer3").exit_code == 0
    tables = [
        Path(folder, "feature_maps.csv").read_text()
        for folder in ("ptkit-viz-featuremaps", "runs/1/viz-featuremaps")
    ]
    assert tables[0] == tables[1]


def test_after_a_function_the_table_has_what_it_gave(paths):
    result = viz_featuremaps("ckpt.pkl", paths[0], "--layers", "conv1", "--after", "relu")
    assert result.exit_code == 0, result.stderr
    assert "conv1 after relu: 16×16×16" in result.stdout
    table = Path("runs/1/viz-featuremaps/feature_maps.csv").read_text().splitlines()
    assert min(float(row["min"]) for row in csv.DictReader(table)) == 0


def test_json_names_the_files(paths):
    found = json.loads(viz_featuremaps("ckpt.pkl", *paths, "--json", "--layers", "layer1").stdout)
    assert found["files"][0] == "runs/1/viz-featuremaps/features-layer1.png"
    assert all(Path(file).is_file() for file in found["files"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ckpt.pkl"], 2, "no images"),
        (["ckpt.pkl", "images/blue/0.png", "nope.png"], 3, "cannot read nope.png"),
        (["ckpt.pkl", "broken.png"], 3, "cannot read broken.png"),
        (["ckpt.pkl", "images/blue/0.png", "--layers", "layer9"], 2, "did you mean layer"),
        (
            ["ckpt.pkl", "images/blue/0.png", "--scale", "row"],
            2,
            "--scale must be one of layer, map",
        ),
        (["ckpt.pkl", "images/blue/0.png", "--after", "gelu"], 2, "no gelu follows layer1"),
        (["ckpt.pkl", "images/blue/0.png", "--size", "32"], 2, "leave out --size"),
        (["ckpt.pkl", "images/blue/0.png", "--device", "gpu"], 2, "--device must be one of"),
        (
            ["bare.pt", "images/blue/0.png"],
            2,
            "add --model NAME, --mean R,G,B, --std R,G,B, --size PIXELS",
        ),
        (["nope.pkl", "images/blue/0.png"], 4, "nope.pkl"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(paths, arguments, code, message):
    Path("broken.png").write_bytes(Path(paths[0]).read_bytes()[:-30])
    torch.save({"fc.weight": torch.zeros(3, 4)}, "bare.pt")
    result = viz_featuremaps(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
