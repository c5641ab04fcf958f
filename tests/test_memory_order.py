"""All numbers of a tensor: a view in the order of its memory where that can be."""

import itertools

import pytest
import torch

from ptkit.core.memory_order import in_memory_order


def numbers(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


@pytest.mark.parametrize(
    "tensor",
    [
        numbers(7),
        numbers(3, 4),
        numbers(2, 3, 4, 5),
        # Whole rows are contiguous.
        numbers(6, 4)[2:5],
        numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
        numbers(2, 1, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=["1-D", "2-D", "4-D", "rows", "channels last", "one channel last"],
)
def test_contiguous_and_channels_last_tensors_are_viewed_in_the_order_of_memory(tensor):
    found = in_memory_order(tensor)
    assert found.data_ptr() == tensor.data_ptr()
    assert found.stride() == (1,)
    in_memory = tensor.as_strided((tensor.numel(),), (1,))
    assert found.tolist() == in_memory.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        numbers(3, 4).T,
        numbers(3, 4)[:, :2],
        numbers(2, 3, 4, 5).to(memory_format=torch.channels_last)[:, :2],
        numbers(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d),
    ],
    ids=["transposed", "columns", "some channels last", "channels last of volumes"],
)
def test_other_tensors_are_copied_in_the_order_of_indices(tensor):
    found = in_memory_order(tensor)
    assert found.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    indices = itertools.product(*map(range, tensor.shape))
    assert found.tolist() == [tensor[index].item() for index in indices]


@pytest.mark.parametrize(
    "tensor", [numbers(12)[::2], numbers(12)[::2].view(2, 3), numbers(1).expand(5)]
)
def test_numbers_at_equal_steps_are_viewed(tensor):
    found = in_memory_order(tensor)
    assert found.data_ptr() == tensor.data_ptr()
    assert found.tolist() == tensor.ravel().tolist()


def test_a_tensor_without_dimensions_has_one_number_and_an_empty_one_none():
    scalar = torch.tensor(2.5)
    found = in_memory_order(scalar)
    assert (found.shape, found.tolist(), found.data_ptr()) == ((1,), [2.5], scalar.data_ptr())
    for shape in ((0,), (0, 3), (2, 0, 4, 4)):
        assert in_memory_order(torch.empty(shape)).shape == (0,)
