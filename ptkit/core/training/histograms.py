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

# Values counted in one call, which bounds the memory that counting takes.
_AT_ONCE = 1 << 18
# A cell holds the float32 values that differ in their lowest bits alone. Most cells lie within one
# bucket, so it is enough to count their values; those of the other cells are looked up one by one.
_LOW_BITS = 15
_NUM_CELLS = 1 << (32 - _LOW_BITS)
# Fewer values than this are all looked up: counting cells costs the same however few there are.
_FEWEST_FOR_CELLS = 1 << 15


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
    """The counts of some values, with their extremes and sums.

    limits: the upper end of each bucket. counts: the values in each bucket; the first bucket is
    always empty: it is there because its end is where the second one begins.
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

    The numbers are those of tensorboardX's make_histogram, which sorts the values as float64. Here
    nothing is sorted, because counting takes less time.
    """
    edges, bounds = _edges()
    counts = _counts_of(values, bounds)
    # The first and the last count are of values below and above all buckets.
    inside = counts[1:-1]
    filled = np.flatnonzero(inside)
    if not filled.size:
        return None
    lowest, end = filled[0], filled[-1] + 1
    sums = [_sums_of(part) for part in _parts(values)]
    total, total_squares = np.sum(sums, axis=0).tolist()
    return Histogram(
        min=float(values.min()),
        max=float(values.max()),
        num=values.size,
        sum=total,
        sum_squares=total_squares,
        limits=edges[lowest : end + 1].tolist(),
        counts=[0, *inside[lowest:end].tolist()],
    )


def _counts_of(values: Values, bounds: Values) -> npt.NDArray[np.int64]:
    """Return how many values lie below all bounds, between each bound and the next, and above all.

    bounds: rising, (n,). A value that equals a bound lies above it. The result is (n + 1,).
    """
    size = len(bounds) + 1
    if len(values) < _FEWEST_FOR_CELLS:
        return np.bincount(np.searchsorted(bounds, values, "right"), minlength=size)
    num_below, is_divided = _cells()
    in_cells, counts = np.zeros(_NUM_CELLS, np.int64), np.zeros(size, np.int64)
    for part in _parts(values):
        cells = part.view(np.uint32) >> _LOW_BITS
        in_cells += np.bincount(cells, minlength=_NUM_CELLS)
        looked_up = part[is_divided[cells]]
        counts += np.bincount(np.searchsorted(bounds, looked_up, "right"), minlength=size)
    in_cells[is_divided] = 0
    return counts + np.bincount(num_below, in_cells, size).astype(np.int64)


def _sums_of(values: Values) -> tuple[float, float]:
    """Return the sum of some values, and of their squares."""
    exact = values.astype(np.float64)
    # `dot` would wake the threads of BLAS, which take cores from the training.
    return float(exact.sum()), float(np.square(exact, out=exact).sum())


def _parts(values: Values) -> Iterator[Values]:
    for first in range(0, len(values), _AT_ONCE):
        yield values[first : first + _AT_ONCE]


@functools.cache
def _cells() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return for each cell how many bounds are at or below its values, and whether a bound divides
    it, so that its values differ in this.
    """
    _, bounds = _edges()
    # For negative values larger bits mean a smaller value, so the bounds below either end count.
    first_bits = np.arange(_NUM_CELLS, dtype=np.uint32) << _LOW_BITS
    last_bits = first_bits | ((1 << _LOW_BITS) - 1)
    of_first, of_last = (
        np.searchsorted(bounds, bits.view(np.float32), "right") for bits in (first_bits, last_bits)
    )
    return of_first, of_first != of_last


@functools.cache
def _edges() -> tuple[npt.NDArray[np.float64], Values]:
    """Return the edges of TensorBoard's buckets, and for each the smallest float32 that lies in the
    bucket that begins there.
    """
    positive, edge = [], 1e-12
    while edge < 1e20:
        positive.append(edge)
        edge *= 1.1
    edges = np.array([*(-edge for edge in reversed(positive)), 0.0, *positive])
    rounded = edges.astype(np.float32)
    # A bucket contains its lower end but not its upper one. numpy's last bucket contains both; no
    # value can tell, as the last edge is not a float32.
    return edges, np.where(rounded < edges, np.nextafter(rounded, np.float32(np.inf)), rounded)
