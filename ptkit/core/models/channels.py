"""Models of RGB images, and their weights, for images of one channel.

The kernels of the first convolution are summed over the three: a grey image then gives what it
would give with its values in all three channels. (timm's `adapt_input_conv` does the same.)
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def input_channels(model: nn.Module) -> int:
    """Return how many channels a model takes: 1 where its first convolution does, else 3."""
    first = _first_convolution(model)
    return 1 if first is not None and first[1].in_channels == 1 else 3


@torch.no_grad()
def take_one_channel(model: nn.Module) -> None:
    """Let the first convolution of a model of RGB images take one channel, in place.

    Raises:
        ValueError: there is none that takes three.
    """
    first = _first_convolution(model)
    if first is None or first[1].in_channels != 3:
        raise ValueError(f"{type(model).__name__} has no first convolution that takes 3 channels")
    conv = first[1]
    conv.weight = nn.Parameter(conv.weight.sum(dim=1, keepdim=True))
    conv.in_channels = 1


def summed_over_rgb(
    state_dict: Mapping[str, Tensor], model: nn.Module
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return weights of RGB images for a model of one channel, with a note of it; others as they
    are.

    state_dict: under the model's own names.
    """
    first = _first_convolution(model)
    if first is None or first[1].in_channels != 1:
        return state_dict, ()
    name, (outputs, _, *sides) = f"{first[0]}.weight", first[1].weight.shape
    if name not in state_dict or state_dict[name].shape != (outputs, 3, *sides):
        return state_dict, ()
    summed = {**state_dict, name: state_dict[name].sum(dim=1, keepdim=True)}
    return summed, (f"summed {name} over its three channels",)


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the first convolution, in the order of the model's definition, with its name."""
    named = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return next(named, None)
