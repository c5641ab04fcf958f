"""Bare weights show how many classes there are, and which stem they were trained with."""

from pathlib import Path

import pytest
import torch
from example_run import write_images
from torchvision.models import resnet18

import ptkit
from ptkit.core.errors import CheckpointError
from ptkit.core.models.fitting import fit_bare_weights, with_stem
from ptkit.core.models.locate import read_weights
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import parse

NETS = """
import torch
from torch import nn

class Cosine(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.places = nn.Parameter(torch.randn(num_classes, 3))

    def forward(self, images):
        return images.mean((2, 3)) @ self.places.T

def fixed():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.Linear(5, 4))

def linear(num_classes=2):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def named(n_labels=2):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n_labels))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    return tmp_path


def fit(state_dict, model, size=16):
    torch.save(state_dict, "weights.pt")
    return fit_bare_weights(read_weights(Path("weights.pt")), model=model, size=size)


@pytest.mark.parametrize(
    ("saved", "call", "num_classes"),
    [
        ("resnet8", "resnet8", 7),
        ("nets.py:Cosine", "nets.py:Cosine", 7),
        ("nets.py:fixed", "nets.py:fixed", 4),
        ("nets.py:named(n_labels=6)", "nets.py:named(n_labels=6)", 6),
        ("squeezenet1_1", "squeezenet1_1", 7),
    ],
)
def test_the_number_of_classes_is_that_of_the_last_layer(here, saved, call, num_classes):
    model, _ = build_model(saved, num_classes=7, size=32, seed=0)
    found = fit(model.state_dict(), call, size=32)
    assert found.num_classes == num_classes
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_weights_in_the_order_of_their_names_are_of_colour_images_too(here):
    model, _ = build_model("efficientnet_lite0", num_classes=3, size=32, seed=0)
    in_order = dict(sorted(model.state_dict().items()))
    # A depthwise convolution comes before that of the images.
    assert next(t.shape[1] for t in in_order.values() if t.ndim == 4) == 1
    found = fit(in_order, "efficientnet_lite0", size=32)
    assert torch.equal(found.module.state_dict()["stem.0.weight"], in_order["stem.0.weight"])


def test_the_number_of_classes_is_seen_in_a_head_of_another_name(here):
    model, _ = build_model("resnet8", num_classes=7, size=16, seed=0)
    renamed = {name.replace("fc.", "classif."): t for name, t in model.state_dict().items()}
    found = fit(renamed | {"criterion.weight": torch.ones(7)}, "resnet8")
    assert found.num_classes == 7
    assert found.notes == (
        "took classif for fc: no other layer fits",
        "left 1 tensor of no layer (criterion.weight)",
    )


def test_a_model_of_one_layer_is_found_behind_a_prefix(here):
    weights = {"n_averaged": torch.tensor(1), "module.2.weight": torch.ones(6, 3)}
    found = fit(weights | {"module.2.bias": torch.ones(6)}, "nets.py:linear")
    assert found.num_classes == 6


def test_weights_without_a_head_are_refused(here):
    model, _ = build_model("resnet8", num_classes=7, size=16, seed=0)
    body = {name: t for name, t in model.state_dict().items() if not name.startswith("fc.")}
    with pytest.raises(CheckpointError, match=r"does not fit resnet8\(\): it has no fc\.bias"):
        fit(body, "resnet8")


@pytest.mark.parametrize(
    "size", [16, *(pytest.param(size, marks=pytest.mark.slow) for size in (64, 224))]
)
def test_weights_of_a_7x7_convolution_get_the_stem_of_torchvision(here, size):
    torch.manual_seed(0)
    theirs = resnet18(num_classes=3).eval()
    found = fit({f"module.{name}": t for name, t in theirs.state_dict().items()}, "resnet18", size)
    assert found.call == "resnet18(stem='standard')"
    assert found.notes[0] == "stem='standard', as the first convolution of the weights is 7×7"
    images = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(found.module(images), theirs(images))


@pytest.mark.parametrize("call", ["resnet8", "resnet18(stem='small')", "vgg11", "nets.py:fixed"])
def test_a_stem_that_is_given_and_models_without_one_stay(here, call):
    weights = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    assert with_stem(parse(call), weights) == (parse(call), ())


@pytest.mark.parametrize("size", [32, pytest.param(96, marks=pytest.mark.slow)])
def test_weights_of_a_3x3_convolution_get_the_small_stem_at_any_size(here, size):
    theirs, _ = build_model("resnet18(stem='small')", num_classes=3, size=32, seed=0)
    found = fit(theirs.state_dict(), "resnet18", size)
    assert found.call == "resnet18(stem='small')"
    assert found.notes == ("stem='small', as the first convolution of the weights is 3×3",)


def test_weights_of_one_channel_get_a_model_of_one(here):
    theirs, _ = build_model("lenet", num_classes=3, size=16, channels=1, seed=0)
    torch.save(theirs.state_dict(), "grey.pth")
    found = fit_bare_weights(read_weights(Path("grey.pth")), model="lenet", size=16)
    assert found.module(torch.zeros(1, 1, 16, 16)).shape == (1, 3)


def test_predict_confmat_and_summary_take_what_finetune_takes(here):
    paths = write_images(here)
    torch.manual_seed(0)
    theirs = resnet18(num_classes=3).eval()
    # As Lightning saves them, with the weight of the loss.
    saved = {f"model.{name}": t.half() for name, t in theirs.state_dict().items()}
    torch.save({"state_dict": saved | {"criterion.weight": torch.ones(3)}}, "theirs.ckpt")
    answers = {"model": "resnet18", "mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "size": 32}
    found = ptkit.predict("theirs.ckpt", paths, **answers)
    theirs.load_state_dict({name.removeprefix("model."): t for name, t in saved.items()})
    pipeline = ptkit.load("theirs.ckpt", **answers).predict
    assert [row["class"] for row in pipeline(paths)] == [row["class"] for row in found.rows]
    assert found.notes == (
        "weights of theirs.ckpt: took the weights under state_dict",
        "weights of theirs.ckpt: stem='standard', as the first convolution of the weights is 7×7",
        "weights of theirs.ckpt: removed the prefix model. from the weights' names",
        "weights of theirs.ckpt: left 1 tensor of no layer (criterion.weight)",
    )
    assert ptkit.evaluate("theirs.ckpt", "test.txt", **answers).notes == found.notes
