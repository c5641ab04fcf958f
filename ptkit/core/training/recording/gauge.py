"""What is measured inside an epoch, for `ptkit diagnose` to read: the loop calls a gauge where
there is something to see. That of a run without log.layers does nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ptkit.core.data.loading.batches import Batch


@dataclass(frozen=True)
class Recorded:
    """What was measured in one epoch.

    step: optimizer steps of the run at its end. loss, lr, wait_s, grad_norm: one a step; lr of the
    first group, seconds until the batches of the step were there, total norm of all gradients
    before clipping. sampled: numbers of the steps, from 1, at which weights were measured. weights:
    by name the norms of `weight`, `gradient` (before clipping) and `update`, the step's real
    change. activations: by layer, see `Activations.taken`. looked_at: number of validation
    images that they were measured on. output_bias: (K,), if there is one. frozen_statistics: see
    `FrozenStatistics`. margins: see `Margins`. valid_outputs: float32 (n, K), of the validation
    list in its order.
    """

    step: int
    loss: Sequence[float]
    lr: Sequence[float]
    wait_s: Sequence[float]
    grad_norm: Sequence[float]
    sampled: Sequence[int]
    weights: Mapping[str, Mapping[str, Sequence[float]]]
    activations: Mapping[str, Mapping[str, Any]]
    looked_at: int
    output_bias: Sequence[float] | None
    frozen_statistics: Mapping[str, float]
    train_s: float
    recording_s: float
    margins: Mapping[str, Any] | None = None
    valid_outputs: Tensor | None = None


class Gauge:
    """Measures nothing."""

    def begin_epoch(self, num_steps: int, *, epochs: int) -> None:
        """Begin an epoch of so many steps, or go on with it; epochs: of the whole run."""

    def timed(self, groups: Iterable[tuple[Batch, ...]]) -> Iterator[tuple[Batch, ...]]:
        """Yield the batches of each step, and time the wait for them."""
        yield from groups

    def begin_step(self, number: int, lr: float) -> None:
        """Begin a step, counted from 1 in its epoch, before anything of it is computed."""

    def see_batch(self, batch: Batch, outputs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """See one batch of the step; loss: its part of the step's."""

    def see_gradients(self) -> None:
        """See the gradients of the step before they are clipped."""

    def see_norm(self, norm: Tensor) -> None:
        """See the total norm that clipping has computed."""

    def end_step(self) -> None:
        """See the weights after the step."""

    def begin_validation(self, num_batches: int) -> None:
        """Begin a validation of so many batches."""

    def forward(self, batch: Batch, forward: Any) -> Any:
        """Return what a batch of validation is called with."""
        return forward

    def see_valid(self, batch: Batch, outputs: Tensor) -> None:
        """See outputs (n, K) of validation, without those that do not count."""

    def gather(self) -> None:
        """Bring together, in the first rank, what the ranks have seen; all call it at once."""

    def recorded(self, *, step: int, train_s: float) -> Recorded | None:
        """Return the epoch, after its validation, and forget it."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted epoch goes on from; waits for the device."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; an empty one is that of a run that recorded nothing."""


NO_GAUGE = Gauge()
