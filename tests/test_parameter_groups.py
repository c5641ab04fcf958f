import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.layers import parameters_by_layer
from ptkit.core.models.lenet import lenet
from ptkit.core.models.resnet import resnet8
from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import OptimizerSetup, build_optimizer
from ptkit.core.training.optimization.parameter_groups import GroupLine, parse_group


@pytest.fixture
def model() -> nn.Module:
    return lenet(num_classes=3, size=16)


def names_of(prepared: OptimizerSetup) -> tuple[str, ...]:
    return tuple(group["name"] for group in prepared.param_groups)


def _rates(
    model: nn.Module, *groups: str, decay: float = 0.5, call: str = "SGD()"
) -> dict[str, float]:
    prepared = build_optimizer(parse(call), model, lr=1.0, groups=groups, layer_decay=decay)
    return {name: g["lr"] for g in prepared.optimizer.param_groups for name in g["param_names"]}


def test_each_layer_has_a_share_of_the_next_ones_rate(model: nn.Module) -> None:
    rates = _rates(model)
    by_layer = [rates[f"{layer}.weight"] for layer in ("conv1", "conv2", "fc1", "fc2", "fc3")]
    assert by_layer == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert all(
        rates[f"{layer}.bias"] == rates[f"{layer}.weight"]
        for layer in ("conv1", "conv2", "fc1", "fc2", "fc3")
    )


@pytest.mark.parametrize("build", [lenet, resnet8])
def test_every_parameter_has_the_rate_of_its_layer(build) -> None:  # type: ignore[no-untyped-def]
    model = build(num_classes=3)
    layers = parameters_by_layer(model)
    expected = {
        name: 0.5 ** (len(layers) - k) for k, names in enumerate(layers, start=1) for name in names
    }
    assert _rates(model) == expected


def test_groups_by_layer_have_readable_names(model: nn.Module) -> None:
    prepared = build_optimizer(parse("SGD(weight_decay=0.1)"), model, lr=0.3, layer_decay=0.7)
    assert names_of(prepared)[:4] == (
        "layer 1 of 5, lr=0.24x",
        "layer 1 of 5, lr=0.24x, weight_decay=0",
        "layer 2 of 5, lr=0.343x",
        "layer 2 of 5, lr=0.343x, weight_decay=0",
    )


def test_a_line_of_the_user_wins_over_the_layers_rate(model: nn.Module) -> None:
    groups = ["fc1: lr=3x", "conv1: frozen", "conv2: momentum=0.5", "fc2: unfreeze=2"]
    prepared = build_optimizer(parse("SGD()"), model, lr=1.0, groups=groups, layer_decay=0.5)
    assert [(g["name"], g["lr"], g["momentum"]) for g in prepared.param_groups] == [
        ("layer 2 of 5, lr=0.125x, momentum=0.5", 0.125, 0.5),
        ("lr=3", 3.0, 0),
        ("layer 5 of 5, lr=1x", 1.0, 0),
        ("from epoch 2, layer 4 of 5, lr=0.5x", 0.5, 0),
    ]


def test_a_decay_of_one_makes_no_groups(model: nn.Module) -> None:
    prepared = build_optimizer(parse("SGD()"), model, lr=1.0, layer_decay=1.0)
    assert names_of(prepared) == ("all",)


def test_muon_and_its_companion_decay_alike(model: nn.Module) -> None:
    rates = _rates(model, call="Muon()")
    assert rates["conv1.weight"] == 0.0625
    assert rates["conv1.bias"] == pytest.approx(0.00625)


def test_lbfgs_takes_no_rates_by_layer(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"leave optimizer\.layer_decay out"):
        _rates(model, call="LBFGS()")


def test_layers_far_from_the_head_move_less(model: nn.Module) -> None:
    optimizer = build_optimizer(parse("Rprop()"), model, lr=0.01, layer_decay=0.5).optimizer
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.ones(2, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    moved = {
        name: (p.detach() - before[name]).abs().max().item() for name, p in model.named_parameters()
    }
    # The first step of Rprop is the rate itself.
    assert [moved[f"{layer}.bias"] for layer in ("fc1", "fc2", "fc3")] == pytest.approx(
        [0.0025, 0.005, 0.01], rel=1e-3
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fc: lr=0.1x", GroupLine("fc", lr_factor=0.1)),
        ("fc: lr=0.1, betas=(0.8, 0.9)", GroupLine("fc", {"lr": 0.1, "betas": (0.8, 0.9)})),
        ("layer1: unfreeze=5", GroupLine("layer1", unfreeze=5)),
        ("layer1: unfreeze=5, lr=0.1x", GroupLine("layer1", lr_factor=0.1, unfreeze=5)),
        ("layer1.*: frozen", GroupLine("layer1.*", is_frozen=True)),
        ("layer1: excluded", GroupLine("layer1", is_excluded=True)),
    ],
)
def test_group_lines_are_read(line: str, found: GroupLine) -> None:
    assert parse_group(line) == found
