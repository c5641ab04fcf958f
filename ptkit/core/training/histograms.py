"""Histograms of weights and gradients: copied in the loop, counted later."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.device import begin_copy

Values = npt.NDArray[np.float32]


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
    """Return the finite values of a tensor on the CPU, (n,), sorted."""
    values: Values = tensor.float().numpy().ravel()
    # What is not finite is at the ends: NaNs come last, and only sorting has to look at all.
    ordered = np.sort(values)
    if ordered.size and not np.isfinite(ordered[[0, -1]]).all():
        ordered = ordered[np.isfinite(ordered)]
    return ordered


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
    """Count sorted finite values into TensorBoard's buckets, which grow by a tenth; None if there
    is nothing to count.

    The numbers are those of tensorboardX's make_histogram, which sorts float64 where float32 does.
    """
    edges, bounds = _edges()
    counts = np.diff(np.searchsorted(values, bounds))
    filled = np.flatnonzero(counts)
    if not filled.size:
        return None
    first, end = filled[0], filled[-1] + 1
    exact = values.astype(np.float64)
    return Histogram(
        min=float(values[0]),
        max=float(values[-1]),
        num=values.size,
        sum=float(exact.sum()),
        # Not `dot`, which wakes the threads of BLAS and takes cores from the training.
        sum_squares=float(np.square(exact, out=exact).sum()),
        limits=edges[first : end + 1].tolist(),
        counts=[0, *counts[first:end].tolist()],
    )


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
