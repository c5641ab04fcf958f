import json
from pathlib import Path

import pytest
import torch
import torchvision
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.zoo import build_model

from example_run import write_run  # isort: skip

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=4, width=2):
        head = nn.Linear(width, num_classes)
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary(*arguments):
    return CliRunner().invoke(app, ["summary", *map(str, arguments)])


def as_json(*arguments):
    return json.loads(summary(*arguments, "--json").stdout)


def edited(path, **changes):
    """Write a checkpoint again with other contents."""
    contents = {**read_checkpoint(path), **changes}
    save_checkpoint(
        path,
        {key: value for key, value in contents.items() if not key.startswith(("format", "ptkit"))},
    )


def test_a_model_is_shown_layer_by_layer_with_its_totals(here):
    result = summary("lenet")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "lenet(): 10 classes, 32×32 pixels",
        "",
        "layer      class    output  parameters  trainable    MACs  share",
        "conv1     Conv2d   6×28×28         456        yes   353 k  54.1%",
        "pool1  MaxPool2d   6×14×14           -          -       -      -",
        "conv2     Conv2d  16×10×10       2,416        yes   240 k  36.8%",
        "pool2  MaxPool2d    16×5×5           -          -       -      -",
        "fc1       Linear       120      48,120        yes  48.0 k   7.4%",
        "fc2       Linear        84      10,164        yes  10.1 k   1.5%",
        "fc3       Linear        10         850        yes    840    0.1%",
        "",
        "parameters     62,006 (all trainable)",
        "multiply-adds  652 kMACs an image, 1.30 MFLOPs",
        "weights        248 kB",
        "activations    57.2 kB an image, kept for the backward pass",
        (
            "training       1.05 MB with Adam and one image: weights, gradients, two moments,"
            " activations"
        ),
    ]


def test_the_page_of_the_docs_shows_what_is_printed(here):
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert f"ptkit summary lenet\n```\n```\n{summary('lenet').stdout}```\n" in page


def test_json_has_every_number(here):
    found = as_json("lenet", "--num-classes", 3)
    assert {key: value for key, value in found.items() if key != "layers"} == {
        "model": "lenet()",
        "num_classes": 3,
        "size": 32,
        "parameters": 61_411,
        "trainable": 61_411,
        "multiply_adds": 651_132,
        "flops": 1_302_264,
        "memory": {"weights": 245_644, "activations": 57_232, "training": 1_039_808},
    }
    assert found["layers"][-1] == {
        "name": "fc3",
        "class": "Linear",
        "shape": [3],
        "num_calls": 1,
        "parameters": 255,
        "trainable": 255,
        "multiply_adds": 252,
        "share": 252 / 651_132,
    }


def test_the_size_settles_the_model_as_training_would(here):
    assert as_json("resnet18", "--size", 32)["model"] == "resnet18(stem='small')"
    assert as_json("vit_b_16", "--size", 32)["model"] == "vit_b_16(image_size=32)"


@pytest.mark.parametrize(
    ("call", "size"),
    [
        ("resnet8", 32),
        ("squeezenet1_1", 224),
        ("lenet(size=28)", 28),
        ("vit_b_32(image_size=64)", 64),
    ],
)
def test_without_a_size_it_is_the_one_that_the_model_is_made_for(here, call, size):
    assert as_json(call, "--depth", 1)["size"] == size


@pytest.mark.parametrize(
    "call",
    [
        "vit_b_16 --size 64",
        *(
            pytest.param(call, marks=pytest.mark.slow)
            for call in ("swin_t --size 64", "regnet_y_400mf --size 32")
        ),
    ],
)
def test_no_line_of_the_table_is_wider_than_100_columns(here, call):
    lines = summary(*call.split()).stdout.splitlines()
    assert max(map(len, lines)) <= 100


def test_long_names_keep_their_end_and_json_keeps_all_of_them(here):
    assert (
        "encoder_layer_11.self_attention  MultiheadAttention   17×768"
        in summary("vit_b_16", "--size", 64).stdout
    )
    names = [row["name"] for row in as_json("vit_b_16", "--size", 64)["layers"]]
    assert "encoder.layers.encoder_layer_11.self_attention" in names


def test_depth_sums_over_what_is_inside(here):
    rows = as_json("resnet8", "--depth", 1)["layers"]
    assert [row["name"] for row in rows] == [
        "conv1",
        "bn1",
        "relu",
        "layer1",
        "layer2",
        "layer3",
        "avgpool",
        "fc",
    ]


def test_a_checkpoint_knows_its_model_classes_and_size(here):
    write_run(here)
    found = as_json("ckpt.pkl")
    assert (found["model"], found["num_classes"], found["size"]) == ("resnet8()", 3, 16)
    assert found["layers"][-1]["shape"] == [3]
    assert found == as_json("runs/1")
    assert as_json("ckpt.pkl", "--size", 32)["multiply_adds"] == pytest.approx(
        4 * found["multiply_adds"], rel=1e-3
    )


def test_what_a_run_froze_or_left_out_is_not_trainable(here):
    run = write_run(here)
    groups = [
        "layer1: frozen",
        "layer2: frozen",
        "layer2: lr=0.1x",
        "bn1: excluded",
        "layer3: unfreeze=3",
    ]
    edited(run / "ckpt.pkl", config={"optimizer": {"groups": groups}})
    found = as_json("ckpt.pkl", "--depth", 1)
    trainable = {row["name"] for row in found["layers"] if row["trainable"]}
    assert trainable == {"conv1", "layer2", "layer3", "fc"}
    assert f"({found['trainable']:,} trainable)" in summary("ckpt.pkl").stdout


def test_a_users_own_model_is_shown_by_its_file(here):
    Path("net.py").write_text(NET)
    found = as_json("net.py:Net(width=5)", "--size", 8, "--num-classes", 6)
    assert found["model"] == "net.py:Net(width=5)"
    assert [
        (row["name"], row["multiply_adds"]) for row in found["layers"] if row["parameters"]
    ] == [
        ("0", 5 * 3 * 9 * 36),
        ("3", 30),
    ]


def test_a_checkpoint_of_user_code_needs_the_model_named_again(here):
    Path("net.py").write_text(NET)
    model, _ = build_model("net.py:Net(width=5)", num_classes=3, size=16, seed=0)
    run = write_run(here)
    edited(
        run / "ckpt.pkl",
        model={"call": "net.py:Net(width=5)", "num_classes": 3},
        state_dict=model.state_dict(),
    )
    refused = summary("ckpt.pkl")
    assert refused.exit_code == 4
    assert "name it again with --model" in refused.stderr
    found = as_json("ckpt.pkl", "--model", "net.py:Net(width=5)")
    assert (found["model"], found["parameters"]) == ("net.py:Net(width=5)", 158)


def test_a_folder_that_has_the_name_of_a_model_does_not_hide_it(here):
    Path("lenet").mkdir()
    assert as_json("lenet")["model"] == "lenet()"


def test_quiet_prints_nothing(here):
    assert summary("lenet", "--quiet").output == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet19"], 2, "no model is called resnet19; did you mean resnet18?"),
        (["lenet(dropout=1)"], 2, "lenet has no argument dropout"),
        (["lenet", "--size", 8], 2, "16 pixels or larger, found 8"),
        (["squeezenet1_1", "--size", 8], 2, "SqueezeNet does not take 8×8 images"),
        (["lenet", "--model", "resnet8"], 2, "--model is for a checkpoint of a model of your own"),
        (["lenet(num_classes=0)"], 2, "num_classes must be a whole number of at least 1, found 0"),
        (
            ["lenet(num_classes=4)", "--num-classes", 5],
            2,
            "num_classes is given twice: here and by --num-classes",
        ),
        (
            ["ckpt.pkl", "--num-classes", 3],
            2,
            "ckpt.pkl is a checkpoint and already stores this: leave out --num-classes",
        ),
        (["net.py"], 2, "net.py is a Python file: name the model in it, net.py:NAME"),
        (["net.py:Nets"], 2, "net.py has no Nets; did you mean Net?"),
        (["bare.pt"], 2, "bare.pt holds bare weights: add --model NAME"),
        (["bare.pt", "--model", "lenet"], 4, "the weights in bare.pt do not fit lenet()"),
        (["nope.pkl"], 4, "no file nope.pkl"),
        (["runs/7"], 4, "no file runs/7"),
    ],
)
def test_errors_say_what_is_wrong_with_their_exit_code(here, arguments, code, message):
    write_run(here)
    Path("net.py").write_text(NET)
    torch.save({"fc.weight": torch.zeros(3, 4)}, "bare.pt")
    result = summary(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_a_rectangle_is_height_and_width(here):
    found = as_json("resnet18", "--size", "36x64")
    assert found["size"] == [36, 64]
    plain = torchvision.models.resnet18(num_classes=10).eval()
    shapes = {}
    plain.layer1.register_forward_hook(
        lambda _m, _i, output: shapes.update(layer1=output.shape[1:])
    )
    # The small stem of ptkit keeps the resolution, so the plain model sees four times as much.
    plain(torch.zeros(1, 3, 36 * 4, 64 * 4))
    by_name = {row["name"]: row["shape"] for row in found["layers"]}
    assert by_name["layer1.1.conv2"] == list(shapes["layer1"])
    assert (
        "resnet18(stem='small'): 10 classes, 36×64 pixels"
        in summary("resnet18", "--size", "36×64").stdout
    )


@pytest.mark.parametrize("text", ["0", "x", "36x", "36x64x3", "-3", "1.5", "36 by 64"])
def test_a_size_that_is_none_is_refused(text, here):
    result = summary("resnet8", "--size", text)
    assert result.exit_code == 2
    assert "--size must be pixels of a side, such as 224, or height and width" in result.stderr


@pytest.mark.parametrize("model", ["lenet", "vit_b_16"])
def test_a_model_of_squares_refuses_a_rectangle(model, here):
    result = summary(model, "--size", "32x48")
    assert result.exit_code == 2
    assert "does not take 32×48 images" in result.stderr
