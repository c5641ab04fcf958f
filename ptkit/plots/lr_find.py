"""The loss over the learning rate, of a range test."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ptkit.plots import style

_WIDTH, _HEIGHT, _LEFT = 760, 320, 56
# The loss that runs away is cut off: the part before it decides.
_SHOWN = 1.5


@style.house_style()
def lr_find_figure(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    *,
    steepest: float,
    largest: float,
    footer: str,
) -> Figure:
    """Draw raw losses thin and smoothed ones thick over the rate, with two rates marked.

    rates, losses, smoothed: (N,).
    """
    title = f"The loss falls fastest at a rate of {steepest:.2g} and rises above {largest:.2g}"
    page = style.new_page(_WIDTH, _HEIGHT + 60, title=title, footer=footer)
    axes = page.axes(_LEFT, 14, _WIDTH - _LEFT, _HEIGHT)
    axes.set_xscale("log")
    axes.plot(rates, losses, color=style.BLUE, linewidth=1, alpha=0.4)
    axes.plot(rates, smoothed, color=style.BLUE, linewidth=2)
    low, first = float(smoothed.min()), float(smoothed[0])
    high = low + _SHOWN * max(first - low, 0.05 * abs(first), 1e-9)
    axes.set_ylim(low - 0.08 * (high - low), high)
    axes.set_xlim(rates[0], rates[-1])
    # The lower rate is named at its left, the higher one at its right.
    for rate, color, words, shift in (
        (steepest, style.ORANGE, "steepest", -4),
        (largest, style.RED, "lowest loss", 4),
    ):
        axes.axvline(rate, color=color, linewidth=1.5)
        axes.annotate(
            f"{words}: {rate:.2g}",
            (rate, high),
            xytext=(shift, -6),
            textcoords="offset points",
            ha="right" if shift < 0 else "left",
            va="top",
            color=color,
        )
    style.light_grid(axes, "y")
    style.number_labels(axes)
    axes.xaxis.set_major_locator(LogLocator(numticks=9))
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.set(xlabel="learning rate, logarithmic", ylabel="training loss")
    return page.figure
