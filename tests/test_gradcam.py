import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from ptkit.core.errors import UsageError
from ptkit.core.models.gradcam import explained_layer, gradcam, top_region
from ptkit.core.models.resnet import resnet8


@pytest.fixture
def colour_meter():
    """A model whose score of a class is the mean of a colour; class 0 is red."""
    convolution = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        convolution.weight[:] = torch.eye(3)[:, :, None, None]
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return resnet8(num_classes=5)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    model = VisionTransformer(
        16, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
    )
    nn.init.normal_(model.heads.head.weight)
    return model


def test_the_heat_is_where_the_class_is_seen(colour_meter):
    image = torch.zeros(1, 3, 6, 6)
    image[0, 0, 1:3, 1:3], image[0, 0, 1, 1], image[0, 2, 4, 4] = 0.5, 1.0, 9.0
    expected = (image[:, 0] / image[:, 0].max()).numpy()
    np.testing.assert_allclose(gradcam(colour_meter, image, [0]), expected, atol=1e-6)


def test_what_speaks_against_a_class_is_cold(colour_meter):
    image = torch.rand(1, 3, 6, 6)
    assert gradcam(colour_meter, image, [0], sign=-1).max() == 0


def test_an_in_place_relu_behind_the_layer_changes_nothing(network, images):
    kept_apart = copy.deepcopy(network)
    for module in kept_apart.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = gradcam(kept_apart, images, [0, 1, 2], "layer2.0.bn1")
    assert expected.max() == 1
    np.testing.assert_array_equal(gradcam(network, images, [0, 1, 2], "layer2.0.bn1"), expected)


def test_the_heat_is_that_of_the_papers_formula(network, images):
    network.eval()
    maps = network.layer2(network.layer1(network.relu(network.bn1(network.conv1(images)))))
    scores = network.fc(network.avgpool(network.layer3(maps)).flatten(1))
    (slopes,) = torch.autograd.grad(scores[[0, 1, 2], [4, 0, 1]].sum(), maps)
    heat = torch.einsum("nc,nchw->nhw", slopes.mean(dim=(2, 3)), maps).relu()[:, None]
    heat = nn.functional.interpolate(heat, (16, 16), mode="bilinear")[:, 0].detach()
    expected = (heat / heat.amax(dim=(1, 2), keepdim=True)).numpy()
    np.testing.assert_allclose(gradcam(network, images, [4, 0, 1], "layer2"), expected, atol=1e-5)


def test_the_last_layer_with_maps_is_explained(network, images):
    assert explained_layer(network, images, [0, 1, 2]) == "layer3"


def test_of_a_transformer_a_layer_is_explained_whose_patches_matter(transformer, images):
    assert explained_layer(transformer, images, [0, 1, 2]) == "encoder.layers.encoder_layer_1.ln_1"
    heats = gradcam(transformer, images, [0, 1, 2])
    assert (heats.shape, heats.min(), heats.max()) == ((3, 16, 16), 0.0, 1.0)


def test_a_frozen_model_is_explained_too(network, images):
    expected = gradcam(network, images, [0, 1, 2])
    network.requires_grad_(False)
    np.testing.assert_array_equal(gradcam(network, images, [0, 1, 2]), expected)


def test_modes_gradients_weights_and_random_state_stay_as_they_are(network, images):
    network.train()
    network.layer1.eval()
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    weights = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    gradcam(network, images, [0, 1, 2])
    assert [m.training for m in (network, network.layer1, network.layer2)] == [True, False, True]
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert list(grads) == ["fc.weight"]
    assert (grads["fc.weight"] == 1).all()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_model_without_maps_is_refused(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    with pytest.raises(UsageError, match="Sequential has no layer with maps"):
        gradcam(model, images, [0, 1, 2])


@pytest.mark.parametrize(
    ("layer", "message"), [("layer9", "has no layer layer9"), ("fc", "fc gives no maps")]
)
def test_a_layer_without_maps_is_refused(network, images, layer, message):
    with pytest.raises(UsageError, match=message):
        gradcam(network, images, [0, 1, 2], layer)


def test_the_box_holds_the_largest_region_above_half_of_the_maximum():
    heat = np.zeros((8, 10))
    heat[0, 9] = 1.0
    heat[2:5, 1:4] = 0.6
    heat[5, 4] = 0.5
    heat[6:8, 5:9] = 0.4
    assert top_region(heat) == (1, 2, 5, 6)


def test_a_lower_fraction_takes_more_in():
    heat = np.zeros((4, 4))
    heat[0], heat[1] = 1.0, 0.3
    assert (top_region(heat), top_region(heat, fraction=0.25)) == ((0, 0, 4, 1), (0, 0, 4, 2))


def test_without_heat_there_is_no_box():
    assert top_region(np.zeros((4, 4))) is None


def test_recurrent_layers_run_without_cudnn_which_refuses_their_gradients(images):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rows, self.head = nn.Conv2d(3, 4, 3), nn.GRU(4, 5), nn.Linear(5, 2)

        def forward(self, images):
            self.used_cudnn = torch.backends.cudnn.enabled
            return self.head(self.rows(self.conv(images).flatten(2).permute(2, 0, 1))[0][-1])

    torch.manual_seed(0)
    model = Rows()
    assert gradcam(model, images, [0, 1, 0], "conv").max() == 1
    assert not model.used_cudnn
    assert torch.backends.cudnn.enabled
