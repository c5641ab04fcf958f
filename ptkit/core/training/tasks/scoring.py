"""How good outputs are, by the kind of task: what the validation pass adds up and what it tells.

Nothing waits for the device before `metrics` is read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.errors import UsageError
from ptkit.core.training.tasks.metrics import (
    average_precisions,
    counts_of_labels,
    errors_of_numbers,
    mean_of_known,
    micro_rates,
)
from ptkit.core.training.tasks.readings import EMBEDDING, MULTI, REGRESSION, SINGLE, Reading

# The metrics of each kind of task, the main one first, and whether more is better.
METRICS: dict[str, dict[str, str]] = {
    SINGLE: {"accuracy": "max"},
    MULTI: {"map": "max", "f1": "max", "precision": "max", "recall": "max"},
    REGRESSION: {"mae": "min", "rmse": "min", "r2": "max"},
    EMBEDDING: {"accuracy": "max", "recall_at_1": "max"},
}

# k of the k nearest neighbours that vote for the class of an embedding.
NUM_NEIGHBOURS = 5
_BLOCK = 1024


def check_metric(name: str, kind: str, *, setting: str) -> None:
    """Refuse a metric that a kind of task does not have; "loss" always is one.

    Raises:
        UsageError: it does not; the message names those it has.
    """
    known = ("loss", *METRICS[kind])
    if name not in known:
        raise UsageError(
            f"{setting} must be one of {', '.join(known)} for these labels, found {name!r}"
        )


class Score:
    """The answers of a validation pass over one class an image: one count a batch, on the device."""

    def __init__(self, reading: Reading, num_classes: int) -> None:
        self.reading, self.num_classes = reading, num_classes
        self._num_images = 0
        self._num_right: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: outputs (n, num_outputs) and label rows."""
        self._num_images += len(labels)
        self._num_right.append((self.reading.answers(outputs) == labels).sum())

    def metrics(self) -> dict[str, float]:
        """Return the metrics of METRICS, in its order."""
        return {"accuracy": int(torch.stack(self._num_right).sum()) / self._num_images}


class _KeptScore(Score):
    """Keeps all outputs and labels, for metrics that need them together."""

    def __init__(self, reading: Reading, num_classes: int) -> None:
        super().__init__(reading, num_classes)
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        self._outputs.append(outputs.float())
        self._labels.append(labels)

    def _all(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self._outputs), torch.cat(self._labels)


class LabelScore(_KeptScore):
    """Several classes an image: mean average precision, and micro averages at the thresholds."""

    def metrics(self) -> dict[str, float]:
        outputs, labels = self._all()
        chances, truth = self.reading.values(outputs).cpu().numpy(), labels.cpu().numpy()
        counts = counts_of_labels(truth, self.reading.answers(outputs).cpu().numpy())
        return {"map": mean_of_known(average_precisions(truth, chances)), **micro_rates(counts)}


class NumberScore(_KeptScore):
    """Numbers: errors in the labels' units, over all numbers of all images."""

    def metrics(self) -> dict[str, float]:
        outputs, labels = self._all()
        return errors_of_numbers(labels.cpu().numpy(), self.reading.values(outputs).cpu().numpy())


class EmbeddingScore(_KeptScore):
    """Embeddings: each image is classified by its neighbours among the others of the pass."""

    def metrics(self) -> dict[str, float]:
        outputs, labels = self._all()
        by_vote, by_nearest = _neighbours(F.normalize(outputs, dim=1), labels, self.num_classes)
        return {
            "accuracy": (by_vote == labels).float().mean().item(),
            "recall_at_1": (by_nearest == labels).float().mean().item(),
        }


SCORES: dict[str, type[Score]] = {
    SINGLE: Score,
    MULTI: LabelScore,
    REGRESSION: NumberScore,
    EMBEDDING: EmbeddingScore,
}


def _neighbours(embeddings: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the class that most of the nearest others have, and the class of the nearest, int64
    (n,) each.

    Of two classes with as many votes the nearer one wins. As many vote as the smallest class has
    others, at most NUM_NEIGHBOURS: more would outvote it however well it lies together.
    """
    if len(labels) < 2:
        return labels, labels
    counts = torch.bincount(labels)
    num_neighbours = min(NUM_NEIGHBOURS, max(int(counts[counts > 0].min()) - 1, 1))
    by_vote, by_nearest = [], []
    # Closer neighbours weigh a little more: enough to settle a tie, too little to overrule a vote.
    weights = 1 + torch.linspace(0.1, 0, num_neighbours, device=labels.device) / NUM_NEIGHBOURS
    for start in range(0, len(labels), _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(labels)), device=labels.device)
        distances = torch.cdist(embeddings[rows], embeddings)
        distances[torch.arange(len(rows), device=rows.device), rows] = float("inf")
        classes = labels[distances.topk(num_neighbours, largest=False).indices]
        votes = torch.zeros(len(rows), num_classes, device=labels.device).scatter_add_(
            1, classes, weights.expand(len(rows), -1)
        )
        by_vote.append(votes.argmax(dim=1))
        by_nearest.append(classes[:, 0])
    return torch.cat(by_vote), torch.cat(by_nearest)
