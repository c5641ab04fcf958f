import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ptkit.core.errors import UsageError
from ptkit.core.models.weightless import without_weights
from ptkit.core.models.zoo import build_model
from ptkit.looking.summary import Row, summarize

# Ours, and families of torchvision's that compute each in a way of its own.
CALLS = [
    ("lenet", 32),
    ("resnet8", 16),
    ("resnet34_tutorial", 32),
    ("resnet18", 64),
    ("vit_b_16", 32),
    ("swin_t", 64),
    ("mobilenet_v3_small", 32),
    ("regnet_y_400mf", 32),
    ("squeezenet1_1", 32),
]


def built(call, size):
    with without_weights():
        model, _ = build_model(call, num_classes=10, size=size, seed=0)
    return model.to("meta")


def counted(model, size, device="cpu"):
    """Return what torch's own counter counts for one image, by module and in all.

    Attention runs in plain steps: of a fused kernel the counter of some versions knows nothing.
    """
    had = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    torch.backends.mha.set_fastpath_enabled(had)
    return {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}


def summed(rows):
    return tuple(
        sum(getattr(row, key) for row in rows)
        for key in ("parameters", "trainable", "multiply_adds")
    )


def row(name, kind, shape, parameters, multiply_adds):
    return Row(name, kind, shape, 1, parameters, parameters, multiply_adds)


class Shared(nn.Module):
    """One convolution and one activation, used twice, and a layer that nothing uses."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.again = self.conv
        self.relu = nn.ReLU()
        self.unused = nn.Linear(5, 5)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, images):
        maps = self.relu(self.again(self.relu(self.conv(images)))).mean((2, 3))
        return maps @ torch.ones(3, 3) + self.bias


def test_lenet_is_what_one_counts_by_hand():
    found = summarize(built("lenet", 32), 32)
    assert found.rows == (
        row("conv1", "Conv2d", (6, 28, 28), 6 * 3 * 25 + 6, 6 * 28 * 28 * 3 * 25),
        row("pool1", "MaxPool2d", (6, 14, 14), 0, 0),
        row("conv2", "Conv2d", (16, 10, 10), 16 * 6 * 25 + 16, 16 * 10 * 10 * 6 * 25),
        row("pool2", "MaxPool2d", (16, 5, 5), 0, 0),
        row("fc1", "Linear", (120,), 400 * 120 + 120, 400 * 120),
        row("fc2", "Linear", (84,), 120 * 84 + 84, 120 * 84),
        row("fc3", "Linear", (10,), 84 * 10 + 10, 84 * 10),
    )
    assert (found.parameters, found.trainable) == (62_006, 62_006)
    assert found.multiply_adds == 352_800 + 240_000 + 48_000 + 10_080 + 840


def test_memory_of_lenet_is_what_autograd_needs():
    found = summarize(built("lenet", 32), 32)
    # Inputs of convolutions and linear layers, of the rectifiers their output; of pooling an index
    # of 8 bytes a value.
    floats = 3 * 32 * 32 + 6 * 28 * 28 + 6 * 14 * 14 + 16 * 10 * 10 + 400 + 120 + 84
    indices = 6 * 14 * 14 + 16 * 5 * 5
    assert found.weight_bytes == 4 * 62_006
    assert found.activation_bytes == 4 * floats + 8 * indices
    assert found.training_bytes == 4 * 4 * 62_006 + found.activation_bytes


@pytest.mark.parametrize(("call", "size"), CALLS)
def test_multiply_adds_are_those_of_torchs_own_counter(call, size):
    model = built(call, size)
    assert 2 * summarize(model, size).multiply_adds == counted(model, size, "meta")["Global"]


@pytest.mark.parametrize(
    ("call", "size"),
    [
        ("resnet18", 32),
        ("mobilenet_v3_small", 32),
        pytest.param("vit_b_16", 32, marks=pytest.mark.slow),
    ],
)
def test_rows_have_the_multiply_adds_that_torchs_counter_gives_to_their_modules(call, size):
    model = built(call, size)
    theirs, kind = counted(model, size, "meta"), type(model).__name__
    found = {
        f"{kind}.{row.name}": 2 * row.multiply_adds
        for row in summarize(model, size).rows
        if row.multiply_adds
    }
    assert found == {name: theirs[name] for name in found}
    assert sum(found.values()) == theirs["Global"]


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
    return nn.Sequential(nn.Flatten(2), nn.TransformerEncoder(layer, 2), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "size"),
    [(encoder, 4), pytest.param(torchvision.models.swin_t, 32, marks=pytest.mark.slow)],
)
def test_real_weights_give_the_same_as_shapes_alone_and_as_torchs_counter(make, size):
    model = make()
    found = summarize(model, size)
    assert 2 * found.multiply_adds == counted(model, size)["Global"]
    assert found == summarize(model.to("meta"), size)


def test_attention_is_counted_though_its_layers_are_never_called():
    rows = {row.name: row for row in summarize(encoder(), 4).rows}
    attention = rows["1.layers.1.self_attn"]
    # Three tokens (the channels) of 16 values: the projections in and out, scores, and weighted
    # values.
    assert attention.multiply_adds == 3 * 16 * 48 + 3 * 16 * 16 + 2 * 3 * 3 * 16
    assert attention.parameters == 16 * 48 + 48 + 16 * 16 + 16


@pytest.mark.parametrize(
    ("call", "size"),
    [("lenet", 32), ("resnet8", 16), pytest.param("vit_b_16", 32, marks=pytest.mark.slow)],
)
def test_rows_of_any_depth_add_up_to_the_model(call, size):
    model = built(call, size)
    totals = summarize(model, size)
    sums = [summed(summarize(model, size, depth=depth).rows) for depth in (1, 2, 3)]
    assert sums == [(totals.parameters, totals.trainable, totals.multiply_adds)] * 3
    assert summed(totals.rows) == sums[0]


def test_depth_one_shows_the_direct_parts_of_the_model():
    rows = summarize(built("resnet18", 224), 224, depth=1).rows
    shown = [(row.name, row.shape) for row in rows if row.parameters]
    assert shown == [
        ("conv1", (64, 112, 112)),
        ("bn1", (64, 112, 112)),
        ("layer1", (64, 56, 56)),
        ("layer2", (128, 28, 28)),
        ("layer3", (256, 14, 14)),
        ("layer4", (512, 7, 7)),
        ("fc", (10,)),
    ]


def test_shared_layers_count_once_and_run_as_often_as_they_are_called():
    found = summarize(Shared(), 4)
    assert found.rows == (
        # The model's own: a bias, and a product that stands in no layer.
        Row("", "Shared", (3,), 1, 3, 3, 3 * 3),
        Row("conv", "Conv2d", (3, 4, 4), 2, 9, 9, 2 * 9 * 16),
        Row("relu", "ReLU", (3, 4, 4), 2, 0, 0, 0),
        Row("unused", "Linear", None, 0, 30, 30, 0),
    )
    assert found.parameters == 42


def test_frozen_parameters_are_not_trainable_and_need_neither_gradient_nor_activations():
    model = built("resnet8", 16)
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    found = summarize(model, 16)
    assert found.trainable == 650
    assert [row.name for row in found.rows if row.trainable] == ["fc"]
    assert found.activation_bytes == 4 * 64
    assert found.training_bytes == found.weight_bytes + 3 * 4 * 650 + 4 * 64


def test_attention_is_counted_in_a_model_that_nothing_trains():
    # Where no gradient is needed torch would take its fused path, which hides what it computes.
    assert (
        summarize(encoder().requires_grad_(False), 4).multiply_adds
        == summarize(encoder(), 4).multiply_adds
    )


def test_buffers_take_memory_beside_the_parameters():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1, bias=False), nn.Flatten())
    # Scale and shift, mean and variance, three each; a count of 8 bytes; the kernel.
    assert summarize(model, 4).weight_bytes == 4 * 4 * 3 + 8 + 4 * 3


def test_a_model_of_one_layer_is_one_row():
    model = nn.Conv2d(3, 5, 4)
    rows = summarize(nn.Sequential(model, nn.Flatten()), 4).rows
    assert [(row.name, row.multiply_adds) for row in rows] == [("0", 3 * 5 * 16), ("1", 0)]


def test_outputs_that_are_no_tensors_have_the_shape_of_the_first_one_inside():
    class Pair(nn.Module):
        def forward(self, images):
            return {"found": [None, images.mean((2, 3))], "rest": 3}

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, images):
            return F.relu(self.pair(images)["found"][1])

    assert [(row.name, row.shape) for row in summarize(Both(), 4).rows] == [("pair", (3,))]


def test_the_model_its_statistics_and_the_fast_path_stay_as_they_were():
    model, _ = build_model("resnet8", num_classes=3, size=16, seed=0)
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summarize(model, 16)
    assert (model.training, model.layer1.training, model.layer2.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parameters_made_without_weights_take_no_memory_and_others_do():
    with without_weights():
        inside = nn.Linear(3, 2)
    outside = nn.Linear(3, 2)
    assert {parameter.device.type for parameter in inside.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in outside.parameters()} == {"cpu"}


def test_a_size_that_the_model_does_not_take_is_a_usage_error():
    with pytest.raises(
        UsageError,
        match=r"SqueezeNet does not take 8×8 images .*: change --size, --model or the transforms",
    ):
        summarize(built("squeezenet1_1", 8), 8)
