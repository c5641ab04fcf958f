import pytest
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.selectors import matching_parameters, matching_weights


class OwnConv(nn.Conv2d):
    pass


@pytest.fixture
def model():
    body = nn.Sequential(OwnConv(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.ModuleDict(
        {"body": body, "extra": nn.Conv2d(4, 4, 1, bias=False), "fc": nn.Linear(4, 2)}
    )


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("Linear", ["fc.weight", "fc.bias"]),
        ("Conv2d", ["body.0.weight", "body.0.bias", "extra.weight"]),
        ("OwnConv", ["body.0.weight", "body.0.bias"]),
        ("body", ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]),
        ("body.1", ["body.1.weight", "body.1.bias"]),
        ("fc.bias", ["fc.bias"]),
        ("*.bias", ["body.0.bias", "body.1.bias", "fc.bias"]),
        ("body.[01].w*", ["body.0.weight", "body.1.weight"]),
    ],
)
def test_selector_names_classes_modules_parameters_and_globs(model, selector, names):
    assert matching_parameters(model, selector) == names


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("Conv2d", ["body.0.weight", "extra.weight"]),
        ("body", ["body.0.weight", "body.1.weight"]),
        ("fc.bias", ["fc.bias"]),
        ("fc.*", ["fc.weight", "fc.bias"]),
    ],
)
def test_initialisation_means_the_weight_of_a_class_or_module(model, selector, names):
    assert matching_weights(model, selector) == names


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("Linaer", "did you mean Linear?"),
        ("fc.wieght", "did you mean fc.weight?"),
        ("layer9.*", "layer9.* is not a layer class, module or parameter"),
        ("ReLU", "ReLU has no parameters in ModuleDict"),
        ("Module", "Module is not a layer class"),
    ],
)
def test_selector_that_matches_nothing_is_a_usage_error(model, selector, message):
    with pytest.raises(UsageError) as caught:
        matching_parameters(model, selector)
    assert message in str(caught.value)
