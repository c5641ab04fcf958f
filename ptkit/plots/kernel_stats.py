"""Measurements of the kernels of one layer, and the colours and words of all their pictures."""

from dataclasses import dataclass

import numpy as np

from ptkit.core.wording import counted
from ptkit.plots.style import SIGNED, Page, number
from ptkit.plots.tiles import as_pixels, mapped_colors, shares_between

# A kernel is dead when its norm is below this share of the layer's median norm: weight decay
# shrinks the kernels of units that get no gradient by such factors and more, while the weakest
# kernels in use stay within a few hundredths.
DEAD_SHARE = 1e-3
_ENDS = "ends: 99.5th percentile of |w|"


@dataclass(frozen=True)
class KernelStats:
    """One value per output channel, each array (outputs,); is_dead: bool.

    limit: the layer's scale, the 99.5th percentile of |w|. num_not_finite: NaN and infinite
    weights, left out of the rest.
    """

    norms: np.ndarray
    minima: np.ndarray
    maxima: np.ndarray
    is_dead: np.ndarray
    median_norm: float
    limit: float
    num_not_finite: int

    @property
    def num_dead(self) -> int:
        return int(self.is_dead.sum())

    @property
    def norm_shares(self) -> np.ndarray:
        """The norms divided by the largest one."""
        return self.norms / (self.norms.max() or 1.0)


def kernel_stats(weight: np.ndarray) -> KernelStats:
    """Measure the kernels of one layer; weight: (outputs, inputs, height, width)."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    is_finite = np.isfinite(flat)
    known = np.where(is_finite, flat, 0.0)
    norms = np.sqrt((known**2).sum(axis=1))
    median = float(np.median(norms))
    limit = float(np.percentile(np.abs(known), 99.5)) or float(np.abs(known).max()) or 1.0
    return KernelStats(
        norms=norms,
        minima=known.min(axis=1),
        maxima=known.max(axis=1),
        is_dead=((norms < DEAD_SHARE * median) | (norms == 0)) & is_finite.all(axis=1),
        median_norm=median,
        limit=limit,
        num_not_finite=int((~is_finite).sum()),
    )


def kernel_rows(layer: str, stats: KernelStats) -> list[tuple[str, int, float, float, float, bool]]:
    """Return table rows: layer, output channel, norm, min, max, is_dead."""
    columns = (stats.norms, stats.minima, stats.maxima, stats.is_dead)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [(layer, k, *row) for k, row in enumerate(values)]


def kernel_colors(
    kernels: np.ndarray, *, limit: float, scale: str, colormap: str = SIGNED
) -> np.ndarray:
    """Return uint8 colours (n, H, W, 3) of kernels (n, channels, H, W) with one channel or three.

    scale: "layer" (mid-grey or white is zero, `limit` the end of the scale) or "kernel" (each from
    its min to its max, in greys). colormap: of one channel on the layer's scale.
    """
    known = np.nan_to_num(kernels.astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = np.asarray(-limit), np.asarray(limit)
    if scale == "kernel":
        low, high = (how(known, axis=(1, 2, 3), keepdims=True) for how in (np.min, np.max))
    if kernels.shape[1] == 3:
        return as_pixels(shares_between(known, low, high).clip(0, 1)).transpose(0, 2, 3, 1)
    if scale == "layer":
        return mapped_colors(kernels[:, 0], colormap, low=-limit, high=limit)
    return mapped_colors(shares_between(kernels, low, high)[:, 0], "gray", low=0, high=1)


def kernel_notes(weight: np.ndarray, stats: KernelStats, *, how: str, bar: str) -> list[str]:
    """Return the shape as `64 output channels × 3 inputs, kernels of 7×7`, broken weights and how
    kernels are drawn; and how to read the red marks and the norm bars, with the place of a `bar`.
    """
    outputs, inputs, height, width = weight.shape
    counts = f"{counted(outputs, 'output channel')} × {counted(inputs, 'input')}"
    broken = stats.num_not_finite
    rest = f" {broken:,} weights are not finite." if broken else ""
    limit = number(DEAD_SHARE * stats.median_norm)
    red = f"Red: dead, norm below {limit} (median / 1000)."
    return [
        f"{counts}, kernels of {height}×{width}.{rest} {how}",
        f"Bar {bar}: its norm, up to {number(stats.norms.max())}. {red}",
    ]


def draw_legend(
    page: Page, top: float, stats: KernelStats, *, scale: str, is_grey: bool, meaning: str = ""
) -> None:
    """Draw the colour scale at the left of a page; needs 30 pixels of height."""
    labels = [f"−{number(stats.limit)}", "0", f"+{number(stats.limit)}"]
    colormap, meaning = "gray" if is_grey else SIGNED, meaning or _ENDS
    if scale == "kernel":
        colormap, labels, meaning = "gray", ["its min", "its max"], "each kernel on its own scale"
    page.color_bar(0, top, colormap=colormap, labels=labels, meaning=meaning)
