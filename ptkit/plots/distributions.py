"""How values are distributed, epoch by epoch: ridge lines with percentiles."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptkit.plots import style
from ptkit.plots.fonts import fitted

_WIDTH, _PANEL, _BETWEEN, _LEFT = 400, 300, 60, 44
_MOST_RIDGES = 24


@style.house_style()
def distribution_figure(
    epochs: Sequence[int],
    layers: Sequence[str],
    kinds: Sequence[str],
    *,
    percentiles: np.ndarray,
    counts: np.ndarray,
    footer: str = "",
) -> Figure:
    """Draw ridge lines, a panel for each layer (row) and kind of values (column).

    percentiles: (E, layers, kinds, P), an odd number of them, the smallest value first, the largest
    last. counts: (E, layers, kinds, B), of even bins between these two.
    """
    rows, columns = len(layers), len(kinds)
    inner = percentiles[:, 0, 0, [2, -3]]
    first, last = (style.number(float(np.abs(inner[k]).max())) for k in (0, -1))
    found = f"90% of {layers[0]} within ±{first} at epoch {epochs[0]}, ±{last} at {epochs[-1]}"
    title = f"How do weights spread? {found}"
    lines = "Lines: the median (dark), 5th and 95th percentile."
    notes = [f"One ridge an epoch, each scaled to its peak. {lines}"]
    height = rows * (_PANEL + _BETWEEN)
    width = columns * (_WIDTH + _BETWEEN) - _BETWEEN + _LEFT
    page = style.new_page(width, height, title=title, notes=notes, footer=footer)
    for row, layer in enumerate(layers):
        for column, kind in enumerate(kinds):
            left, top = _LEFT + column * (_WIDTH + _BETWEEN), 22 + row * (_PANEL + _BETWEEN)
            heading = fitted(f"{layer}: {kind}", width=_WIDTH, size=9, bold=True)
            page.text(heading, left, top - 20, weight="bold")
            axes = page.axes(left, top, _WIDTH, _PANEL)
            _draw_ridges(axes, epochs, percentiles[:, row, column], counts[:, row, column])
    return page.figure


def _draw_ridges(
    axes: Axes, epochs: Sequence[int], percentiles: np.ndarray, counts: np.ndarray
) -> None:
    """Draw the epochs from top to bottom; percentiles: (E, P), counts: (E, B)."""
    known = np.flatnonzero(np.isfinite(percentiles[:, 0]))
    axes.set_yticks([])
    if not known.size:
        axes.text(0.5, 0.5, "none recorded", transform=axes.transAxes, ha="center", **style.SMALL)
        return
    drawn = known[np.unique(np.linspace(0, len(known) - 1, _MOST_RIDGES).round().astype(int))]
    places = {int(k): len(drawn) - 1 - place for place, k in enumerate(drawn)}
    for k, base in places.items():
        edges = np.linspace(percentiles[k, 0], percentiles[k, -1], counts.shape[1] + 1)
        middles, heights = (edges[1:] + edges[:-1]) / 2, counts[k] / max(counts[k].max(), 1)
        # Higher ones are drawn over the line above them.
        line = base + 1.6 * heights
        axes.fill_between(middles, base, line, color=style.BLUE, alpha=0.25, lw=0, zorder=-base)
        axes.plot(middles, line, color=style.BLUE, linewidth=0.9, zorder=-base)
    middle = percentiles.shape[1] // 2
    for column, color in ((2, style.ORANGE), (middle, style.INK), (-3, style.ORANGE)):
        axes.plot(percentiles[drawn, column], list(places.values()), color=color, linewidth=1)
    # The far tails of one epoch must not flatten the others.
    limit = float(np.abs(percentiles[drawn][:, [1, -2]]).max()) * 1.3 or 1.0
    axes.set(xlim=(-limit, limit), ylim=(-0.3, len(drawn) + 1.2))
    every = math.ceil(len(drawn) / 10)
    ticks = [(base, epochs[k]) for k, base in places.items()][::every]
    axes.set_yticks([base for base, _ in ticks], [str(epoch) for _, epoch in ticks])
    axes.set_ylabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: style.number(value))
    style.light_grid(axes, "x")
