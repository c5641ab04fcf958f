import pytest
import torch
from torch import nn

from ptkit.core.models.layers import parameters_by_layer
from ptkit.core.models.zoo import build_model


def built(call, size=224):
    with torch.device("meta"):
        return build_model(call, num_classes=10, size=size, seed=0)[0]


def modules(names):
    """Return the modules that a layer's parameters belong to, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def starts(model):
    """Return the module of each layer's first parameter."""
    return [names[0].rpartition(".")[0] for names in parameters_by_layer(model)]


def test_lenet_has_five_layers_of_a_weight_and_a_bias():
    layers = [
        [f"{name}.weight", f"{name}.bias"] for name in ("conv1", "conv2", "fc1", "fc2", "fc3")
    ]
    assert parameters_by_layer(built("lenet", 32)) == layers


@pytest.mark.parametrize(
    ("call", "blocks"),
    [
        ("resnet8", ["layer1.0", "layer2.0", "layer3.0"]),
        ("resnet18", [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]),
    ],
)
def test_a_resnet_is_its_stem_its_blocks_and_its_head(call, blocks):
    model = built(call, 32)
    first, *middle, last = parameters_by_layer(model)
    assert first == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert middle == [
        [f"{block}.{n}" for n, _ in model.get_submodule(block).named_parameters()]
        for block in blocks
    ]
    assert last == ["fc.weight", "fc.bias"]


def test_a_transformer_is_its_patches_with_the_tokens_its_blocks_and_its_head():
    model = built("vit_b_16")
    first, *blocks, head = parameters_by_layer(model)
    assert first == ["class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"]
    prefix = "encoder.layers.encoder_layer_"
    assert [
        {name.removeprefix(prefix).partition(".")[0] for name in block} for block in blocks[:-1]
    ] == [{str(k)} for k in range(11)]
    assert blocks[-1][-2:] == ["encoder.ln.weight", "encoder.ln.bias"]
    assert head == ["heads.head.weight", "heads.head.bias"]


def test_vgg_has_a_layer_for_each_convolution_with_its_norm_and_each_linear_layer():
    first, *_ = layers = parameters_by_layer(built("vgg11_bn"))
    assert modules(first) == ["features.0", "features.1"]
    assert len(layers) == 8 + 3


@pytest.mark.parametrize(
    ("call", "count", "last_but_one", "last"),
    [
        ("convnext_tiny", 23, "features.7.2", "classifier.2"),
        ("swin_t", 17, "features.7.1.norm1", "head"),
        ("mobilenet_v3_small", 15, "classifier.0", "classifier.3"),
        ("efficientnet_b0", 19, "features.8.0", "classifier.1"),
        ("densenet121", 63, "features.denseblock4.denselayer16.norm1", "classifier"),
    ],
)
def test_other_families_come_apart_into_their_blocks(call, count, last_but_one, last):
    found = starts(built(call))
    assert len(found) == count
    assert found[-2:] == [last_but_one, last]


@pytest.mark.parametrize(
    "call", ["resnet20", "resnet34_tutorial", "googlenet", "maxvit_t", "shufflenet_v2_x0_5"]
)
def test_every_parameter_is_in_exactly_one_layer(call):
    model = built(call)
    layers = parameters_by_layer(model)
    assert sorted(name for names in layers for name in names) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert all(layers)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda inner: nn.Sequential(nn.BatchNorm2d(3, affine=False), inner),
        lambda inner: nn.ModuleDict({"net": inner}),
    ],
)
def test_a_wrapper_around_a_model_is_taken_apart(wrapped):
    assert len(parameters_by_layer(wrapped(built("resnet18", 32)))) == 10
    assert len(parameters_by_layer(wrapped(built("lenet", 32)))) == 5


def test_a_norm_goes_with_the_layer_before_it_and_a_first_one_with_the_next():
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 2)
    )
    assert [modules(names) for names in parameters_by_layer(model)] == [["0", "1", "2"], ["4"]]


def test_a_shared_layer_counts_where_it_comes_first():
    shared = nn.Linear(4, 4, bias=False)
    assert parameters_by_layer(nn.Sequential(shared, nn.Linear(4, 4, bias=False), shared)) == [
        ["0.weight"],
        ["1.weight"],
    ]


def test_a_weight_that_two_layers_share_belongs_to_the_first():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert parameters_by_layer(nn.Sequential(first, nn.Linear(4, 1), second)) == [
        ["0.weight", "0.bias"],
        ["1.weight", "1.bias"],
        ["2.bias"],
    ]


def test_models_of_one_layer_or_of_norms_only_have_one_layer_and_empty_ones_none():
    assert parameters_by_layer(nn.Linear(2, 2)) == [["weight", "bias"]]
    assert parameters_by_layer(nn.Sequential(nn.BatchNorm2d(2))) == [["0.weight", "0.bias"]]
    assert parameters_by_layer(nn.ReLU()) == []
