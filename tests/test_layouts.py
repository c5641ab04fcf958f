"""The layout of a map comes from the modules: images that are not square, and sides that agree with
the number of channels.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from ptkit.core.models.gradcam import gradcam
from ptkit.core.models.hooks import record_activations, trace_layers
from ptkit.core.models.resnet import resnet8

SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": [4, 4],
}
BLOCKS = [CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]
# One small model of every family of torchvision that takes images that are not square.
FAMILIES = {
    "alexnet": models.alexnet,
    "vgg": lambda: models.vgg11_bn(init_weights=False),
    "resnet": models.resnet18,
    "squeezenet": models.squeezenet1_1,
    "densenet": models.densenet121,
    "googlenet": lambda: models.googlenet(aux_logits=False, init_weights=False),
    "inception": lambda: models.inception_v3(aux_logits=False, init_weights=False),
    "shufflenet": models.shufflenet_v2_x0_5,
    "mobilenet_v2": models.mobilenet_v2,
    "mobilenet_v3": models.mobilenet_v3_small,
    "efficientnet": models.efficientnet_b0,
    "regnet": models.regnet_y_400mf,
    "mnasnet": models.mnasnet0_5,
    "convnext": lambda: ConvNeXt(BLOCKS),
    "swin": lambda: SwinTransformer(**SWIN),
    "swin_v2": lambda: SwinTransformer(
        **SWIN, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
}
# Inception takes nothing smaller.
SCALE = {"inception": 2}
# Built and laid out as one of the others, and large.
LARGE = {
    *("alexnet", "vgg", "densenet", "inception"),
    *("mobilenet_v2", "efficientnet", "regnet", "mnasnet"),
}
FAMILY_CASES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in FAMILIES
]


def plain_outputs(model, images):
    """What torch's own hooks see, by module; copies, as an in-place ReLU may follow."""
    found, handles = {}, []

    def keep(name, output):
        if isinstance(output, torch.Tensor):
            found[name] = output.clone()

    for name, module in model.named_modules():
        handles.append(
            module.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
        )
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def axis_that_grows(small, large):
    """The axis of the one side that the larger image changed; None where that is not clear."""
    changed = [k for k in range(small.ndim) if small.shape[k] != large.shape[k]]
    return changed[0] if len(changed) == 1 else None


@pytest.mark.parametrize("size", [(64, 96), pytest.param((96, 64), marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILY_CASES)
def test_maps_of_every_family_are_those_of_plain_hooks(family, size):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    height, width = (side * SCALE.get(family, 1) for side in size)
    images = torch.randn(1, 3, height, width)
    plain = plain_outputs(model, images)
    taller = plain_outputs(model, torch.zeros(1, 3, 2 * height, width))
    wider = plain_outputs(model, torch.zeros(1, 3, height, 2 * width))
    expected = {}
    for name, output in plain.items():
        h, w = axis_that_grows(output, taller[name]), axis_that_grows(output, wider[name])
        if name and output.ndim == 4 and h is not None and w is not None:
            expected[name] = output.permute(0, 6 - h - w, h, w).float().numpy()
    assert len(expected) > 10
    found = record_activations(model, images, list(expected))
    for name, maps in expected.items():
        np.testing.assert_array_equal(found[name], maps, err_msg=name)
    shapes = {layer.name: layer.shape for layer in trace_layers(model, images)}
    assert {name: shapes[name] for name in expected} == {
        name: maps.shape[1:] for name, maps in expected.items()
    }


def test_maps_of_maxvit_are_those_of_plain_hooks():
    model = MaxVit(
        input_size=(64, 64), stem_channels=16, partition_size=4, block_channels=[16, 32],
        block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0,
    ).eval()  # fmt: skip
    # Its attention over the grid takes square images only.
    images = torch.randn(1, 3, 64, 64)
    plain = plain_outputs(model, images)
    blocks = ["stem", "blocks.0", "blocks.1", "blocks.0.layers.0.layers.MBconv"]
    found = record_activations(model, images, blocks)
    for name in blocks:
        np.testing.assert_array_equal(found[name], plain[name].numpy())
    assert found["blocks.1"].shape == (1, 32, 8, 8)


def test_tokens_of_vit_lie_on_the_grid_of_its_patches():
    model = models.VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    tokens = plain_outputs(model, images)["encoder.ln"]
    found = record_activations(model, images, ["encoder.ln"])["encoder.ln"]
    expected = tokens[:, 1:].transpose(1, 2).reshape(2, 8, 4, 4)
    np.testing.assert_array_equal(found, expected.numpy())


class Patches(nn.Module):
    """Tokens (n, T, C) of 4×4 patches, cut by hand, with a class token or without."""

    def __init__(self, *, has_class_token):
        super().__init__()
        self.embed, self.norm = nn.Linear(48, 6), nn.LayerNorm(6)
        self.token = nn.Parameter(torch.zeros(1, 1, 6)) if has_class_token else None

    def forward(self, images):
        tokens = self.embed(F.unfold(images, 4, stride=4).transpose(1, 2))
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(images), 1, 6), tokens], dim=1)
        return self.norm(tokens).mean(1)


@pytest.mark.parametrize("has_class_token", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (12, 8), (8, 8)])
def test_tokens_lie_as_their_patches_do(size, has_class_token):
    model = Patches(has_class_token=has_class_token)
    images = torch.randn(2, 3, *size)
    tokens = plain_outputs(model, images)["norm"][:, int(has_class_token) :]
    expected = tokens.transpose(1, 2).reshape(2, 6, size[0] // 4, size[1] // 4)
    found = record_activations(model, images, ["norm"])["norm"]
    np.testing.assert_array_equal(found, expected.numpy())


def test_tokens_without_a_grid_are_a_strip_with_their_channels_first():
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 3), nn.ReLU())
    images = torch.randn(1, 3, 4, 4)
    found = record_activations(model, images, ["1", "2"])
    expected = plain_outputs(model, images)
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name][:, :, None].numpy())


class Turned(nn.Module):
    """Turns its maps to channels last and back, without a module that says so."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.turn, self.drop = TurnedBlock(), nn.Dropout()
        self.norm, self.act, self.linear = nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, images):
        maps = self.drop(self.turn(self.conv(images)))
        maps = self.linear(self.act(self.norm(maps)))
        return self.head(maps.permute(0, 3, 1, 2)).mean((2, 3))


class TurnedBlock(nn.Module):
    def forward(self, maps):
        return maps.permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (16, 16), (5, 7)])
def test_what_a_block_gives_is_read_as_the_modules_around_it_read_it(size):
    torch.manual_seed(0)
    model, images = Turned().eval(), torch.randn(1, 3, *size)
    plain = plain_outputs(model, images)
    found = record_activations(model, images, [name for name in plain if name])
    for name in ("turn", "drop", "norm", "act", "linear"):
        np.testing.assert_array_equal(found[name], plain[name].permute(0, 3, 1, 2), err_msg=name)
    for name in ("conv", "head"):
        np.testing.assert_array_equal(found[name], plain[name], err_msg=name)


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_grad_cam_of_maps_as_high_as_their_channels_is_the_papers_formula(size):
    torch.manual_seed(0)
    model, images = resnet8(num_classes=3).eval(), torch.randn(2, 3, *size)
    maps = model.conv1(images)
    scores = model.bn1(maps).relu()
    for layer in (model.layer1, model.layer2, model.layer3):
        scores = layer(scores)
    scores = model.fc(model.avgpool(scores).flatten(1))
    (slopes,) = torch.autograd.grad(scores[[0, 1], [2, 0]].sum(), maps)
    heat = torch.einsum("nc,nchw->nhw", slopes.mean((2, 3)), maps).relu()[:, None]
    heat = F.interpolate(heat, size, mode="bilinear")[:, 0].detach()
    expected = (heat / heat.amax((1, 2), keepdim=True)).numpy()
    np.testing.assert_allclose(gradcam(model, images, [2, 0], "conv1"), expected, atol=1e-5)


def test_grad_cam_of_swin_is_the_papers_formula_on_its_turned_maps():
    torch.manual_seed(0)
    model, images = SwinTransformer(**SWIN, num_classes=3).eval(), torch.randn(1, 3, 64, 96)
    maps = model.features[:2](images)
    normed = model.permute(model.norm(model.features[2:](maps)))
    score = model.head(model.flatten(model.avgpool(normed)))[0, 1]
    (slopes,) = torch.autograd.grad(score, maps)
    heat = torch.einsum("nc,nhwc->nhw", slopes.mean((1, 2)), maps).relu()[:, None]
    heat = F.interpolate(heat, (64, 96), mode="bilinear")[:, 0].detach()
    found = gradcam(model, images, [1], "features.1")
    np.testing.assert_allclose(found, (heat / heat.max()).numpy(), atol=1e-5)
