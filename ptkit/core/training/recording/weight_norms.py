"""Norms of weights, of their gradients and of what a step changes in them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ptkit.core.training.recording.series import Series


def gradient_norms(parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    """Return the norm of every parameter's gradient, by the parameter's id."""
    found = [p for p in parameters if p.grad is not None]
    norms = torch._foreach_norm([_values(p.grad) for p in found if p.grad is not None])
    return dict(zip(map(id, found), norms, strict=True))


def total_norm(norms: Mapping[int, Tensor]) -> Tensor:
    """Return the norm of all gradients together, as clip_grad_norm_ computes it."""
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms.values())))
    return total


class WeightNorms:
    """Measures some steps: `before` the step, its `gradients`, and `after` it.

    weights: by name.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.names = tuple(weights)
        self._weights: list[Tensor] = list(weights.values())
        # Filled at each sample; memory that is taken anew costs more than the copy.
        self._copies: list[Tensor] = []
        self._gradients: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Copy the weights."""
        if not self._copies:
            self._copies = [torch.empty_like(weight) for weight in self._weights]
        torch._foreach_copy_(self._copies, self._weights)

    def gradients(self, norms: Mapping[int, Tensor]) -> None:
        """Keep those of the weights; a weight without a gradient has NaN."""
        nan = torch.full((), torch.nan, device=self._weights[0].device)
        self._gradients = [norms.get(id(weight), nan) for weight in self._weights]

    @torch.no_grad()
    def after(self, samples: Series) -> None:
        """Add the norms of weight before the step, gradient and change to `samples`: (3, W)."""
        norms = torch._foreach_norm(self._copies)
        torch._foreach_sub_(self._copies, self._weights)
        updates = torch._foreach_norm(self._copies)
        samples.add(torch.stack([*norms, *self._gradients, *updates]).view(3, -1))


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
