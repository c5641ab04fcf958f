"""Whose weights a state dict looks like."""

import pytest
import torch
from torch import nn

from ptkit.core.models.recognition import recognised
from ptkit.core.models.zoo import build_model


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("resnet8", "resnet8"),
        # All names of a resnet8 are in it.
        ("resnet20", "resnet20"),
        ("alexnet", "alexnet"),
        ("efficientnet_lite0", "efficientnet_lite0"),
    ],
)
def test_weights_of_a_known_model_are_recognised_whatever_their_classes(call, name):
    with torch.device("meta"):
        model, _ = build_model(call, num_classes=7, size=None, seed=0)
    wrapped = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    assert recognised(wrapped) == f"; they look like those of {name}"


def test_of_other_weights_nothing_is_said():
    assert recognised(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict()) == ""
