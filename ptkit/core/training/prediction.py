"""A model's answers over a list, in order; nothing waits for the device between batches."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.data.keyed import Indices
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.device import begin_copy, when_copied
from ptkit.core.distributed import in_list_order, merged
from ptkit.core.machine import keep_freed_memory
from ptkit.core.training.tasks.task import Task

_FAR = 1e3


@dataclass(frozen=True)
class Predicted:
    """A model's answers on the images of a list, in the list's order.

    values: float32 (N, K) probabilities, or (N, D) numbers. answers: int64 (N,) classes, bool
    (N, K) for several labels, or the same numbers. counted: indices of the images that count in
    accuracy; None for all.
    """

    values: npt.NDArray[np.float32]
    answers: npt.NDArray[Any]
    counted: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Indices of the images that count in accuracy."""
        return np.arange(len(self.values)) if self.counted is None else self.counted


def predict_list(
    model: nn.Module,
    batches: Batches,
    *,
    task: Task,
    dtype: torch.dtype | None = None,
    bad: Unreadable | None = None,
) -> Predicted:
    """Return the answers on every image of a list; the model is left in evaluation mode. Of several
    ranks each runs its parts of the batches, and all return the same.

    bad: gets the images that cannot be read, whose answers mean nothing; without it they are an
    error.

    Raises:
        DataError: an image that cannot be read.
    """
    return predicted(_outputs(model, batches, dtype, bad), task)


def predicted_parts(
    model: nn.Module, batches: Batches, *, task: Task, bad: Unreadable | None = None
) -> Iterator[tuple[Indices, Predicted]]:
    """Yield the answers batch by batch, with the indices of the images, while the next one is under
    way; the model is left in evaluation mode. For one process alone.

    bad: as for `predict_list`.

    Raises:
        DataError: an image that cannot be read.
    """
    keep_freed_memory()
    model.eval()
    task, device = task.on(batches.device), batches.device
    # A GPU computes a batch while the answers of the one before go out.
    num_ahead = 0 if device.type == "cpu" else 1
    under_way: deque[tuple[Indices, Tensor, Tensor, Callable[[], None]]] = deque()

    def first() -> tuple[Indices, Predicted]:
        indices, values, answers, wait = under_way.popleft()
        wait()
        return indices, Predicted(values.numpy(), answers.numpy())

    for batch in batches.epoch(bad=bad):
        # Not around the loop: this mode would hold for whoever takes what is yielded.
        with torch.inference_mode():
            outputs = batch.outputs(model).float()
            values, answers = begin_copy(task.values(outputs)), begin_copy(task.answers(outputs))
        under_way.append((batch.indices, values, answers, when_copied(device)))
        if len(under_way) > num_ahead:
            yield first()
    while under_way:
        yield first()


def predicted(outputs: Tensor, task: Task) -> Predicted:
    """Return the answers that outputs (N, num_outputs) mean."""
    task = task.on(outputs.device)
    values, answers = task.values(outputs), task.answers(outputs)
    return Predicted(values.cpu().numpy(), answers.cpu().numpy())


def class_means(model: nn.Module, batches: Batches, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the mean unit-length output of each class (num_classes, D), on the CPU.

    A class without images is put far outside the unit sphere: nothing is nearest to it.
    """
    places = F.normalize(_outputs(model, batches, dtype), dim=1)
    labels = torch.from_numpy(batches.images.labels).to(places.device)
    num_classes = batches.images.num_classes
    sums = places.new_zeros(num_classes, places.shape[1]).index_add_(0, labels, places)
    counts = torch.bincount(labels, minlength=num_classes)[:, None]
    return torch.where(counts > 0, sums / counts.clamp_min(1), _FAR).cpu()


def _outputs(
    model: nn.Module,
    batches: Batches,
    dtype: torch.dtype | None,
    bad: Unreadable | None = None,
) -> Tensor:
    keep_freed_memory()
    model.eval()
    rows, places = [], []
    with torch.inference_mode():
        for batch in batches.epoch(bad=bad):
            found = batch.outputs(model, dtype).float()
            rows.append(found[: 0 if batch.is_stand_in else None])
            places.append(batch.indices[: len(rows[-1])])
    if bad is not None:
        bad.update(merged(bad))
    return in_list_order(torch.cat(rows), np.concatenate(places))
