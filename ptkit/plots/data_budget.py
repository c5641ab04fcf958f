"""Accuracy by the number of training images, and what twice as many are likely to bring."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ptkit.plots import style

_WIDTH, _LEFT, _HEIGHT = 640, 56, 300


@style.house_style()
def data_budget_figure(
    num_images: Sequence[int],
    accuracy: Sequence[float],
    *,
    interval: Sequence[tuple[float, float]],
    expected: float | None,
    majority: float,
    footer: str = "",
) -> Figure:
    """Draw the accuracy of heads fitted to parts of the training images.

    num_images: of each part, rising, the last one all of them. accuracy, interval: of each part,
    0..1, on the validation images. expected: with twice as many as the last, None where it cannot
    be told. majority: the share of the largest class.
    """
    counts, values = np.asarray(num_images, float), np.asarray(accuracy)
    low, high = np.asarray(interval).T
    more = "" if expected is None else f"; twice as many: about {expected:.1%}"
    title = f"{values[-1]:.1%} right with all {num_images[-1]:,} training images{more}"
    notes = ["Heads on the same features, fitted to parts of the training images.",
             "Band: 95 % interval."]  # fmt: skip
    page = style.new_page(_WIDTH, _HEIGHT + 44, title=title, notes=notes, footer=footer)
    axes = page.axes(_LEFT, 14, _WIDTH - _LEFT - 12, _HEIGHT)
    axes.axhline(majority, color=style.MUTED, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        f"always the largest class, {majority:.1%}", (0.01, majority), (0, 3),
        xycoords=axes.get_yaxis_transform(), textcoords="offset points", **style.SMALL,
    )  # fmt: skip
    axes.fill_between(counts, low, high, color=style.ORANGE, alpha=0.18, linewidth=0)
    axes.plot(counts, values, color=style.ORANGE, linewidth=2, marker="o", markersize=5)
    ticks = list(counts)
    if expected is not None:
        ticks.append(2 * counts[-1])
        axes.plot([counts[-1], ticks[-1]], [values[-1], expected], color=style.ORANGE,
                  linewidth=1.4, linestyle=(0, (3, 3)))  # fmt: skip
        axes.plot(ticks[-1], expected, color=style.ORANGE, marker="o", markersize=6,
                  markerfacecolor="white")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set(xlabel="training images", ylabel="accuracy on the validation images")
    axes.set_xlim(counts[0] / 1.15, ticks[-1] * 1.15)
    axes.set_ylim(max(min(low.min(), majority) - 0.05, 0), 1.02)
    axes.yaxis.set_major_formatter("{x:.0%}")
    style.light_grid(axes, "y")
    return page.figure
