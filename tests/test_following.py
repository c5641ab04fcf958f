import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.following import record_following
from ptkit.core.models.hooks import record_activations
from ptkit.core.models.resnet import resnet8


class Functional(nn.Module):
    """The course's network in small: ReLUs are functions, one of them in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.conv3 = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 5, 1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = self.conv2(x)
        x = F.relu(x, inplace=True)
        x = x + torch.tanh(self.conv3(x))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Functional().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_a_function_is_seen_behind_batchnorm_and_in_place(model, images):
    found = record_following(model, images, ["conv1", "conv2"], function="relu")
    with torch.no_grad():
        first = F.relu(model.norm(model.conv1(images)))
        second = F.relu(model.conv2(F.max_pool2d(first, 2)))
    assert (found["conv1"] == first.numpy()).all()
    assert (found["conv2"] == second.numpy()).all()


def test_any_function_may_be_named(model, images):
    found = record_following(model, images, ["conv3"], function="tanh")["conv3"]
    before = record_activations(model, images, ["conv3"])["conv3"]
    assert (found == torch.from_numpy(before).tanh().numpy()).all()


def test_a_module_is_seen_as_the_function_that_it_calls(images):
    torch.manual_seed(0)
    model = resnet8(num_classes=3)
    relu = record_following(model, images, ["layer1.0.conv1", "layer1"], function="relu")
    before = record_activations(model, images, ["layer1.0.bn1", "layer1"])
    assert (relu["layer1.0.conv1"] == before["layer1.0.bn1"].clip(0)).all()
    # A block ends in its own ReLU.
    assert (relu["layer1"] == before["layer1"]).all()


def test_a_layer_without_the_function_says_what_follows_it(model, images):
    with pytest.raises(
        UsageError, match=r"no gelu follows conv1; what follows is batch_norm, relu"
    ):
        record_following(model, images, ["conv1"], function="gelu")
    # Behind the next layer it is that one's.
    with pytest.raises(UsageError, match="no relu follows conv3; what follows is tanh, add, mean"):
        record_following(model, images, ["conv3"], function="relu")
    with pytest.raises(UsageError, match="nothing follows"):
        record_following(model, images, ["fc"], function="relu")
