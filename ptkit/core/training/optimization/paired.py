"""Several optimizers used as one, for those that cannot take every parameter."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ptkit.core.training.optimization.parameter_groups import Group


class PairedOptimizer:
    """Steps several torch optimizers, each with its own parameters; at most one per class.

    flattened: parameters of the model whose optimizer has a flattened copy, each with that copy.
    """

    def __init__(
        self,
        parts: Iterable[torch.optim.Optimizer],
        *,
        flattened: Sequence[tuple[nn.Parameter, nn.Parameter]] = (),
    ) -> None:
        self._parts = {type(part): part for part in parts}
        self._flattened = list(flattened)

    @property
    def param_groups(self) -> list[Group]:
        return [group for part in self._parts.values() for group in part.param_groups]

    def step(self) -> None:
        """Step all parts; gradients are read from the model's own parameters."""
        with torch.no_grad():
            for parameter, matrix in self._flattened:
                matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
                matrix.copy_(parameter.flatten(1))
            for part in self._parts.values():
                part.step()
            for parameter, matrix in self._flattened:
                parameter.copy_(matrix.view(parameter.shape))
                matrix.grad = None

    def take_in(self, addition: "PairedOptimizer") -> None:
        """Add the groups of another pair of the same kind."""
        for kind, part in addition._parts.items():
            if kind in self._parts:
                take_in(self._parts[kind], part)
            else:
                self._parts[kind] = part
        self._flattened += addition._flattened

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self._parts.values(), state["parts"], strict=True):
            part.load_state_dict(saved)


def take_in(optimizer: Any, addition: Any) -> None:
    """Add the groups of a newly built optimizer of the same kind to one that runs, in place."""
    if isinstance(optimizer, PairedOptimizer):
        optimizer.take_in(addition)
        return
    for group in addition.param_groups:
        optimizer.add_param_group(group)
