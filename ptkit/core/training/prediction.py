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
from ptkit.core.data.loading.batches import Batch, Batches
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.device import begin_copy, when_copied
from ptkit.core.distributed import in_list_order, merged
from ptkit.core.machine import keep_freed_memory
from ptkit.core.models.features import seeing_features
from ptkit.core.training.tasks.task import Task

_FAR = 1e3
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Predicted:
    """A model's answers on the images of a list, in the list's order.

    values: float32 (N, K) probabilities, or (N, D) numbers. answers: int64 (N,) classes, bool
    (N, K) for several labels, or the same numbers. counted: indices of the images that count in
    accuracy; None for all. unknown: bool (N,), for which the answer is withheld; None where it
    never is.
    """

    values: npt.NDArray[np.float32]
    answers: npt.NDArray[Any]
    counted: npt.NDArray[np.int64] | None = None
    unknown: npt.NDArray[np.bool_] | None = None

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
    num_classes = None if task.strangers is None else batches.images.num_classes
    outputs, features = run_list(model, batches, dtype=dtype, bad=bad, num_classes=num_classes)
    return predicted(outputs, task, features=features)


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
    under_way: deque[tuple[Indices, list[Tensor], Callable[[], None]]] = deque()
    num_classes = None if task.strangers is None else batches.images.num_classes

    def first() -> tuple[Indices, Predicted]:
        indices, found, wait = under_way.popleft()
        wait()
        arrays = (each.numpy() for each in found)
        # Of a GPU they lie in pinned memory, which is used again only if nobody keeps it.
        values, answers, *unknown = arrays if device.type == "cpu" else map(np.copy, arrays)
        return indices, Predicted(values, answers, unknown=unknown[0] if unknown else None)

    for batch in batches.epoch(bad=bad):
        # Not around the loop: this mode would hold for whoever takes what is yielded.
        with torch.inference_mode():
            outputs, features = _run(model, batch, dtype=None, num_classes=num_classes)
            found = task.values(outputs), task.answers(outputs), task.is_unknown(outputs, features)
            copies = [begin_copy(each) for each in found if each is not None]
        under_way.append((batch.indices, copies, when_copied(device)))
        if len(under_way) > num_ahead:
            yield first()
    while under_way:
        yield first()


def predicted(outputs: Tensor, task: Task, *, features: Tensor | None = None) -> Predicted:
    """Return the answers that outputs (N, num_outputs) mean.

    features: (N, D), needed where the task knows strangers.
    """
    task = task.on(outputs.device)
    # What is computed of them on the way takes several times their memory.
    parts = outputs.split(_ROWS_AT_ONCE)
    seen = [None] * len(parts) if features is None else features.split(_ROWS_AT_ONCE)
    found = [_rows_predicted(*some, task) for some in zip(parts, seen, strict=True)]
    values, answers, unknown = zip(*found, strict=True)
    return Predicted(
        np.concatenate(values),
        np.concatenate(answers),
        unknown=None if unknown[0] is None else np.concatenate(unknown),
    )


def _rows_predicted(outputs: Tensor, features: Tensor | None, task: Task) -> tuple[Any, Any, Any]:
    """Return values, answers and what is unknown of some images, None where nothing ever is."""
    unknown = task.is_unknown(outputs, features)
    return (
        task.values(outputs).cpu().numpy(),
        task.answers(outputs).cpu().numpy(),
        None if unknown is None else unknown.cpu().numpy(),
    )


def predicted_batch(model: nn.Module, batch: Batch, task: Task, num_classes: int) -> Predicted:
    """Return the answers for one batch."""
    watched = None if task.strangers is None else num_classes
    outputs, features = _run(model, batch, dtype=None, num_classes=watched)
    return predicted(outputs, task, features=features)


def class_means(model: nn.Module, batches: Batches, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the mean unit-length output of each class (num_classes, D), on the CPU.

    A class without images is put far outside the unit sphere: nothing is nearest to it.
    """
    places = F.normalize(run_list(model, batches, dtype=dtype)[0], dim=1)
    labels = torch.from_numpy(batches.images.labels).to(places.device)
    num_classes = batches.images.num_classes
    sums = places.new_zeros(num_classes, places.shape[1]).index_add_(0, labels, places)
    counts = torch.bincount(labels, minlength=num_classes)[:, None]
    return torch.where(counts > 0, sums / counts.clamp_min(1), _FAR).cpu()


def run_list(
    model: nn.Module,
    batches: Batches,
    *,
    dtype: torch.dtype | None = None,
    bad: Unreadable | None = None,
    num_classes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the outputs (N, num_outputs) on every image of a list, float32.

    num_classes: of the layer whose inputs are returned too, the features (N, D); None without them.
    The rest: see `predict_list`.
    """
    keep_freed_memory()
    model.eval()
    rows, features, places = [], [], []
    with torch.inference_mode():
        for batch in batches.epoch(bad=bad):
            outputs, seen = _run(model, batch, dtype=dtype, num_classes=num_classes)
            kept = 0 if batch.is_stand_in else None
            rows.append(outputs[:kept])
            places.append(batch.indices[: len(rows[-1])])
            if seen is not None:
                features.append(seen[:kept])
    if bad is not None:
        bad.update(merged(bad))
    order = np.concatenate(places)
    outputs = in_list_order(_joined(rows), order)
    return outputs, in_list_order(_joined(features), order) if features else None


def _joined(parts: list[Tensor]) -> Tensor:
    """Return parts as one tensor, and forget them."""
    whole = torch.cat(parts)
    parts.clear()
    return whole


def _run(
    model: nn.Module, batch: Batch, *, dtype: torch.dtype | None, num_classes: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return outputs (n, num_outputs) and features (n, D) of a batch, None without num_classes;
    of several crops the means.
    """
    if num_classes is None:
        return batch.outputs(model, dtype).float(), None
    with seeing_features(model, num_classes=num_classes) as seen:
        outputs = batch.outputs(model, dtype).float()
        return outputs, seen().unflatten(0, (-1, batch.num_crops)).mean(dim=1)
