"""Histograms of weights and gradients: copied in the loop, counted later."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.device import begin_copy
from ptkit.core.memory_order import in_memory_order

Values = npt.NDArray[np.float32]

# Counted at once, which bounds the memory.
_AT_ONCE = 1 << 18
# From so many values on, most are counted by the upper bits of their float32: these say in which
# bucket a value is, but where one ends between two values that share them.
_MANY = 1 << 15
_CELL_BITS = 15
_NUM_CELLS = 1 << (32 - _CELL_BITS)


def parameter_copies(model: nn.Module) -> dict[str, Tensor]:
    """Return copies on the CPU of every weight and gradient: `weights/NAME`, `gradients/NAME`.

    Those of a GPU arrive later, see `when_copied`.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for kind, tensor in (("weights", parameter.detach()), ("gradients", parameter.grad)):
            if tensor is not None:
                dense = tensor.to_dense() if tensor.is_sparse else tensor
                found[f"{kind}/{name}"] = begin_copy(dense)
    return found


def finite_values(tensor: Tensor) -> Values:
    """Return the finite values of a tensor on the CPU, (n,), in the order of its memory."""
    values: Values = in_memory_order(tensor.float()).numpy()
    is_finite = np.isfinite(values)
    return values if is_finite.all() else values[is_finite]


@dataclass(frozen=True)
class Histogram:
    """limits: the upper end of each bucket. counts: of each; the first is empty, for its end is
    where the second begins.
    """

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    limits: list[float]
    counts: list[int]


def histogram_of(values: Values) -> Histogram | None:
    """Count finite values into TensorBoard's buckets, which grow by a tenth; None if there is
    nothing to count.

    The numbers are those of tensorboardX's make_histogram, which sorts float64. Here nothing is
    sorted: it takes eight times as long as counting, on processors that are slow at it.
    """
    edges, bounds = _edges()
    counts = _counts_of(values, bounds)
    # What is below all buckets, or above, is in none.
    inside = counts[1:-1]
    filled = np.flatnonzero(inside)
    if not filled.size:
        return None
    lowest, end = filled[0], filled[-1] + 1
    sums = np.sum([_sums_of(part) for part in _parts(values)], axis=0).tolist()
    return Histogram(
        min=float(values.min()),
        max=float(values.max()),
        num=values.size,
        sum=sums[0],
        sum_squares=sums[1],
        limits=edges[lowest : end + 1].tolist(),
        counts=[0, *inside[lowest:end].tolist()],
    )


def _counts_of(values: Values, bounds: Values) -> npt.NDArray[np.int64]:
    """Return how many values have 0, 1, ... of the rising bounds at or below them."""
    size = len(bounds) + 1
    if len(values) < _MANY:
        return np.bincount(np.searchsorted(bounds, values, "right"), minlength=size)
    below, is_divided = _cells()
    in_cells, counts = np.zeros(_NUM_CELLS, np.int64), np.zeros(size, np.int64)
    for part in _parts(values):
        cells = part.view(np.uint32) >> _CELL_BITS
        in_cells += np.bincount(cells, minlength=_NUM_CELLS)
        unsure = part[is_divided[cells]]
        counts += np.bincount(np.searchsorted(bounds, unsure, "right"), minlength=size)
    in_cells[is_divided] = 0
    return counts + np.bincount(below, in_cells, size).astype(np.int64)


def _sums_of(values: Values) -> tuple[float, float]:
    """Return the sum of some values, and of their squares."""
    exact = values.astype(np.float64)
    # Not `dot`, which wakes the threads of BLAS and takes cores from the training.
    return float(exact.sum()), float(np.square(exact, out=exact).sum())


def _parts(values: Values) -> Iterator[Values]:
    for first in range(0, len(values), _AT_ONCE):
        yield values[first : first + _AT_ONCE]


@functools.cache
def _cells() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return of each cell, the float32 that share their upper bits, how many bounds are at or below
    it, and whether a bound divides it.
    """
    _, bounds = _edges()
    lowest = np.arange(_NUM_CELLS, dtype=np.uint32) << _CELL_BITS
    ends = lowest, lowest | ((1 << _CELL_BITS) - 1)
    first, last = (np.searchsorted(bounds, bits.view(np.float32), "right") for bits in ends)
    return first, first != last


@functools.cache
def _edges() -> tuple[npt.NDArray[np.float64], Values]:
    """Return TensorBoard's edges, and for each the least float32 that belongs to what follows."""
    positive, edge = [], 1e-12
    while edge < 1e20:
        positive.append(edge)
        edge *= 1.1
    edges = np.array([*(-edge for edge in reversed(positive)), 0.0, *positive])
    rounded = edges.astype(np.float32)
    # A bucket has its lower end but not its upper one. The last has both, but no float32 is there.
    return edges, np.where(rounded < edges, np.nextafter(rounded, np.float32(np.inf)), rounded)
