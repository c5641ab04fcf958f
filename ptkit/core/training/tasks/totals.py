"""The sums of an epoch: the loss of a list, and its share of right answers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ptkit.core.training.tasks.loss import Count, Loss

# On a GPU reading a number waits for all work queued, on a CPU it costs as much as a small layer:
# many are read at a time. A loss that became NaN on a GPU is noticed within so many batches.
_MANY = 50


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
