import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import (
    default_layers,
    evaluating,
    match_layers,
    record_activations,
    taking,
    trace_layers,
)


class Branching(nn.Module):
    """An in-place ReLU used twice, a functional ReLU, a branch, and a layer never called."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(4, 6, 3, padding=1)
        self.drop = nn.Dropout(0.9)
        self.fc = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 2)

    def forward(self, images):
        first = self.relu(self.conv1(images))
        both = self.relu(self.conv2(first)) + first
        last = F.relu(self.conv3(self.pool(both)))
        return self.fc(self.drop(last.mean((2, 3))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Branching()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def names(layers):
    return [layer.name for layer in layers]


def test_layers_come_in_the_order_in_which_they_finished_last(model, images):
    traced = trace_layers(model, images)
    assert names(traced) == ["conv1", "conv2", "relu", "pool", "conv3", "drop", "fc"]
    shapes = {layer.name: layer.shape for layer in traced}
    assert shapes["relu"] == (4, 8, 8)
    assert shapes["conv3"] == (6, 4, 4)
    assert shapes["fc"] == (2,)
    assert {layer.name: layer.num_calls for layer in traced if layer.num_calls > 1} == {"relu": 2}


def test_recorded_output_is_a_copy_that_an_inplace_relu_cannot_overwrite(model, images):
    found = record_activations(model, images, ["conv1"])["conv1"]
    with torch.no_grad():
        expected = F.conv2d(images, model.conv1.weight, model.conv1.bias, padding=1)
    assert found.min() < 0
    assert torch.equal(torch.from_numpy(found), expected)


def test_a_module_called_twice_gives_its_last_output(model, images):
    found = record_activations(model, images, ["relu", "conv2"])
    assert torch.equal(torch.from_numpy(found["relu"]), torch.from_numpy(found["conv2"]).relu())


def test_plain_vectors_become_maps_of_one_pixel(model, images):
    assert record_activations(model, images, ["fc"])["fc"].shape == (2, 2, 1, 1)


def test_model_is_left_as_it_was(model, images):
    model.train()
    model.conv1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    record_activations(model, images, ["fc"])
    assert model.training
    assert model.drop.training
    assert not model.conv1.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_dropout_is_off_while_recording(model, images):
    model.train()
    first, second = (record_activations(model, images, ["drop"])["drop"] for _ in range(2))
    assert (first == second).all()
    assert (first != 0).mean() > 0.5


def test_default_is_the_last_layer_of_each_resolution(model, images):
    assert default_layers(trace_layers(model, images)) == ["relu", "conv3"]


def test_default_is_at_most_six_layers_from_the_first_to_the_last_resolution():
    model = nn.Sequential(*(nn.MaxPool2d(2, 1) for _ in range(20)))
    chosen = default_layers(trace_layers(model, torch.zeros(1, 3, 32, 32)))
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == ("0", "19")


def test_default_of_a_model_without_maps_is_its_last_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU())
    assert default_layers(trace_layers(model, torch.zeros(1, 3, 4, 4))) == ["2"]


def test_globs_match_in_the_order_of_the_pass(model, images):
    assert match_layers(trace_layers(model, images), ["fc", "conv[13]"]) == ["conv1", "conv3", "fc"]


def test_a_pattern_that_matches_nothing_names_the_nearest_layer(model, images):
    with pytest.raises(UsageError, match="--layers convv3 matches no layer; did you mean conv3"):
        match_layers(trace_layers(model, images), ["fc", "convv3"])


def test_names_joined_by_commas_are_answered_with_how_to_give_several(model, images):
    layers = trace_layers(model, images)
    with pytest.raises(UsageError, match="conv1,fc matches no layer: give each name its own --lay"):
        match_layers(layers, ["conv1,fc"])


def test_a_layer_that_is_never_called_is_an_error(model, images):
    with pytest.raises(UsageError, match="never calls unused"):
        record_activations(model, images, ["unused"])


def test_images_of_a_size_the_model_does_not_take_are_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(UsageError, match="Sequential does not take 5×5 images"):
        trace_layers(model, torch.zeros(1, 3, 5, 5))
    assert not any(module._forward_hooks for module in model.modules())


def test_attention_that_returns_several_tensors_is_seen_by_its_first():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0].mean(1)

    assert trace_layers(Attending(), torch.zeros(2, 3, 4, 4))[0].shape == (3, 4, 4)


def test_the_last_of_several_threads_gives_the_modes_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout().eval())
    first, second = evaluating(model), evaluating(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == [False, False, False]
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_late_error_of_a_gpu_is_not_told_as_a_size_that_does_not_fit(model):
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as raised, taking(model, torch.zeros(1, 3, 8, 8)):
        raise error
    assert raised.value is error
