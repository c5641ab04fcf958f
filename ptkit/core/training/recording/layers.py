"""The gauge of a run with log.layers.

It only looks: weights and losses are bit for bit those of a run without it.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.data.loading.batches import Batch, Forward
from ptkit.core.distributed import summed_on_device
from ptkit.core.ranks import here
from ptkit.core.training.recording.activations import Activations
from ptkit.core.training.recording.frozen import FrozenStatistics
from ptkit.core.training.recording.gauge import Gauge, Recorded
from ptkit.core.training.recording.outputs import Margins, ValidOutputs
from ptkit.core.training.recording.series import Seconds, Series
from ptkit.core.training.recording.weight_norms import WeightNorms, gradients_of, norms_of

# Weights are measured at one step in eight, but at no fewer and no more steps of an epoch than
# these: with a large model measuring takes a twentieth of a step's time.
_EVERY, _FEWEST, _MOST = 8, 4, 32
# In a run of few epochs, of which each has few steps, four of an epoch may all miss the peak of a
# rate that warms up and decays.
_FEWEST_OF_RUN = 16
# Activations are looked at on about so many validation images, from at most so many batches. Lists
# are often sorted by class, so the batches, and the images of each, are spread over the whole list.
_NUM_LOOKED_AT, _NUM_BATCHES = 256, 32
# The spread of outputs takes longer to measure, and needs fewer images: every fourth of these
# batches is enough, and about so many images of them all together.
_OF_SPREAD, _NUM_SPREAD = 4, 16

# Of _Steps.
_ON_HOST, _ON_DEVICE = ("lr", "wait_s", "sampled"), ("loss", "grad_norm")


def sampled_steps(num_steps: int, *, epochs: int) -> list[int]:
    """Return the steps of an epoch, from 1, at which weights are measured: evenly spread.

    The step with the highest rate may not be among them. Which one that is only the schedule could
    tell, by running ahead, and rules take medians around the peak, which no single step decides.

    epochs: of the whole run.
    """
    fewest = max(_FEWEST, math.ceil(_FEWEST_OF_RUN / epochs))
    count = min(max(num_steps // _EVERY, fewest), _MOST, num_steps)
    return [int(step) for step in np.linspace(1, num_steps, count).round()]


@dataclass
class _Steps:
    """What the steps of an epoch have led to so far; weights: (samples, 3, W)."""

    lr: list[float] = field(default_factory=list)
    wait_s: list[float] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    loss: Series = field(default_factory=Series)
    grad_norm: Series = field(default_factory=Series)
    weights: Series = field(default_factory=Series)


class LayerGauge(Gauge):
    """Measures a run; of several ranks the first one alone looks at the model.

    weights: parameters with at least two dimensions, by name. trained: the list of those that the
    optimizer moves, to which more may come. head: what gives the outputs, if that is known. clips:
    whether clipping computes the norm of the gradients that `see_gradients` sees. margins,
    outputs: None where images have no single label.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Mapping[str, nn.Parameter],
        trained: Sequence[nn.Parameter],
        head: nn.Module | None,
        clips: bool,
        margins: Margins | None,
        outputs: ValidOutputs | None,
    ) -> None:
        self._model, self._trained, self._head, self._clips = model, trained, head, clips
        self._margins, self._outputs = margins, outputs
        self._weights, self._seconds = WeightNorms(weights), Seconds()
        self._steps, self._sampled = _Steps(), frozenset[int]()
        self._nothing = torch.zeros((), device=next(model.parameters()).device)
        self._loss: Tensor | None = None
        self._is_sampled = False
        self._activations = Activations(model, self._seconds)
        # Of validation: every so many batches are looked at, and so many images of each.
        self._stride = self._images_of_batch = self._spread_of_batch = 1
        self._num_seen = self._num_looked_at = 0
        self._frozen = FrozenStatistics(model)

    def begin_epoch(self, num_steps: int, *, epochs: int) -> None:
        """Choose the steps at which weights are measured."""
        steps = sampled_steps(num_steps, epochs=epochs) if here().is_main else ()
        self._sampled = frozenset(steps)
        with self._seconds:
            self._frozen.begin()

    def timed(self, groups: Iterable[tuple[Batch, ...]]) -> Iterator[tuple[Batch, ...]]:
        """Time the wait for the batches of each step."""
        begin = time.perf_counter()
        for group in groups:
            self._steps.wait_s.append(time.perf_counter() - begin)
            yield group
            begin = time.perf_counter()

    def begin_step(self, number: int, lr: float) -> None:
        """Copy the weights where this step is sampled."""
        with self._seconds:
            self._steps.lr.append(lr)
            self._loss, self._is_sampled = None, number in self._sampled
            if self._is_sampled:
                self._steps.sampled.append(number)
                self._weights.before()

    def see_batch(self, batch: Batch, outputs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch's part of the loss; keep its outputs."""
        with self._seconds:
            loss = loss.detach()
            self._loss = loss if self._loss is None else self._loss + loss
            if self._margins is not None:
                self._margins.add(outputs.detach(), labels, batch.indices)

    def see_gradients(self) -> None:
        """Compute the norms that are wanted of this step."""
        if not here().is_main or (self._clips and not self._is_sampled):
            return
        with self._seconds:
            gradients = gradients_of(self._trained)
            norms = norms_of([*gradients.values()])
            if not self._clips:
                self._steps.grad_norm.add(torch.linalg.vector_norm(norms))
            if self._is_sampled:
                self._weights.gradients(dict(zip(gradients, norms.unbind(), strict=True)))

    def see_norm(self, norm: Tensor) -> None:
        """Keep the norm from clipping, if it is of the gradients as they were."""
        if self._clips:
            self._steps.grad_norm.add(norm)

    def end_step(self) -> None:
        """Measure what the step has changed, where it is sampled."""
        with self._seconds:
            # A rank may have had no image of the step.
            self._steps.loss.add(self._nothing if self._loss is None else self._loss)
            if self._is_sampled:
                self._weights.after(self._steps.weights)

    def begin_validation(self, num_batches: int) -> None:
        """Choose how many batches are looked at, and how many images of each."""
        self._stride = math.ceil(num_batches / _NUM_BATCHES) or 1
        num_looked_at = max(math.ceil(num_batches / self._stride), 1)
        self._images_of_batch = math.ceil(_NUM_LOOKED_AT / num_looked_at)
        self._spread_of_batch = math.ceil(_NUM_SPREAD / math.ceil(num_looked_at / _OF_SPREAD))
        self._num_seen = self._num_looked_at = 0

    def forward(self, batch: Batch, forward: Forward) -> Forward:
        """Return what sees the activations of some images, spread over the list."""
        number, self._num_seen = self._num_seen, self._num_seen + 1
        if number % self._stride or batch.is_stand_in or not here().is_main:
            return forward
        num_images = len(batch.indices)
        step = max(num_images // self._images_of_batch, 1)
        # Of several crops the first.
        rows = slice(None, None, step * batch.num_crops)
        spread = None
        if number % (_OF_SPREAD * self._stride) == 0:
            every = max(num_images // self._spread_of_batch, step)
            spread = slice(None, None, every * batch.num_crops)
        elif self._activations.knows_all_alive():
            return forward
        self._num_looked_at += len(batch.indices[::step])

        def looking(images: Tensor) -> Tensor:
            if forward is not self._model:
                # A compiled model calls no hooks: the model itself runs once more.
                with self._activations.seen(spread=spread and slice(None, None, _OF_SPREAD)):
                    self._model(images[rows])
                return forward(images)
            with self._activations.seen(rows, spread=spread):
                outputs: Tensor = self._model(images)
            return outputs

        return looking

    def see_valid(self, batch: Batch, outputs: Tensor) -> None:
        """Keep outputs."""
        if self._outputs is not None:
            with self._seconds:
                self._outputs.add(outputs, batch.indices)

    def gather(self) -> None:
        """Sum losses and margins over the ranks: each has seen its part of every batch."""
        if here().is_alone:
            return
        losses = summed_on_device(self._steps.loss.values())
        self._steps.loss = Series(losses if here().is_main else torch.zeros_like(losses))
        if self._margins is not None:
            self._margins.gather()

    def recorded(self, *, step: int, train_s: float) -> Recorded:
        """Return the epoch and forget it; waits for the device."""
        with self._seconds:
            state, activations = self.state_dict(), self._activations.taken()
            statistics = self._frozen.taken()
            outputs = None if self._outputs is None else self._outputs.taken()
        # By weight the norms of each kind, at every sample.
        norms = state["weights"].permute(2, 1, 0).tolist()
        bias = getattr(self._head, "bias", None)
        found = Recorded(
            step=step,
            loss=state["loss"].tolist(),
            lr=state["lr"],
            wait_s=state["wait_s"],
            grad_norm=state["grad_norm"].tolist(),
            sampled=state["sampled"],
            weights={
                name: dict(zip(("weight", "gradient", "update"), rows, strict=True))
                for name, rows in zip(self._weights.names, norms, strict=True)
            },
            activations=activations,
            looked_at=self._num_looked_at,
            output_bias=None if bias is None else bias.tolist(),
            frozen_statistics=statistics,
            train_s=train_s,
            recording_s=self._seconds.total,
            margins=state.get("margins"),
            valid_outputs=outputs,
        )
        self._steps, self._seconds.total = _Steps(), 0.0
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the steps of the epoch so far, and the sums of margins of the run."""
        steps = self._steps
        margins = {} if self._margins is None else {"margins": self._margins.state_dict()}
        weights = steps.weights.values().cpu()
        return {
            **{name: list(getattr(steps, name)) for name in _ON_HOST},
            **{name: getattr(steps, name).values().cpu() for name in _ON_DEVICE},
            "weights": weights.view(len(steps.sampled), 3, len(self._weights.names)),
            "recording_s": self._seconds.total,
            **margins,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; an empty one is that of a run that recorded nothing."""
        if not state:
            return
        device = self._nothing.device
        if here().is_main:
            for name in _ON_HOST:
                setattr(self._steps, name, list(state[name]))
            for name in (*_ON_DEVICE, "weights"):
                setattr(self._steps, name, Series(state[name].to(device)))
            self._seconds.total = state["recording_s"]
        else:
            # The ranks' losses are added up: those before are with the first one.
            self._steps.loss = Series(torch.zeros_like(state["loss"], device=device))
        if self._margins is not None and "margins" in state and here().is_main:
            self._margins.load_state_dict(state["margins"])
