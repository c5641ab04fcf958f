"""Norms of weights, of their gradients and of what a step changes in them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ptkit.core.memory_order import in_memory_order
from ptkit.core.training.recording.series import Series

# Numbers from which on reading them takes longer than the calls.
_LARGE = 1 << 20


def norms_of(tensors: list[Tensor]) -> Tensor:
    """Return the norms of some tensors, (n,)."""
    is_large = tensors[0].is_cpu and sum(tensor.numel() for tensor in tensors) > _LARGE
    if not is_large:
        return torch.stack(torch._foreach_norm(tensors))
    # On a CPU faster than vector_norm.
    return torch.stack([_squared_length(tensor) for tensor in tensors]).sqrt()


def gradients_of(parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    """Return the gradients that there are, by the id of their parameter."""
    found = ((id(p), p.grad) for p in parameters)
    return {
        key: grad.coalesce().values() if grad.is_sparse else grad
        for key, grad in found
        if grad is not None
    }


class WeightNorms:
    """Measures some steps: `before` the step, its `gradients`, and `after` it.

    weights: by name.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.names = tuple(weights)
        self._weights: list[Tensor] = list(weights.values())
        # Filled at each sample; memory that is taken anew costs more than the copy.
        self._copies: list[Tensor] = []
        self._norms: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Copy the weights."""
        if not self._copies:
            self._copies = [torch.empty_like(weight) for weight in self._weights]
        torch._foreach_copy_(self._copies, self._weights)
        self._norms = [norms_of(self._copies)]

    def gradients(self, norms: Mapping[int, Tensor]) -> None:
        """Keep those of the weights, by id; a weight without a gradient has NaN."""
        nan = torch.full((), torch.nan, device=self._weights[0].device)
        self._norms.append(torch.stack([norms.get(id(weight), nan) for weight in self._weights]))

    @torch.no_grad()
    def after(self, samples: Series) -> None:
        """Add the norms of weight before the step, gradient and change to `samples`: (3, W)."""
        torch._foreach_sub_(self._copies, self._weights)
        samples.add(torch.stack([*self._norms, norms_of(self._copies)]))


def _squared_length(tensor: Tensor) -> Tensor:
    values = in_memory_order(tensor)
    return torch.dot(values, values)
