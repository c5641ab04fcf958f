"""Which images an epoch passes: all of them, or as many drawn so that every class comes equally
often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptkit.core.data import keyed
from ptkit.core.errors import UsageError

T = TypeVar("T")

SAMPLERS = ("none", "balanced")

# An image's occurrences in an epoch get draws of their own: those of the index with this much added
# for each.
_NEXT_OCCURRENCE = 1 << 40

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """Which images an epoch passes, and how they are divided into batches.

    shuffle: in a random order, another in each epoch. sampler: "balanced" draws as many images as
    the list has, with replacement and in random order, so that every class comes equally often; see
    `balanced_weights`. drop_last: without the last batch if it is smaller. seed: of the
    augmentation too.
    """

    batch_size: int
    shuffle: bool = False
    sampler: str = "none"
    drop_last: bool = False
    seed: int = 0

    def num_batches(self, num_images: int) -> int:
        """Return how many batches an epoch over so many images has."""
        return (
            num_images // self.batch_size if self.drop_last else -(-num_images // self.batch_size)
        )


def epoch_order(
    count: int, weights: npt.NDArray[np.float64] | None, *, seed: int, epoch: int, shuffle: bool
) -> Indices:
    """Return the indices of the images that an epoch passes, in order, (count,).

    weights: of images drawn with replacement, (count,), which come in random order; None: each
    image once.
    """
    if weights is not None:
        ends = np.cumsum(weights)
        numbers = np.arange(count, dtype=np.int64)
        draws = keyed.uniforms(seed, "sample", epoch=epoch, indices=numbers, columns=1)[:, 0]
        draws *= ends[-1]
        return np.minimum(_places(ends, draws), _last_weighted(weights))
    return (
        keyed.permutation(seed, "order", epoch=epoch, length=count) if shuffle else np.arange(count)
    )


def balanced_weights(labels: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return how often each image is to be drawn, (N,), so that every class comes equally often;
    the sum is 1.

    labels: int64 (N,), or bool (N, K) where images have several: the weight of an image is the mean
    of 1 / count over its labels, and images without any label count as one more class. Classes
    without images are left out.

    Raises:
        UsageError: the labels are numbers.
    """
    if labels.ndim == 1:
        rarity = 1.0 / np.maximum(np.bincount(labels.astype(np.int64)), 1)
        weights = rarity[labels.astype(np.int64)]
    elif labels.dtype == np.bool_:
        unlabelled = ~labels.any(axis=1, keepdims=True)
        members = np.concatenate([labels, unlabelled], axis=1)
        weights = members @ (1.0 / np.maximum(members.sum(axis=0), 1)) / members.sum(axis=1)
    else:
        raise UsageError(
            "data.sampler=balanced needs classes, and the labels of this list are numbers"
        )
    weights /= weights.sum()
    return weights


def draw_keys(order: Indices) -> Indices:
    """Return the indices under which the augmentation of each image is drawn: another for each time
    it comes.
    """
    by_index = np.argsort(order, kind="stable")
    ordered = order[by_index]
    starts = (
        np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        if len(order)
        else np.zeros(0, np.int64)
    )
    lengths = np.diff(np.r_[starts, len(order)])
    occurrence = np.empty(len(order), np.int64)
    occurrence[by_index] = np.arange(len(order)) - np.repeat(starts, lengths)
    return order + occurrence * _NEXT_OCCURRENCE


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, the first, the last and evenly between."""
    if len(items) <= count:
        return list(items)
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, count)]


def _places(ends: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]) -> Indices:
    """Return np.searchsorted(ends, draws, "right"), sought in rising order: of ten million, six
    times as fast.
    """
    by_draw = np.argsort(draws)
    places = np.empty(len(draws), np.int64)
    places[by_draw] = np.searchsorted(ends, draws[by_draw], side="right")
    return places


def _last_weighted(weights: npt.NDArray[np.float64]) -> int:
    """Return the last image that can be drawn: the product of a draw and the sum may round up to
    the sum.
    """
    return int(np.flatnonzero(weights)[-1])
