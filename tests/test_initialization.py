import math

import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import INITS, initialize


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 32)
    )


def weights_after(model, *lines, seed=0):
    initialize(model, lines, seed=seed)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def bound(fan):
    return math.sqrt(6 / fan)


@pytest.mark.parametrize(
    ("call", "low", "high", "std"),
    [
        ("xavier_uniform_()", -bound(96), bound(96), math.sqrt(2 / 96)),
        ("xavier_uniform_(gain=2)", -2 * bound(96), 2 * bound(96), 2 * math.sqrt(2 / 96)),
        ("xavier_normal_()", -1, 1, math.sqrt(2 / 96)),
        ("kaiming_uniform_(nonlinearity='relu')", -bound(64), bound(64), math.sqrt(2 / 64)),
        ("kaiming_normal_(a=1)", -1, 1, math.sqrt(1 / 64)),
        ("kaiming_normal_(mode='fan_out', nonlinearity='relu')", -2, 2, math.sqrt(2 / 32)),
        ("uniform_(a=-3, b=1)", -3, 1, 4 / math.sqrt(12)),
        ("normal_(mean=0, std=0.2)", -1.2, 1.2, 0.2),
        ("xavier_normal_(gain=calculate_gain('relu'))", -1, 1, math.sqrt(4 / 96)),
        ("normal_(std=calculate_gain('leaky_relu', 0.5))", -8, 8, math.sqrt(1.6)),
    ],
)
def test_values_have_the_range_and_spread_of_the_method(model, call, low, high, std):
    weight = weights_after(model, f"4.weight={call}")["4.weight"]
    assert low <= weight.min() < weight.max() <= high
    assert weight.std().item() == pytest.approx(std, rel=0.06)


@pytest.mark.parametrize("selector", ["Conv2d", "0", "0.weight", "0.w*"])
@pytest.mark.parametrize(
    ("call", "mean", "std"),
    [
        ("xavier_uniform_(gain=3)", 0, 3 * math.sqrt(2 / (27 + 144))),
        ("xavier_normal_(gain=0.5)", 0, 0.5 * math.sqrt(2 / (27 + 144))),
        (
            "kaiming_uniform_(a=2, mode='fan_out', nonlinearity='leaky_relu')",
            0,
            math.sqrt(2 / 5 / 144),
        ),
        ("kaiming_normal_(mode='fan_in', nonlinearity='tanh')", 0, 5 / 3 / math.sqrt(27)),
        ("uniform_(a=1, b=3)", 2, 1 / math.sqrt(3)),
        ("normal_(mean=4, std=0.1)", 4, 0.1),
        ("constant_(val=2)", 2, 0),
    ],
)
def test_class_module_parameter_and_glob_reach_the_same_weight_with_every_argument(
    model, selector, call, mean, std
):
    before = model[0].bias.detach().clone()
    after = weights_after(model, f"{selector}={call}")
    assert after["0.weight"].mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(432))
    assert after["0.weight"].std().item() == pytest.approx(std, rel=0.1)
    assert torch.equal(after["0.bias"], before)


@pytest.mark.parametrize(
    ("text", "gain"),
    [
        ("calculate_gain('tanh')", 5 / 3),
        ("calculate_gain('relu')", math.sqrt(2)),
        ("calculate_gain('leaky_relu', param=1)", 1),
        ("calculate_gain('selu')", 0.75),
    ],
)
def test_the_gain_is_pytorchs_own(model, text, gain):
    drawn = [
        weights_after(model, f"4=xavier_normal_(gain={value})")["4.weight"]
        for value in (text, gain)
    ]
    assert torch.allclose(*drawn)


def test_orthogonal_fills_convolutions_too_as_rows_of_their_kernels(model):
    rows = weights_after(model, "Conv2d=orthogonal_()")["0.weight"].flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(16), atol=1e-5)


def test_a_function_of_the_users_own_fills_any_shape(model, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def eye_(tensor, scale): tensor.fill_(scale)\n")
    after = weights_after(model, f"Conv2d={file}:eye_(scale=3)")
    assert after["0.weight"].unique().tolist() == [3]


def test_constant_eye_orthogonal_and_sparse_fill_what_they_say(model):
    assert weights_after(model, "4=constant_(0.3)")["4.weight"].unique().tolist() == [
        pytest.approx(0.3)
    ]
    assert torch.equal(weights_after(model, "Linear=eye_()")["4.weight"], torch.eye(32, 64))
    rows = weights_after(model, "4=orthogonal_(gain=3)")["4.weight"]
    assert torch.allclose(rows @ rows.T, 9 * torch.eye(32), atol=1e-4)
    sparse = weights_after(model, "4=sparse_(0.25, std=1)")["4.weight"]
    assert ((sparse == 0).sum(dim=0) == 8).all()


def test_tutorial_is_the_recipe_of_the_course(model):
    with torch.no_grad():
        model[1].weight.fill_(7)
        model[1].bias.fill_(7)
    after = weights_after(model, "tutorial")
    assert after["0.weight"].std().item() == pytest.approx(math.sqrt(2 / (27 + 144)), rel=0.1)
    assert after["4.weight"].std().item() == pytest.approx(0.01, rel=0.06)
    assert after["1.weight"].unique().tolist() == [1]
    assert [after[name].abs().max().item() for name in ("0.bias", "1.bias", "4.bias")] == [0, 0, 0]


def test_tutorial_serves_a_model_without_batch_norm():
    after = weights_after(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)), "tutorial"
    )
    assert after["1.bias"].tolist() == [0, 0]


def test_tutorial_refuses_a_model_that_it_says_nothing_about():
    with pytest.raises(
        UsageError,
        match="tutorial is for Conv2d, BatchNorm2d and Linear, and PReLU has none of them",
    ):
        initialize(nn.PReLU(), ["tutorial"], seed=0)


def test_of_two_lines_the_later_counts(model):
    after = weights_after(model, "tutorial", "Linear=constant_(1)", "4.bias=constant_(2)")
    assert after["4.weight"].unique().tolist() == [1]
    assert after["4.bias"].unique().tolist() == [2]


def test_parameters_that_no_line_names_stay(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    after = weights_after(model, "Conv2d=constant_(5)")
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["0.weight"]


@pytest.mark.parametrize("call", ["xavier_normal_()", "sparse_(0.5)", "orthogonal_()"])
def test_values_follow_from_the_seed_and_not_from_the_global_generator(model, call):
    first = weights_after(model, f"4={call}", seed=5)["4.weight"]
    torch.rand(3)
    state = torch.get_rng_state()
    again = weights_after(model, "Conv2d=normal_()", f"4={call}", seed=5)["4.weight"]
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, weights_after(model, f"4={call}", seed=6)["4.weight"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0=eye_()", "eye_ fills matrices only, and 0.weight is 4-D (16, 3, 3, 3)"),
        ("0=sparse_(0.1)", "sparse_ fills matrices only, and 0.weight is 4-D"),
        (
            "4.bias=xavier_normal_()",
            "xavier_normal_ needs two dimensions or more, and 4.bias is 1-D (32,)",
        ),
        ("BatchNorm2d=kaiming_uniform_()", "and 1.weight is 1-D (16,)"),
        ("*=orthogonal_()", "and 0.bias is 1-D (16,)"),
        ("4=sparse_(10)", "sparsity must be a number of at least 0 and below 1, found 10"),
        ("4=kaiming_norml_()", "did you mean kaiming_normal_?"),
        ("4=kaiming_normal_(moda='fan_in')", "did you mean mode?"),
        ("4=kaiming_normal_(mode='fan_up')", "mode must be 'fan_in' or 'fan_out', found 'fan_up'"),
        ("4=normal_(tensor=3)", "normal_ has no argument tensor"),
        ("4=constant_()", "missing a required argument: 'val'"),
        ("4=xavier_normal_(gain=calculate_gain('rely'))", "found 'rely'"),
        ("Conv3d=eye_()", "did you mean Conv2d?"),
        (
            "Conv=eye_()",
            "Conv is not a layer class, module or parameter of Sequential; did you mean Conv2d?",
        ),
        ("ReLU=normal_()", "ReLU has no parameters"),
        ("fc.*=normal_()", "a glob matches names of parameters, such as 0.weight"),
        ("tutorials", "expected SELECTOR=VALUE"),
    ],
)
def test_wrong_line_is_a_usage_error(model, line, message):
    with pytest.raises(UsageError) as caught:
        initialize(model, [line], seed=0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("selector", "nearest"),
    [("Conv", "Conv2d"), ("Lin", "Linear"), ("Convd", "Conv2d"), ("conv", "conv1")],
)
def test_a_selector_in_capitals_is_held_against_layer_classes_first(selector, nearest):
    model = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 1), "lin": nn.Linear(4, 2)})
    with pytest.raises(UsageError, match=rf"; did you mean {nearest}\?"):
        initialize(model, [f"{selector}=normal_()"], seed=0)


def test_table_has_the_ten_methods_with_their_arguments():
    assert len(INITS.parts) == 10
    assert (
        INITS.describe("kaiming_normal_")[0]
        == "kaiming_normal_(a=0, mode='fan_in', nonlinearity='leaky_relu')"
    )
