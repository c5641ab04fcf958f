"""The loss of a batch and of a list: what is added up, and what that is divided by.

A mean over a list is one mean. Numerators and denominators of its batches are summed apart and
divided once: a mean of batches' means would depend on the batch size and on the order of the lines
wherever images do not weigh the same.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call
from ptkit.core.training.tasks.pairs import Pairing
from ptkit.core.training.tasks.task import Task

# Losses whose mean is over the weights of the images' classes.
_WEIGHING = (nn.CrossEntropyLoss, nn.NLLLoss)
# What a sum of losses is divided by: images or pairs; or weights, which stay on the device.
Count = int | Tensor

# On a GPU reading a number waits for all work queued, on a CPU it costs as much as a small layer:
# many are read at a time. A loss that became NaN on a GPU is noticed within so many batches.
_MANY = 50


@dataclass(frozen=True)
class Use:
    """How a loss is used with one kind of labels.

    activation: what the outputs pass before it. target: what it gets of the labels, given the
    number of classes. decoder: name of what reads the same outputs, in DECODERS. smoothing: the
    share of one-hot rows that is spread over all classes (Szegedy et al. 2016, section 7).
    """

    activation: Callable[[Tensor], Tensor]
    target: Callable[[Tensor, int], Tensor]
    decoder: str
    smoothing: float | None = None

    def target_of(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return what the loss gets of label rows."""
        target = self.target(labels, num_classes)
        if self.smoothing is None:
            return target
        return target * (1 - self.smoothing) + self.smoothing / num_classes


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """What the labels of a list are like.

    kind: of the labels. num_classes: or how many numbers an image has. counts: (K,) images of each
    class; empty for numbers. mean, std: (D,) of the numbers; empty for classes. lowest: the
    smallest number; 0 for classes.
    """

    kind: str
    num_classes: int
    num_images: int
    counts: Tensor
    mean: Tensor
    std: Tensor
    lowest: float = 0.0


class Loss(nn.Module):
    """A loss with what surrounds it: from outputs and labels to a scalar.

    outputs: (n, num_outputs). labels: rows of ImageList.labels.
    call: as the user wrote it. use: a Use, or how images are compared. task: how the same outputs
    are read. is_sum: PyTorch's reduction="sum": a sum over batches and lists too, never divided.
    """

    # What each class counts for in the denominator, (K,); None where every image counts for one.
    class_weights: Tensor | None

    def __init__(
        self, criterion: nn.Module, call: Call, use: Use | Pairing, task: Task, facts: LabelFacts
    ) -> None:
        super().__init__()
        self.criterion, self.call, self.use = criterion, call, use
        self.task, self.facts = task, facts
        # A loss of the user's own gives a mean, unless it says otherwise as PyTorch's do.
        self.reduction = getattr(criterion, "reduction", "mean")
        self.is_sum = self.reduction == "sum"
        weights = class_weights(criterion, facts.num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def on(self, device: torch.device) -> "Loss":
        """Return the loss with all its tensors on a device, so that no batch waits for a copy."""
        task = self.task.on(device)
        return Loss(self.criterion, self.call, self.use, task, self.facts).to(device)

    def forward(self, outputs: Tensor, labels: Tensor, *, over: Count | None = None) -> Tensor:
        """Return the loss of a batch, as PyTorch gives it; or its part of a mean of several.

        The parts add up to the loss of all their images at once.

        over: the sum of the counts of all batches of the mean; None for this one alone. Where it is
        0 the loss is 0, and so is its gradient.
        """
        # In float32: under bf16 autocast the sums of a loss lose digits.
        values, size = outputs.float(), len(labels)
        if self.is_sum or not self.weighs_images:
            loss = self._applied(self.criterion, values, labels)
            # PyTorch's own mean where that is all: it rounds otherwise than a sum, divided.
            return loss if self.is_sum or over is None or over == size else loss * (size / over)
        total = self._applied(self._summed, values, labels)
        return _divided(total, self.count(labels) if over is None else over)

    def mixed(
        self,
        outputs: Tensor,
        labels: Tensor,
        partner_labels: Tensor,
        share: Tensor,
        *,
        over: Count | None = None,
    ) -> Tensor:
        """Return the mean of each image's two losses, weighted by its share (n,) and the rest.

        PyTorch's own mean for soft targets: over images, whatever their classes weigh. over: as in
        `forward`, of `mixed_count`.
        """
        own, partner = self._each(outputs, labels), self._each(outputs, partner_labels)
        total = (own * share + partner * (1 - share)).sum()
        if self.is_sum:
            return total
        return _divided(
            total, self.mixed_count(labels, partner_labels, share) if over is None else over
        )

    @property
    def weighs_images(self) -> bool:
        """Whether a mean is over something else than images, such as their weights, or pairs."""
        return self.compares or self._is_mean_of_cells or self.class_weights is not None

    def count(self, labels: Tensor) -> Count:
        """Return what a batch adds to the denominator of a mean: images, their weights, or pairs.

        From the labels alone, so that a group of batches has its denominator before the first of
        them is stepped on. Only pairs wait for the device, as forming them does.
        """
        if isinstance(self.use, Pairing):
            return self.use.count(torch.bincount(labels).tolist())
        if self.class_weights is not None:
            return self.class_weights[labels].sum()
        return len(labels) * (self.facts.num_classes if self._is_mean_of_cells else 1)

    def mixed_count(self, labels: Tensor, partner_labels: Tensor, share: Tensor) -> Count:
        """Return what a mixed batch adds to the denominator: images, without what is ignored."""
        ignored = getattr(self.criterion, "ignore_index", None)
        # Of a user's own loss nobody knows what it leaves out.
        if type(self.criterion) not in _WEIGHING or ignored not in range(self.facts.num_classes):
            return len(labels)
        own, partner = (some != ignored for some in (labels, partner_labels))
        return (own * share + partner * (1 - share)).sum()

    @property
    def compares(self) -> bool:
        """Whether images are compared with each other: the outputs are then an embedding."""
        return isinstance(self.use, Pairing)

    @property
    def described(self) -> str:
        """The call, and what ptkit adds to what PyTorch does by it."""
        added = []
        if isinstance(self.use, Pairing):
            added.append("on outputs of unit length, compared within a batch")
        elif (before := self.use.activation.__name__) != "unchanged":
            added.append(f"after {before.replace('_', '-')}")
        if self.is_sum:
            added.append(f"a sum over {'pairs or triplets' if self.compares else 'images'}")
        if self.reduction == "batchmean":
            added.append("a mean over images")
        if isinstance(self.use, Use) and self.use.smoothing is not None:
            added.append(f"target smoothed by {self.use.smoothing:g}")
        if self.task.scale is not None:
            added.append("numbers in units of their spread")
        return ", ".join([self.call.source or str(self.call), *added])

    @property
    def _is_mean_of_cells(self) -> bool:
        # Divided here: PyTorch warns at each such mean that it will once mean another.
        return self.reduction == "mean" and isinstance(self.criterion, nn.KLDivLoss)

    @cached_property
    def _summed(self) -> nn.Module:
        return _reduced(self.criterion, "sum")

    @cached_property
    def _unreduced(self) -> nn.Module:
        return _reduced(self.criterion, "none")

    def _each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (n,)."""
        values = self._applied(self._unreduced, outputs.float(), labels)
        if values.ndim == 0:
            raise UsageError(
                f"MixUp and CutMix mix the losses of single images: {self.call.name} must give each"
                " image's for reduction='none'"
            )
        if values.ndim == 1:
            return values
        is_mean = self.reduction == "mean"
        return values.flatten(1).mean(1) if is_mean else values.flatten(1).sum(1)

    def _applied(self, criterion: nn.Module, values: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self.use, Pairing):
            compared: Tensor = criterion(*self.use.form(F.normalize(values, dim=1), labels))
            return compared
        target = self.use.target_of(labels, self.facts.num_classes)
        if self.task.scale is not None and self.task.shift is not None:
            target = (target - self.task.shift) / self.task.scale
        # KLDivLoss(log_target=True) takes logarithms; of 0 it would make 0 times infinity.
        if getattr(criterion, "log_target", False):
            target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
        loss: Tensor = criterion(self.use.activation(values), target)
        return loss


def class_weights(criterion: nn.Module, num_classes: int) -> Tensor | None:
    """Return what PyTorch's mean divides by, for each class; None where that is 1 for all."""
    # Other losses with weights divide by the number of images all the same; a subclass of the
    # user's may do anything.
    if type(criterion) not in _WEIGHING:
        return None
    weight, ignored = (getattr(criterion, name) for name in ("weight", "ignore_index"))
    if weight is None and ignored not in range(num_classes):
        return None
    weights = torch.ones(num_classes) if weight is None else weight.cpu()
    return weights.masked_fill(torch.arange(num_classes).eq(ignored), 0)


def _reduced(criterion: nn.Module, reduction: str) -> nn.Module:
    other = copy.copy(criterion)
    other.reduction = reduction  # type: ignore[assignment]
    return other


def _divided(total: Tensor, over: Count) -> Tensor:
    # Where nothing counts, 0/0 would end a healthy run.
    if isinstance(over, Tensor):
        return total / over.masked_fill(over == 0, torch.inf)
    return total / (over or torch.inf)


# Of Totals, what a state holds to go on in the middle of an epoch.
SUMS = ("num_images", "num_batches", "num_right", "num_counted", "loss_sum", "loss_count")


class Totals:
    """Sums over the images of a list; new batches are kept on the device until they are read.

    num_images, loss_sum, num_right: over the batches read so far. loss_count, num_counted: what the
    two sums are divided by. first_bad: number of the first batch whose loss was NaN or infinite.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._losses: list[Tensor] = []
        self._overs: list[Count] = []
        self._counts: list[Count] = []
        self._answers: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.num_batches = self.num_images = self.num_right = self.num_counted = 0
        self.loss_sum = self.loss_count = 0.0
        self.first_bad: int | None = None

    def add(
        self,
        loss: Tensor,
        *,
        over: Count,
        count: Count,
        num_images: int,
        answers: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Add one batch.

        loss: its sum divided by `over`. count: what it adds to the denominator of the mean.
        answers, labels: classes to compare, (n * num_crops,).
        """
        # Detached: the loss would keep the graph of its batch in memory.
        self._losses.append(loss.detach())
        self._overs.append(over)
        self._counts.append(count)
        self.num_images += num_images
        if answers is not None and labels is not None:
            self._answers.append(answers)
            self._labels.append(labels)

    def is_due(self) -> bool:
        """Whether to read now: many batches wait, or the last loss is bad."""
        # A stand-in adds none.
        if not self._losses:
            return False
        # On a CPU looking at the loss waits for nothing.
        last = self._losses[-1]
        return len(self._losses) >= _MANY or (last.is_cpu and not math.isfinite(last.item()))

    def read(self) -> "Totals":
        """Bring the sums up to date and return self."""
        if self._answers:
            answers, labels = torch.cat(self._answers), torch.cat(self._labels)
            counts = self._loss.task.counts(labels)
            self.num_right += int(((answers == labels) & counts).sum())
            self.num_counted += int(counts.sum())
        several = (_numbers(some) for some in (self._losses, self._overs, self._counts))
        for loss, over, count in zip(*several, strict=True):
            if self.first_bad is None and not math.isfinite(loss):
                self.first_bad = self.num_batches
            self.num_batches += 1
            self.loss_sum += loss if self._loss.is_sum else loss * over
            self.loss_count += count
        for waiting in (self._losses, self._overs, self._counts, self._answers, self._labels):
            waiting.clear()
        return self

    def sums(self) -> dict[str, float]:
        """Return what `load` goes on from; waits for the device."""
        self.read()
        return {name: getattr(self, name) for name in SUMS}

    def load(self, sums: Mapping[str, float]) -> None:
        """Go on from the sums of the batches before.

        Raises:
            KeyError: some are missing.
        """
        for name in SUMS:
            setattr(self, name, sums[name])

    def loss(self) -> float:
        """Return the loss of all images at once: their mean, or their sum where the loss is one."""
        sums = self.read()
        # Over nothing, such as no pair in any batch, it is 0.
        return sums.loss_sum / (1 if self._loss.is_sum else sums.loss_count or 1)

    def accuracy(self) -> float:
        """Return the share of right answers, where each image has one, of those that count."""
        # Every crop of an image is an answer; all images have as many.
        return self.read().num_right / max(self.num_counted, 1)


def _numbers(values: Sequence[Count]) -> list[float]:
    """Return plain numbers; those on the device are fetched together."""
    if values and isinstance(values[0], Tensor):
        numbers: list[float] = torch.stack(values).tolist()  # type: ignore[arg-type]
        return numbers
    return values  # type: ignore[return-value]
