"""The images of a list by their size, for models that take decoded images of any size."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.reading import sizes_of
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.parts.calls import Call
from ptkit.core.ranks import here
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import Predicted, predict_list
from ptkit.core.training.tasks.task import Task

# A batch of large photographs would take gigabytes.
_BYTES_A_BATCH = 1 << 24
# Fewer of one size go one by one: preparing a batch costs as much as some images.
_LEAST = 8
# Images that are sorted by their sizes together, where the answers come in parts.
_AT_ONCE = 512

Part = tuple[npt.NDArray[np.int64], int]


@dataclass(frozen=True)
class HowPixels:
    """How decoded images are run: how outputs are read, what becomes of transparency, and how many
    threads decode, 0 for one a core.
    """

    task: Task
    alpha: str
    workers: int


def predict_pixels(
    model: nn.Module, images: ImageList, how: HowPixels, *, bad: Unreadable | None = None
) -> Predicted:
    """Return the answers of a model that takes decoded images, in the list's order.

    bad: as for `predict_list`.

    Raises:
        DataError: an image that cannot be read.
    """
    pipeline = Pipeline.of((Call("ToTensor"),), alpha=how.alpha)
    parts, places = [], []
    for some, together in same_sizes(images):
        unread: Unreadable | None = None if bad is None else {}
        sampling = Sampling(together, rank=here())
        batches = Batches(images.subset(some), pipeline, sampling, workers=how.workers)
        with closing(batches):
            parts.append(predict_list(model, batches, task=how.task, bad=unread))
        places.append(some)
        if bad is not None:
            bad.update({int(some[place]): why for place, why in (unread or {}).items()})
    order = np.argsort(np.concatenate(places))
    doubts = [part.unknown for part in parts if part.unknown is not None]
    return Predicted(
        np.concatenate([part.values for part in parts])[order],
        np.concatenate([part.answers for part in parts])[order],
        unknown=np.concatenate(doubts)[order] if doubts else None,
    )


def predict_pixel_parts(
    model: nn.Module, images: ImageList, how: HowPixels, *, bad: Unreadable | None = None
) -> Iterator[Predicted]:
    """Yield the same in parts, in the list's order, as they come; raises what that does."""
    for start in range(0, len(images), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(images)))
        unread: Unreadable | None = None if bad is None else {}
        found = predict_pixels(model, images.subset(rows), how, bad=unread)
        if bad is not None:
            bad.update({start + place: why for place, why in (unread or {}).items()})
        yield found


def same_sizes(images: ImageList) -> Iterator[Part]:
    """Yield places in a list with how many of them go together, each place once.

    Raises:
        DataError: a path that is not there.
    """
    sizes = sizes_of(images, range(len(images)))
    places: dict[tuple[int, int], list[int]] = {}
    alone: list[int] = []
    for place, size in enumerate(sizes):
        # An unreadable image gets the size of another one.
        if size is None:
            alone.append(place)
        else:
            places.setdefault(size, []).append(place)
    for (height, width), some in places.items():
        together = min(
            _BYTES_A_BATCH // (height * width * 3), evaluation_batch_size(max(height, width))
        )
        if len(some) < _LEAST or together < 2:
            alone.extend(some)
        else:
            yield np.array(some), together
    if alone:
        yield np.array(sorted(alone)), 1
