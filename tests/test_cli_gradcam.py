import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.models.gradcam import gradcam as heat_of
from ptkit.core.models.gradcam import top_region
from ptkit.looking import gradcam as gradcam_module

from example_run import CLASSES, write_images, write_run  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")
FOLDER = Path("runs/1/gradcam")


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_images(tmp_path)


def gradcam(*arguments):
    return CliRunner().invoke(app, ["gradcam", *map(str, arguments)])


def regions(*arguments):
    return json.loads(gradcam(*arguments, "--json").stdout)["regions"]


def test_every_image_of_a_folder_has_a_box_of_its_answer(paths):
    result = gradcam("ckpt.pkl", "images")
    assert result.exit_code == 0, result.stderr
    assert "drawing 8 of 12 images; --num-images draws more" in result.stdout
    rows = list(csv.DictReader((FOLDER / "gradcam.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == paths
    answers = json.loads(
        CliRunner().invoke(app, ["predict", "ckpt.pkl", "images", "--json"]).stdout
    )
    assert [row["class"] for row in rows] == [answer["class"] for answer in answers]
    found = [float(row["value"]) for row in rows]
    assert found == pytest.approx([answer["probability"] for answer in answers], abs=1e-5)
    assert [path.name for path in FOLDER.glob("*.png")] == ["gradcam-layer3.png"]


def test_the_box_is_that_of_the_heat_of_the_named_class_and_layer(paths):
    model = ptkit.load("ckpt.pkl")
    image = Pipeline.parse(model.pipeline["calls"]).read_image(paths[5])[None]
    expected = [
        (layer, name, top_region(heat_of(model, image, [k], layer=layer)[0]))
        for layer in ("layer1", "layer2")
        for k, name in enumerate(CLASSES)
        if name != "red"
    ]
    classes = ["--class", "blue", "--class", "green"]
    found = regions("ckpt.pkl", paths[5], *classes, "--layers", "layer[12]")
    boxes = [(r["layer"], r["class"], (r["x1"], r["y1"], r["x2"], r["y2"])) for r in found]
    assert boxes == [(*named, box or (None,) * 4) for *named, box in expected]


def test_few_images_at_a_time_take_memory_for_backward(paths, monkeypatch):
    seen = []

    def gradcam_of(model, images, classes, **options):
        seen.append(len(images))
        return heat_of(model, images, classes, **options)

    expected = regions("ckpt.pkl", "images")
    monkeypatch.setattr(gradcam_module, "_IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(gradcam_module, "gradcam", gradcam_of)
    assert regions("ckpt.pkl", "images") == expected
    assert max(seen) == 2
    assert sum(seen) == len(paths)


def test_a_list_is_read_and_its_images_may_have_moved(paths):
    Path("elsewhere").mkdir()
    Path("images").rename("elsewhere/images")
    found = regions("ckpt.pkl", "test.txt", "--root", "elsewhere")
    assert len(found) == len(paths)


def test_bare_weights_explain_a_class_by_its_index(paths):
    torch.save(torch.load("ckpt.pkl", weights_only=True)["state_dict"], "bare.pt")
    answers = ["--model", "resnet8", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
    bare = regions("bare.pt", paths[0], *answers, "--size", 16, "--class", "1")
    same = regions("ckpt.pkl", paths[0], "--class", "green")
    assert bare == [{**same[0], "class": "1"}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ckpt.pkl", "images", "--class", "gren"], 2, "did you mean green?"),
        (["ckpt.pkl", "images", "--layers", "layer9"], 2, "did you mean layer"),
        (["ckpt.pkl", "images", "--layers", "fc"], 2, "fc gives no maps"),
        (["ckpt.pkl", "images", "--root", "here"], 2, "--root is for the images of a list"),
        (["ckpt.pkl", "nope.png"], 3, "cannot read nope.png"),
        (["ckpt.pkl", "runs"], 3, "runs has no images"),
        (["nope.pkl", "images"], 4, "nope.pkl"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(paths, arguments, code, message):
    result = gradcam(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_image_that_cannot_be_read_is_left_out_where_that_is_asked_for(paths):
    Path(paths[0]).write_bytes(b"")
    told = gradcam("ckpt.pkl", "images")
    assert told.exit_code == 3
    assert told.stderr.endswith("the file is empty; --on-bad skip leaves such images out\n")
    done = gradcam("ckpt.pkl", "images", "--on-bad", "skip", "--json")
    assert (done.exit_code, "1 image left out:" in done.stderr) == (3, True)
    rows = json.loads(done.stdout)["regions"]
    assert [row["path"] for row in rows] == paths[1:]
    for path in paths:
        Path(path).write_bytes(b"")
    done = gradcam("ckpt.pkl", "images", "--on-bad", "skip")
    assert (done.exit_code, "no image can be read" in done.stderr) == (3, True)
