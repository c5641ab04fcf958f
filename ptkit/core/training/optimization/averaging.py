"""An average of the weights over the steps, which is evaluated instead of the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.sharding import is_part


class WeightAverage:
    """The exponential moving average of a model's parameters.

    After update t, counted from 0, it is d·average + (1 - d)·parameter with d = min(decay, (1 + t)
    / (10 + t)), so that the first weights are soon forgotten (TensorFlow's ExponentialMovingAverage
    with num_updates). Buffers, such as BatchNorm's statistics, are not averaged: they are averages
    already, and the model keeps its own, whole numbers too.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay, self.num_updates = decay, 0
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point()
        }
        self._averages = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    def restart(self) -> None:
        """Begin anew with the current parameters, in place."""
        self.num_updates = 0
        for name, average in self._averages.items():
            average.copy_(self._parameters[name].detach())

    def update(self) -> None:
        """Take in the current parameters; call after each optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        # Frozen parameters equal their average.
        moving = [name for name, parameter in self._parameters.items() if parameter.requires_grad]
        averages = [self._averages[name] for name in moving]
        with torch.no_grad():
            torch._foreach_lerp_(averages, [self._parameters[name] for name in moving], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model for a while, by exchanging memory; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers; the tensors are not copies."""
        return {"num_updates": self.num_updates, "averages": dict(self._averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Raises:
            KeyError, RuntimeError: it is of another model.
        """
        saved: dict[str, Tensor] = state["averages"]
        if saved.keys() != self._averages.keys():
            raise KeyError(
                f"the average is of other parameters: {min(saved.keys() ^ self._averages.keys())}"
            )
        self.num_updates = state["num_updates"]
        for name, average in self._averages.items():
            average.copy_(saved[name])

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            if not is_part(parameter):
                parameter.data, self._averages[name] = self._averages[name], parameter.data
                continue
            # FSDP keeps a view of the memory that it has seen first.
            current = parameter.detach().clone()
            parameter.detach().copy_(self._averages[name])
            self._averages[name] = current
