"""Images that show the same: files with equal bytes, and near-duplicates, which were re-encoded,
resized, turned or mirrored.

Candidates are found by a perceptual hash (the signs of the lowest frequencies: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) over all eight flips and
rotations, and confirmed by the correlation of thumbnails.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.properties import SIDE, Properties
from ptkit.core.data.components import joined

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Thumbnails = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]

# Of the 64 bits of two hashes, and of two thumbnails.
MAX_DISTANCE, MIN_CORRELATION = 6, 0.95
# A thumbnail with less contrast, in grey levels, is noise around one grey.
_MIN_DEVIATION = 2.0
_FREQUENCIES = 8
# Of four bands of 16 bits, six bits that differ leave one with at most one of them.
_BAND = 16
_ONE_BIT = np.array([0, *(1 << bit for bit in range(_BAND))], np.int64)
_NUM_ONES = np.array([number.bit_count() for number in range(1 << _BAND)], np.uint8)
# Thumbnails that are looked at in one go (32 MB as floats), and candidates.
_BLOCK, _CANDIDATES = 1 << 13, 1 << 22
# Pairs by which is judged how alike the images of a class are, and the smallest class that is.
_NUM_SAMPLED, _LEAST_JUDGED = 500, 20
# Turned or not, and the steps through rows and columns.
_VARIANTS = tuple(product((False, True), (1, -1), (1, -1)))
# How often a class has a pair above its limit that only chance made alike.
_CHANCE = 0.01
# What a standard deviation of normal numbers is, in median absolute deviations.
_DEVIATIONS_A_MAD = 1.4826


@dataclass(frozen=True, eq=False)
class Pairs:
    """Near-duplicates: first[k] < second[k], and how well they correlate, each (K,)."""

    first: Indices
    second: Indices
    correlation: Floats


def exact_duplicates(properties: Properties) -> list[list[int]]:
    """Return groups of two and more readable images with equal bytes, each ascending."""
    rows = np.flatnonzero(properties["is_readable"])
    _, codes = np.unique(properties["content"][rows], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def near_duplicates(properties: Properties, labels: Indices) -> Pairs:
    """Return the pairs of images that look the same and have different bytes.

    Their hashes differ in at most 6 of 64 bits, and their thumbnails correlate by 0.95, or by more
    where the images of a class are alike by nature. Of files with equal bytes the first stands for
    all; images of nearly one colour are left out.

    labels: the class of each image, (N,).
    """
    rows = _comparable(properties)
    thumbnails = properties["thumbnail"][rows]
    limits = _limits(thumbnails, labels[rows])
    plain = _hashes(thumbnails, *_VARIANTS[0])
    found = [np.empty((3, 0))]
    for variant in _VARIANTS:
        for one, other in _candidates(_hashes(thumbnails, *variant), plain):
            turned = _varied(thumbnails[one], *variant)
            correlation = _correlations(turned, thumbnails[other])
            is_same = correlation >= np.maximum(limits[one], limits[other])
            found.append(np.stack([other, one, correlation])[:, is_same])
    first, second, correlation = np.concatenate(found, axis=1)
    # A symmetric image is found in several variants: the best counts.
    order = np.lexsort((-correlation, second, first))
    best = order[np.unique(np.stack([first, second])[:, order], axis=1, return_index=True)[1]]
    return Pairs(rows[first[best].astype(int)], rows[second[best].astype(int)], correlation[best])


def look_alikes(exact: list[list[int]], near: Pairs) -> list[list[int]]:
    """Return groups of near-duplicates and all copies of these, each ascending."""
    pairs = np.stack([near.first, near.second], axis=1).tolist()
    is_near = {index for pair in pairs for index in pair}
    return joined([*pairs, *(group for group in exact if is_near.intersection(group))])


def _comparable(properties: Properties) -> Indices:
    """Return the rows to compare: readable, not of one grey, the first of each content."""
    thumbnails = properties["thumbnail"]
    blocks = range(0, len(thumbnails), _BLOCK)
    deviations = [thumbnails[start : start + _BLOCK].std(axis=(1, 2)) for start in blocks]
    rows = np.flatnonzero(properties["is_readable"] & (np.hstack(deviations) >= _MIN_DEVIATION))
    return np.sort(rows[np.unique(properties["content"][rows], return_index=True)[1]])


def _varied(thumbnails: Thumbnails, is_turned: bool, row_step: int, column_step: int) -> Thumbnails:
    turned = thumbnails.swapaxes(-1, -2) if is_turned else thumbnails
    return turned[..., ::row_step, ::column_step]


def _hashes(thumbnails: Thumbnails, is_turned: bool, *steps: int) -> Hashes:
    """Return 64 bits for each thumbnail in one of its variants: the signs of its 8×8 lowest
    coefficients of the discrete cosine transform, but the mean's.
    """
    places = np.arange(SIDE) + 0.5
    waves = np.cos(np.pi / SIDE * np.outer(np.arange(_FREQUENCIES), places)).astype(np.float32)
    parts = []
    for start in range(0, len(thumbnails), _BLOCK):
        block = _varied(thumbnails[start : start + _BLOCK], is_turned, *steps).astype(np.float32)
        coefficients = (waves @ block @ waves.T).reshape(-1, _FREQUENCIES**2)
        coefficients[:, 0] = 0
        parts.append(np.packbits(coefficients > 0, axis=1).view(np.uint64)[:, 0])
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _candidates(queries: Hashes, hashes: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield (k, other), other < k, for queries[k] and hashes[other] within the distance; each at
    least once, in blocks.
    """
    for shift in range(0, 64, _BAND):
        keys, asked = (
            (h >> np.uint64(shift)).astype(np.int64) & ((1 << _BAND) - 1) for h in (hashes, queries)
        )
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << _BAND) + 1))
        for flipped in _ONE_BIT:
            probed = asked ^ flipped
            first, counts = starts[probed], starts[probed + 1] - starts[probed]
            for rows in _in_blocks(counts):
                one = np.repeat(rows, counts[rows])
                ends = np.cumsum(counts[rows])
                within = np.arange(len(one)) - np.repeat(ends - counts[rows], counts[rows])
                other = order[np.repeat(first[rows], counts[rows]) + within]
                one, other = one[other < one], other[other < one]
                differing = (queries[one] ^ hashes[other]).view(np.uint16).reshape(-1, 4)
                is_near = _NUM_ONES[differing].sum(axis=1) <= MAX_DISTANCE
                one, other = one[is_near], other[is_near]
                for start in range(0, len(one), _BLOCK):
                    yield one[start : start + _BLOCK], other[start : start + _BLOCK]


def _in_blocks(counts: Indices) -> list[Indices]:
    """Return rows 0..N-1 in pieces of which the counts add up to a block, or little more."""
    pieces = np.cumsum(counts) // _CANDIDATES
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(pieces)) + 1)


def _correlations(one: Thumbnails, other: Thumbnails) -> Floats:
    """Return Pearson's correlation of pairs of thumbnails, (n,)."""
    standard = []
    for thumbnails in (one, other):
        flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        flat /= np.sqrt(np.einsum("nk,nk->n", flat, flat))[:, None]
        standard.append(flat)
    found: Floats = np.einsum("nk,nk->n", *standard).astype(np.float64)
    return found


def _limits(thumbnails: Thumbnails, labels: Indices) -> Floats:
    """Return for each image how well a near-duplicate has to correlate with it.

    The images of a class may be alike by nature: digits, parts on a conveyor. Fisher's z of random
    pairs is about normal; the limit is what one class in a hundred has a pair above by chance,
    median + deviation · sqrt(2 ln(100 · number of pairs)), and never below 0.95. By median and MAD:
    duplicates among the sampled pairs do not count.
    """
    rng = np.random.default_rng(0)
    limits = np.full(len(labels), MIN_CORRELATION)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < _LEAST_JUDGED:
            continue
        one = rng.integers(0, len(rows), _NUM_SAMPLED)
        other = (one + rng.integers(1, len(rows), _NUM_SAMPLED)) % len(rows)
        correlation = _correlations(thumbnails[rows[one]], thumbnails[rows[other]])
        z = np.arctanh(correlation.clip(-0.999999, 0.999999))
        deviation = _DEVIATIONS_A_MAD * np.median(np.abs(z - np.median(z)))
        num_pairs = len(rows) * (len(rows) - 1) / 2
        highest = np.median(z) + deviation * np.sqrt(2 * np.log(num_pairs / _CHANCE))
        limits[rows] = max(MIN_CORRELATION, np.tanh(highest))
    return limits
