"""How a model's outputs are read: as probabilities, numbers or a point; and scored."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.calibration.strangers import Strangers, ToldStrangers, read_strangers
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.device import exact_products
from ptkit.core.errors import UsageError
from ptkit.core.training.tasks.metrics import (
    areas_under_roc,
    average_precisions,
    class_metrics,
    counts_of_classes,
    counts_of_labels,
    errors_of_numbers,
    mean_of_known,
    micro_rates,
)
from ptkit.core.wording import nearest

# Images are compared; their labels are of the kind SINGLE.
EMBEDDING = "embedding"
_TENSORS = ("thresholds", "scale", "shift", "class_means", "counted")
# Distances on the unit sphere are at most 2: divided by this they make clear probabilities.
_SPREAD = 0.1
# What reads outputs as logarithms, up to a constant, of probabilities or of odds.
_LOGITS = ("softmax", "exp", "negative", "sigmoid", "nearest")


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(dim=1, keepdim=True).clamp_min(1e-12)


# What makes probabilities or numbers of outputs (n, num_outputs), by the kind of task and the name
# that checkpoints carry as `task.activation`.
DECODERS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    # Probabilities that sum to 1.
    SINGLE: {
        "softmax": lambda outputs: F.softmax(outputs, dim=1),
        "sigmoid": lambda outputs: _shares(torch.sigmoid(outputs)),
        "exp": lambda outputs: F.softmax(outputs, dim=1),
        "softplus": lambda outputs: _shares(F.softplus(outputs)),
        "clamp": lambda outputs: _shares(outputs.clamp(1e-6, 1)),
        # The lowest output wins.
        "negative": lambda outputs: F.softmax(-outputs, dim=1),
        # Of a model that ends with one of the others, such as an exported one.
        "none": lambda outputs: outputs,
    },
    # A probability for each class.
    MULTI: {"sigmoid": torch.sigmoid, "none": lambda outputs: outputs},
    REGRESSION: {"number": lambda outputs: outputs, "exp": torch.exp, "softplus": F.softplus},
    # A point on the unit sphere.
    EMBEDDING: {"nearest": lambda outputs: F.normalize(outputs, dim=1)},
}


@dataclass(frozen=True, eq=False)
class Task:
    """How outputs are read; what checkpoints carry as `task`.

    kind: SINGLE, MULTI, REGRESSION or EMBEDDING. activation: name of a decoder of that kind.
    thresholds: (K,), the probabilities from which on a class counts as present, for MULTI; or is
    answered: one that is the threshold itself is enough.
    scale, shift: (D,), from the model's units to the labels'; for REGRESSION.
    class_means: (K, D), the mean point of each class; for EMBEDDING.
    counted: bool (K,), which classes count in accuracy: not those that the loss ignores; None for
    all. temperature: what outputs are divided by before they become probabilities.
    strangers: what tells images unlike the training images; for SINGLE.
    """

    kind: str
    activation: str
    thresholds: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    class_means: Tensor | None = None
    counted: Tensor | None = None
    temperature: float | None = None
    strangers: Strangers | ToldStrangers | None = None

    @property
    def has_temperature(self) -> bool:
        """Whether a temperature changes the probabilities as it should."""
        return self.kind != REGRESSION and self.activation in _LOGITS

    def on(self, device: torch.device) -> "Task":
        """Return the task with its tensors on a device, so that no batch waits for a copy."""
        given = [name for name in _TENSORS if getattr(self, name) is not None]
        moved = {name: getattr(self, name).to(device) for name in given}
        strangers = None if self.strangers is None else self.strangers.on(device)
        return replace(self, **moved, strangers=strangers)

    def values(self, outputs: Tensor) -> Tensor:
        """Return probabilities (n, K), or numbers (n, D) in the labels' units."""
        heat = 1.0 if self.temperature is None else self.temperature
        if self.kind == EMBEDDING:
            assert self.class_means is not None
            found = F.normalize(outputs.float(), dim=1)
            # By differences for any number of images, which an exported graph needs to take any.
            distances = torch.cdist(
                found, self.class_means, compute_mode="donot_use_mm_for_euclid_dist"
            )
            return F.softmax(-distances / (_SPREAD * heat), dim=1)
        # Not divided by 1: the same numbers as without a temperature.
        outputs = outputs.float() if heat == 1.0 else outputs.float() / heat
        found = DECODERS[self.kind][self.activation](outputs)
        if self.kind == REGRESSION and self.scale is not None and self.shift is not None:
            return found * self.scale + self.shift
        return found

    def answers(self, outputs: Tensor) -> Tensor:
        """Return classes, int64 (n,); or which are present, bool (n, K); or numbers (n, D)."""
        if self.kind == SINGLE:
            # From the outputs, not the probabilities: those saturate, and two classes look alike.
            find = torch.argmin if self.activation == "negative" else torch.argmax
            return find(outputs, dim=1)
        values = self.values(outputs)
        if self.kind == MULTI:
            return values >= (0.5 if self.thresholds is None else self.thresholds)
        return values.argmax(dim=1) if self.kind == EMBEDDING else values

    def is_unknown(self, outputs: Tensor, features: Tensor | None = None) -> Tensor | None:
        """Return for which images the answer is withheld, bool (n,); None where it never is.

        The class is less probable than its threshold, or the image is a stranger. features:
        (n, D), needed where there are `strangers`.
        """
        found = None
        if self.kind in (SINGLE, EMBEDDING) and self.thresholds is not None:
            values, answers = self.values(outputs), self.answers(outputs)
            found = values.gather(1, answers[:, None])[:, 0] < self.thresholds[answers]
        if self.strangers is not None:
            is_strange = self.strangeness(outputs, features) > self.strangers.limit
            found = is_strange if found is None else found | is_strange
        return found

    def strangeness(self, outputs: Tensor, features: Tensor | None) -> Tensor:
        """Return how strange images are (n,), see `Strangers.scores`."""
        assert self.strangers is not None
        assert features is not None
        return self.strangers.scores(self.plain_probabilities(outputs), features)

    def plain_probabilities(self, outputs: Tensor) -> Tensor:
        """Return probabilities (n, K) as they are without a temperature."""
        return replace(self, temperature=None).values(outputs)

    def counts(self, labels: Tensor) -> Tensor:
        """Return which images of classes (n,) count in accuracy, bool (n,)."""
        if self.counted is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return self.counted[labels]

    def counted_rows(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the indices of the images of a list that count in accuracy."""
        if self.counted is None:
            return np.arange(len(labels))
        return np.flatnonzero(self.counted.cpu().numpy()[labels])

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds under `task`."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return {
            "kind": self.kind,
            "activation": self.activation,
            **tensors,
            "temperature": self.temperature,
            "unknown": self.strangers and self.strangers.as_dict(),
        }


def read_task(task: Mapping[str, Any]) -> Task:
    """Return the task that a checkpoint carries.

    Raises:
        UsageError: a kind or activation that this ptkit does not know.
    """
    kind, activation = task.get("kind", SINGLE), task["activation"]
    if kind not in DECODERS:
        raise UsageError(f"no kind of task is called {kind}{nearest(kind, DECODERS)}")
    if activation not in DECODERS[kind]:
        raise UsageError(
            f"no way to read outputs is called {activation}{nearest(activation, DECODERS[kind])}"
        )
    # Older checkpoints lack what came later.
    tensors = {name: task.get(name) for name in _TENSORS}
    # Of training a tensor, of `ptkit calibrate` plain numbers.
    if isinstance(tensors["thresholds"], list):
        tensors["thresholds"] = torch.tensor(tensors["thresholds"], dtype=torch.float32)
    unknown = task.get("unknown")
    strangers = None if unknown is None else read_strangers(unknown)
    return Task(
        kind, activation, **tensors, temperature=task.get("temperature"), strangers=strangers
    )


# The metrics of each kind of task, the main one first, and whether the most or the least is best.
METRICS: dict[str, dict[str, str]] = {
    SINGLE: dict.fromkeys(("accuracy", "macro_f1", "balanced_accuracy", "auroc", "top5"), "max"),
    MULTI: {"map": "max", "f1": "max", "precision": "max", "recall": "max"},
    REGRESSION: {"mae": "min", "rmse": "min", "r2": "max"},
    EMBEDDING: {"accuracy": "max", "recall_at_1": "max"},
}

# How many of the most probable classes count as an answer in top5.
TOP = 5
# k of the k nearest neighbours that vote for the class of an embedding.
NUM_NEIGHBOURS = 5
_BLOCK = 1024


def metrics_for(task: Task, images: ImageList) -> dict[str, str]:
    """Return those of METRICS that a list can have: top5 needs more than five classes, auroc images
    of two.
    """
    modes = dict(METRICS[task.kind])
    if images.num_classes <= TOP:
        modes.pop("top5", None)
    if task.kind == SINGLE:
        labels = images.labels[task.counted_rows(images.labels)]
        if not len(labels) or labels.min() == labels.max():
            modes.pop("auroc")
    return modes


def check_metric(name: str, known: Iterable[str], *, setting: str) -> None:
    """Refuse a metric that a list does not have; all have "loss".

    Raises:
        UsageError: the message names those it has.
    """
    known = ("loss", *known)
    if name not in known:
        raise UsageError(
            f"{setting} must be one of {', '.join(known)} for these labels, found {name!r}"
            + nearest(name, known)
        )


def is_in_top(values: Tensor, labels: Tensor) -> Tensor:
    """Return for which images the true class is among the TOP most probable ones, bool (n,).

    Of equal values the later class comes first, as in scikit-learn's top_k_accuracy_score.

    values: (n, K). labels: (n,).
    """
    own = values.gather(1, labels[:, None])
    is_later = torch.arange(values.shape[1], device=values.device) > labels[:, None]
    is_before = (values > own) | ((values == own) & is_later)
    return is_before.sum(dim=1) < TOP


class Score:
    """One class per image. All is kept on the device, so that no batch waits for it.

    also: which metrics are wanted beside the main one; probabilities are kept only for auroc.
    """

    def __init__(self, task: Task, num_classes: int, also: Collection[str] = ()) -> None:
        self.task, self.num_classes = task, num_classes
        self.names = [name for name in METRICS[SINGLE] if name == "accuracy" or name in also]
        self._kept: dict[str, list[Tensor]] = {}

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: outputs (n, num_outputs) and label rows."""
        self._keep(labels=labels, answers=self.task.answers(outputs))
        if {"auroc", "top5"}.isdisjoint(self.names):
            return
        values = self.task.values(outputs)
        if "auroc" in self.names:
            self._keep(values=values)
        if "top5" in self.names:
            self._keep(top5=is_in_top(values, labels))

    def metrics(self) -> dict[str, float]:
        """Return the wanted ones of METRICS, in its order."""
        kept = {name: torch.cat(parts).cpu().numpy() for name, parts in self._kept.items()}
        rows = self.task.counted_rows(kept["labels"])
        labels, answers = kept["labels"][rows], kept["answers"][rows]
        found = class_metrics(counts_of_classes(labels, answers, self.num_classes))
        if "values" in kept:
            found["auroc"] = mean_of_known(areas_under_roc(labels, kept["values"][rows]))
        if "top5" in kept:
            found["top5"] = float(kept["top5"][rows].mean())
        return {name: found[name] for name in self.names}

    def gather(self, gathered: Callable[[Tensor], Tensor]) -> None:
        """Make this the score of several processes' images. gathered: joins their rows."""
        self._kept = {name: [gathered(torch.cat(parts))] for name, parts in self._kept.items()}

    def _keep(self, **parts: Tensor) -> None:
        for name, part in parts.items():
            self._kept.setdefault(name, []).append(part)


class KeptScore(Score):
    """Keeps all outputs and labels, for metrics that need them together; gives all metrics."""

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        self._keep(outputs=outputs.float(), labels=labels)

    def metrics(self) -> dict[str, float]:
        outputs, labels = (torch.cat(self._kept[name]) for name in ("outputs", "labels"))
        if self.task.kind == EMBEDDING:
            return _embedding_metrics(outputs, labels, self.num_classes)
        truth, values = labels.cpu().numpy(), self.task.values(outputs).cpu().numpy()
        # In the labels' units, over all numbers of all images.
        if self.task.kind == REGRESSION:
            return errors_of_numbers(truth, values)
        counts = counts_of_labels(truth, self.task.answers(outputs).cpu().numpy())
        return {"map": mean_of_known(average_precisions(truth, values)), **micro_rates(counts)}


SCORES = {SINGLE: Score, MULTI: KeptScore, REGRESSION: KeptScore, EMBEDDING: KeptScore}


def _embedding_metrics(outputs: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
    """Classify each image by its neighbours among the others of the pass."""
    by_vote, by_nearest = _neighbours(F.normalize(outputs, dim=1), labels, num_classes)
    return {
        "accuracy": (by_vote == labels).float().mean().item(),
        "recall_at_1": (by_nearest == labels).float().mean().item(),
    }


def _neighbours(embeddings: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the majority class of the nearest others, and the class of the nearest: int64 (n,).

    Of two classes with as many votes the nearer one wins. As many vote as the smallest class has
    others, at most NUM_NEIGHBOURS: more would outvote it however compact it is.
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
        # Near neighbours differ by less than TF32 has digits.
        with exact_products(embeddings.device):
            distances = torch.cdist(embeddings[rows], embeddings)
        distances[torch.arange(len(rows), device=rows.device), rows] = float("inf")
        classes = labels[distances.topk(num_neighbours, largest=False).indices]
        votes = torch.zeros(len(rows), num_classes, device=labels.device)
        votes.scatter_add_(1, classes, weights.expand(len(rows), -1))
        by_vote.append(votes.argmax(dim=1))
        by_nearest.append(classes[:, 0])
    return torch.cat(by_vote), torch.cat(by_nearest)


def label_kind_of(kind: str) -> str:
    """Return the kind of labels that a kind of task needs."""
    return SINGLE if kind == EMBEDDING else kind
