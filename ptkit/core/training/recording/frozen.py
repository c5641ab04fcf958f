"""Whether the statistics of normalisation layers that are frozen stay as they were."""

import torch
from torch import Tensor, nn


class FrozenStatistics:
    """Measures how far the running means of frozen layers move in an epoch: a step changes them
    without the optimizer, wherever such a layer runs in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the statistics of the layers that are frozen now."""
        self._before = {
            name: (module.running_mean.clone(), module.running_var.clone())
            for name, module in self._model.named_modules()
            if _has_statistics(module) and self._is_frozen(name)
        }

    @torch.no_grad()
    def taken(self) -> dict[str, float]:
        """Return of each layer the root mean square over its channels of the way of their means, in
        standard deviations at the beginning; waits for the device.
        """
        ways = {
            name: (self._model.get_buffer(f"{name}.running_mean") - mean) / (var + 1e-5).sqrt()
            for name, (mean, var) in self._before.items()
        }
        return {name: float(way.square().mean().sqrt()) for name, way in ways.items()}

    def _is_frozen(self, name: str) -> bool:
        """Say whether no parameter of a layer gets a gradient; of one that has none, whether none
        of what it is part of does.
        """
        while not (own := list(self._model.get_submodule(name).parameters())) and name:
            name = name.rpartition(".")[0]
        return not any(parameter.requires_grad for parameter in own)


def _has_statistics(module: nn.Module) -> bool:
    found = (getattr(module, key, None) for key in ("running_mean", "running_var"))
    return all(isinstance(each, Tensor) for each in found)
