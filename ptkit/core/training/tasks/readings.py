"""How a model's outputs are read: as probabilities, as numbers, or as a place among the classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.calls import nearest
from ptkit.core.errors import UsageError

SINGLE, MULTI, REGRESSION, EMBEDDING = "single-label", "multi-label", "regression", "embedding"

_TENSORS = ("thresholds", "scale", "shift", "class_means")
# Distances on the unit sphere are at most 2: divided by this they make clear probabilities.
_TEMPERATURE = 0.1


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(dim=1, keepdim=True).clamp_min(1e-12)


# What makes values of outputs (n, outputs): probabilities of classes that sum to 1, one probability
# for each class,
# or numbers, by the kind of task.
READINGS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    SINGLE: {
        "softmax": lambda outputs: F.softmax(outputs, dim=1),
        "sigmoid": lambda outputs: _shares(torch.sigmoid(outputs)),
        "exp": lambda outputs: F.softmax(outputs, dim=1),
        "softplus": lambda outputs: _shares(F.softplus(outputs)),
        "clamp": lambda outputs: _shares(outputs.clamp(1e-6, 1)),
        "negative": lambda outputs: F.softmax(-outputs, dim=1),
    },
    MULTI: {"sigmoid": torch.sigmoid},
    REGRESSION: {"number": lambda outputs: outputs, "exp": torch.exp, "softplus": F.softplus},
    EMBEDDING: {"nearest": lambda outputs: F.normalize(outputs, dim=1)},
}


@dataclass(frozen=True, eq=False)
class Reading:
    """How outputs are read; what checkpoints carry as `task`.

    kind: "single-label", "multi-label", "regression" or "embedding". activation: a key of
    READINGS[kind].
    thresholds: (K,), the probabilities above which a class counts as present; for several labels.
    scale, shift: (D,), from the model's units to the labels'; for numbers.
    class_means: (K, D), the mean place of each class; for embeddings.
    """

    kind: str
    activation: str
    thresholds: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    class_means: Tensor | None = None

    def on(self, device: torch.device) -> "Reading":
        """Return the reading with its tensors on a device, so that no batch waits for a copy."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(
            self, **{name: value.to(device) for name, value in tensors.items() if value is not None}
        )

    def values(self, outputs: Tensor) -> Tensor:
        """Return probabilities (n, K), or numbers (n, D) in the labels' units, of outputs (n,
        outputs).
        """
        found = READINGS[self.kind][self.activation](outputs.float())
        if self.kind == REGRESSION and self.scale is not None and self.shift is not None:
            return found * self.scale + self.shift
        if self.kind == EMBEDDING:
            assert self.class_means is not None
            return F.softmax(-torch.cdist(found, self.class_means) / _TEMPERATURE, dim=1)
        return found

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the class of each row, int64 (n,); or which classes are present, bool (n, K); or
        numbers (n, D).

        A class is read off the outputs, not off the probabilities: those saturate, and two classes
        then look alike.
        """
        if self.kind == SINGLE:
            return outputs.argmin(dim=1) if self.activation == "negative" else outputs.argmax(dim=1)
        values = self.values(outputs)
        if self.kind == MULTI:
            return values > (0.5 if self.thresholds is None else self.thresholds)
        return values.argmax(dim=1) if self.kind == EMBEDDING else values

    def as_task(self) -> dict[str, Any]:
        """Return what a checkpoint holds under `task`."""
        return {
            "kind": self.kind,
            "activation": self.activation,
            **{name: getattr(self, name) for name in _TENSORS},
            "temperature": None,
        }


def read_task(task: Mapping[str, Any]) -> Reading:
    """Return the reading that a checkpoint carries.

    Raises:
        UsageError: a kind or activation that this ptkit does not know.
    """
    kind, activation = task.get("kind", SINGLE), task["activation"]
    if kind not in READINGS:
        raise UsageError(f"no kind of task is called {kind}{nearest(kind, READINGS)}")
    if activation not in READINGS[kind]:
        raise UsageError(
            f"no output reading is called {activation}{nearest(activation, READINGS[kind])}"
        )
    return Reading(kind, activation, **{name: task.get(name) for name in _TENSORS})
