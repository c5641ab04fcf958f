"""Keyed randomness: every draw is a hash of what it is for, so no generator has a state that could
differ.

Draws come from splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, figure 16) of (seed, purpose, epoch, image index, column). They do not depend on the
number of workers, on the batch an image falls into, or on where a run was interrupted.
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ptkit.core.errors import UsageError
from ptkit.core.ranks import ALONE, Rank

# 2^64 divided by the golden ratio, as an odd number: the step of splitmix64.
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

Indices = npt.NDArray[np.int64]

# Of keys that are made at a time: they stay in the processor's cache.
_BLOCK = 1 << 15


def uniforms(
    seed: int, purpose: str, *, epoch: int, indices: npt.NDArray[np.int64], columns: int
) -> npt.NDArray[np.float64]:
    """Return draws in [0, 1) of shape (len(indices), columns), one row for each image index."""
    base = np.uint64(stream_key(seed, purpose, epoch))
    rows = _mix(indices.astype(np.uint64) * np.uint64(GOLDEN) + base)
    steps = (np.arange(1, columns + 1, dtype=np.uint64)) * np.uint64(GOLDEN)
    return (_mix(rows[:, None] + steps) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def permutation(seed: int, purpose: str, *, epoch: int, length: int) -> Indices:
    """Return a random order of 0..length-1: the numbers sorted by their keys."""
    base = np.uint64(stream_key(seed, purpose, epoch))
    # Keys alone are sorted several times as fast as places by their keys: so the place is in the
    # low bits of its key.
    mask = np.uint64((1 << length.bit_length()) - 1)
    joined = np.empty(length, np.uint64)
    for start in range(0, length, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, length), dtype=np.uint64)
        joined[start : start + _BLOCK] = (_order_keys(numbers, base) & ~mask) | numbers
    joined.sort()
    is_tied = np.zeros(length + 1, np.bool_)
    np.less_equal(joined[1:] ^ joined[:-1], mask, out=is_tied[1:length])
    joined &= mask
    order = joined.view(np.int64)
    # A few keys differ in the bits that gave way only.
    tied = np.flatnonzero(is_tied[:-1] | is_tied[1:])
    order[tied] = order[tied][np.argsort(_order_keys(joined[tied], base))]
    return order


def _order_keys(numbers: npt.NDArray[np.uint64], base: np.uint64) -> npt.NDArray[np.uint64]:
    """Return a key for each number; no two are equal, as splitmix64 maps 64 bits one to one."""
    return _mix((numbers + np.uint64(1)) * np.uint64(GOLDEN) + base)


def stream_key(seed: int, purpose: str, number: int = 0) -> int:
    """Return a 64-bit key for (seed, purpose, number): the seed of a generator, or the base of a
    family of draws.
    """
    return _mix_int(_family_key(seed, purpose) + (number + 1) * GOLDEN)


# Cached: a training step asks for its own key.
@functools.lru_cache(maxsize=64)
def _family_key(seed: int, purpose: str) -> int:
    return _mix_int(_mix_int(seed + GOLDEN) ^ zlib.crc32(purpose.encode()))


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finish splitmix64 on whole arrays; uint64 arithmetic wraps as the algorithm needs."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_int(z: int) -> int:
    z &= MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


T = TypeVar("T")

SAMPLERS = ("none", "balanced")

# An image's occurrences in an epoch get draws of their own: those of the index with this much added
# for each.
_NEXT_OCCURRENCE = 1 << 40


@dataclass(frozen=True)
class Sampling:
    """Which images an epoch passes, and how they are divided into batches.

    shuffle: in a random order, another in each epoch. sampler: "balanced" draws as many images as
    the list has, with replacement and in random order, so that every class comes equally often; see
    `balanced_weights`. drop_last: without the last batch if it is smaller. seed: of the
    augmentation too. rank: makes its part of each batch; order and draws do not depend on it.
    """

    batch_size: int
    shuffle: bool = False
    sampler: str = "none"
    drop_last: bool = False
    seed: int = 0
    rank: Rank = ALONE

    def num_batches(self, num_images: int) -> int:
        """Return how many batches an epoch over so many images has."""
        missing = 0 if self.drop_last else self.batch_size - 1
        return (num_images + missing) // self.batch_size

    def smallest_batch(self, num_images: int) -> int:
        """Return how many images the smallest part of a batch has, in an epoch over so many
        images.
        """
        smallest = (0 if self.drop_last else num_images % self.batch_size) or self.batch_size
        return max(smallest // self.rank.num_ranks, 1)

    @property
    def largest_part(self) -> int:
        """How many images this rank has of a full batch."""
        part = self.rank.part_of(self.batch_size)
        return max(int(part.stop - part.start), 1)

    def part_of_batch(self, number: int, num_images: int) -> "BatchPart":
        """Return which images of an epoch's order this rank has of a batch."""
        start = number * self.batch_size
        size = min(self.batch_size, num_images - start)
        part = self.rank.part_of(size)
        # All ranks step together: who has nothing to do runs an image of another.
        is_stand_in = part.start == part.stop
        if is_stand_in:
            part = slice(0, 1)
        return BatchPart(slice(start + part.start, start + part.stop), size, is_stand_in)


class BatchPart(NamedTuple):
    """Places in an epoch's order. batch_size: images of the whole batch. is_stand_in: an image of
    another rank, in the place of none, which counts for nothing.
    """

    places: slice
    batch_size: int
    is_stand_in: bool


class Selection(NamedTuple):
    """The images of a batch, or of a part of it: indices (n,) into the list, and the draws of each
    image, (n, num_draws).
    """

    indices: Indices
    draws: npt.NDArray[np.float64]

    def part(self, start: int, end: int) -> "Selection":
        return Selection(self.indices[start:end], self.draws[start:end])


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
        draws = uniforms(seed, "sample", epoch=epoch, indices=numbers, columns=1)[:, 0]
        draws *= ends[-1]
        # np.searchsorted(ends, draws, "right"), sought in rising order: of ten million, six times
        # as fast.
        by_draw = np.argsort(draws)
        places = np.empty(count, np.int64)
        places[by_draw] = np.searchsorted(ends, draws[by_draw], side="right")
        # The product of a draw and the sum may round up to the sum, behind the last image.
        return cast(Indices, np.minimum(places, np.flatnonzero(weights)[-1]))
    return permutation(seed, "order", epoch=epoch, length=count) if shuffle else np.arange(count)


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
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    occurrence = np.empty(len(order), np.int64)
    occurrence[by_index] = np.arange(len(order)) - np.repeat(starts, lengths)
    return order + occurrence * _NEXT_OCCURRENCE


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, the first, the last and evenly between."""
    if len(items) <= count:
        return list(items)
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, count)]
