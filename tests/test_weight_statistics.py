import math

import pytest
import torch
from torch import nn

from ptkit.core.models.initialization import initialize
from ptkit.core.models.weight_statistics import WeightStatistics, as_text, weight_statistics
from ptkit.core.models.zoo import build_model


@pytest.fixture
def model():
    layers = nn.Sequential(nn.Conv2d(2, 1, 2), nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        layers[0].weight.copy_(torch.arange(8.0).view(1, 2, 2, 2))
        layers[0].bias.fill_(5)
        layers[2].weight.fill_(-1)
    return layers


def test_every_parameter_has_its_mean_spread_range_and_the_spread_that_its_fan_in_asks_for(model):
    assert weight_statistics(model) == [
        WeightStatistics(
            "0.weight", (1, 2, 2, 2), 3.5, pytest.approx(math.sqrt(5.25)), 0, 7, math.sqrt(2 / 8)
        ),
        WeightStatistics("0.bias", (1,), 5, 0, 5, 5, None),
        WeightStatistics("2.weight", (2, 4), -1, 0, -1, -1, math.sqrt(2 / 4)),
    ]


def test_text_is_a_markdown_table_with_a_line_a_parameter(model):
    assert as_text(weight_statistics(model)).split("\n") == [
        "parameter    shape  mean    std  min  max  std for ReLU",
        "0.weight   1×2×2×2   3.5  2.291    0    7           0.5",
        "0.bias           1     5      0    5    5             -",
        "2.weight       2×4    -1      0   -1   -1        0.7071",
    ]


def test_kaiming_initialisation_gives_the_expected_spread():
    model, _ = build_model("resnet8()", num_classes=10, size=16, seed=0)
    initialize(model, ["Conv2d=kaiming_normal_(nonlinearity='relu')"], seed=0)
    rows = [row for row in weight_statistics(model) if len(row.shape) == 4]
    assert len(rows) == 9
    assert [row.std for row in rows] == pytest.approx([row.expected_std for row in rows], rel=0.1)


def test_a_token_has_no_expected_spread_and_the_weights_of_attention_have_one():
    model = nn.MultiheadAttention(8, 2)
    model.class_token = nn.Parameter(torch.zeros(1, 1, 8))
    expected = {row.name: row.expected_std for row in weight_statistics(model)}
    assert expected["class_token"] is None
    assert expected["in_proj_weight"] == expected["out_proj.weight"] == math.sqrt(2 / 8)


def test_the_model_and_the_random_state_stay_as_they_were(model):
    before = torch.get_rng_state()
    weight_statistics(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
