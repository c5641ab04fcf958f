import pytest
import torch

from ptkit.core.models.weightless import without_memory
from ptkit.core.models.zoo import build_model


@pytest.mark.parametrize("name", ["lenet", "regnet_x_400mf", "swin_t"])
def test_a_model_without_memory_has_the_shapes_of_one_with_it(name):
    with without_memory():
        light, _ = build_model(name, num_classes=7, size=None, seed=0)
    full, _ = build_model(name, num_classes=7, size=None, seed=0)
    assert all(parameter.is_meta for parameter in light.parameters())
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (light, full)]
    assert shapes[0] == shapes[1]


def test_short_runs_of_numbers_can_be_read_and_long_ones_take_no_memory():
    with without_memory():
        assert (torch.arange(4) * 2).tolist() == [0, 2, 4, 6]
        assert torch.arange(10**15).is_meta
        assert torch.zeros(4).is_meta
