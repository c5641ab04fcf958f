"""The sums of an epoch, added up without waiting for the device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# On a GPU reading a number waits for all work queued, on a CPU it costs as much as a small layer:
# many are read at a time. A loss that became NaN on a GPU is noticed within so many batches.
_MANY = 50


class Totals:
    """Sums of an epoch; new batches are kept on the device until the sums are read.

    num_images, loss_sum, num_right: over the batches read so far. first_bad: number of the first
    batch whose loss was NaN or infinite.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._answers: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.num_batches = self.num_images = 0
        self.num_right = self.loss_sum = 0.0
        self.first_bad: int | None = None

    def add(
        self,
        loss: Tensor,
        num_images: int,
        *,
        answers: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Add one batch; loss: its mean. answers, labels: classes to compare, (n * num_crops,)."""
        self._losses.append(loss.detach())
        self._sizes.append(num_images)
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
        if not self._losses:
            return self
        if self._answers:
            answers, labels = torch.cat(self._answers), torch.cat(self._labels)
            # Every crop of an image is an answer, and an image counts once.
            self.num_right += (answers == labels).sum().item() * sum(self._sizes) / len(answers)
        for loss, size in zip(_numbers(self._losses), self._sizes, strict=True):
            if self.first_bad is None and not math.isfinite(loss):
                self.first_bad = self.num_batches
            self.num_batches += 1
            self.num_images += size
            self.loss_sum += loss * size
        self._losses, self._sizes, self._answers, self._labels = [], [], [], []
        return self

    def mean_loss(self) -> float:
        return self.read().loss_sum / max(self.num_images, 1)

    def accuracy(self) -> float:
        """Return the share of right answers, where each image has one."""
        return self.read().num_right / max(self.num_images, 1)


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of some scalars in one transfer."""
    if len(scalars) < 2:
        return [scalar.item() for scalar in scalars]
    return torch.stack(list(scalars)).tolist()
