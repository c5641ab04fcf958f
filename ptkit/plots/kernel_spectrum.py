"""What can be seen of a layer with too many kernels: how strong each is, and the layer's rank."""

import numpy as np
from matplotlib.axes import Axes

from ptkit.plots.style import BLUE, MAGNITUDE, MUTED, Page, light_grid, number, percent
from ptkit.plots.tiles import mapped_colors, resized

SPECTRUM_WIDTH, SPECTRUM_HEIGHT = 420, 720

# Pixels a side for all kernels; with less than two for a weight they look like static.
_SIDE, _LEAST_ZOOM = 640, 2
_MAP, _AXES_TOP = 300, 410


def is_static(weight: np.ndarray) -> bool:
    """Return whether a picture of all kernels shows only static.

    weight: (outputs, inputs, height, width).
    """
    outputs, inputs, height, width = weight.shape
    return bool(max(outputs * height, inputs * width) * _LEAST_ZOOM > _SIDE)


def singular_values(weight: np.ndarray) -> np.ndarray:
    """Return the singular values of a layer as a matrix of a row an output, falling, float64.

    weight: (outputs, inputs, height, width); values that are not finite count as 0.
    """
    known = np.nan_to_num(weight.astype(np.float64), nan=0, posinf=0, neginf=0)
    return np.linalg.svd(known.reshape(len(known), -1), compute_uv=False)


def energy_shares(values: np.ndarray) -> np.ndarray:
    """Return which share of the squared norm the first 1, 2, ... singular values hold."""
    squares = np.cumsum(values**2)
    return squares / (squares[-1] or 1.0)


def spectrum_rows(layer: str, values: np.ndarray) -> list[tuple[str, int, float, float]]:
    """Return table rows: layer, rank from 1, singular value, share of the squared norm so far."""
    pairs = zip(values.tolist(), energy_shares(values).tolist(), strict=True)
    return [(layer, rank, *pair) for rank, pair in enumerate(pairs, 1)]


def draw_spectrum(page: Page, weight: np.ndarray) -> None:
    """Draw the norm of every kernel as a map, and the singular values of the layer below it."""
    known = np.nan_to_num(weight.astype(np.float64), nan=0, posinf=0, neginf=0)
    norms = np.sqrt((known**2).sum(axis=(2, 3)))
    rows, columns = (np.argsort(-(norms**2).sum(axis=axis), kind="stable") for axis in (1, 0))
    ordered = norms[np.ix_(rows, columns)]
    high = float(ordered.max()) or 1.0
    page.text("Norm of every kernel: outputs × inputs, each by its norm", 0, 0, weight="bold")
    colors = mapped_colors(resized(ordered, _MAP), MAGNITUDE, low=0, high=high)
    page.image(colors, 0, 20)
    bottom = 20 + colors.shape[0] + 8
    page.color_bar(0, bottom, colormap=MAGNITUDE, labels=["0", number(high)], meaning="norm")
    values = singular_values(weight)
    shares = energy_shares(values)
    half, most = (int(np.searchsorted(shares, share)) + 1 for share in (0.5, 0.9))
    page.text("Singular values of the layer", 0, _AXES_TOP - 36, weight="bold")
    line = f"Half of ‖W‖² is in the first {half:,} of {len(values):,} directions, {percent(0.9)}"
    page.text(f"{line} in {most:,}.", 0, _AXES_TOP - 20, size=8, color=MUTED)
    axes = page.axes(40, _AXES_TOP, SPECTRUM_WIDTH - 50, SPECTRUM_HEIGHT - _AXES_TOP - 46)
    _draw_values(axes, values, half=half, most=most)


def _draw_values(axes: Axes, values: np.ndarray, *, half: int, most: int) -> None:
    ranks = np.arange(1, len(values) + 1)
    axes.plot(ranks, values, color=BLUE, linewidth=1.4)
    axes.fill_between(ranks, values, color=BLUE, alpha=0.15, linewidth=0)
    for place, text in ((half, "50%"), (most, "90%")):
        axes.axvline(place, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(place, 1, f" {text}", transform=axes.get_xaxis_transform(), size=7, va="top")
    axes.set(xlim=(1, max(len(values), 2)), ylim=(0, None))
    axes.set_xlabel("singular values by size", size=8)
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    light_grid(axes, "both")
