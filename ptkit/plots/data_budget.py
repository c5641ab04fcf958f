"""Accuracy by the number of training images, and what twice as many are likely to bring."""

from collections.abc import Sequence
from typing import Any

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
    num_measured: int,
    majority: float,
    footer: str = "",
) -> Figure:
    """Draw the accuracy of heads fitted to parts of the training images.

    num_images: of each part, rising. accuracy, interval: of each, 0..1, on the validation images;
    the first num_measured were measured, the last of these with all images; what follows is
    expected. majority: the share of the largest class.
    """
    counts, values, last = np.asarray(num_images, float), np.asarray(accuracy), num_measured - 1
    low, high = np.asarray(interval).T
    more = f", about {values[-1]:.1%} with twice as many" if len(counts) > num_measured else ""
    title = f"{values[last]:.1%} with {num_images[last]:,} training images{more}"
    notes = ["Heads fitted to parts of the training images. Band: 95 % interval."]
    page = style.new_page(_WIDTH, _HEIGHT + 44, title=title, notes=notes, footer=footer)
    axes = page.axes(_LEFT, 14, _WIDTH - _LEFT - 12, _HEIGHT)
    axes.axhline(majority, color=style.MUTED, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        f"always the largest class, {majority:.1%}", (0.01, majority), (0, 3),
        xycoords=axes.get_yaxis_transform(), textcoords="offset points", **style.SMALL,
    )  # fmt: skip
    how: dict[str, Any] = {"color": style.ORANGE}
    for part, alpha, line in ((slice(last + 1), 0.18, "-"), (slice(last, None), 0.08, (0, (3, 3)))):
        axes.fill_between(counts[part], low[part], high[part], alpha=alpha, linewidth=0, **how)
        axes.plot(counts[part], values[part], linewidth=2, linestyle=line, **how)
    axes.plot(counts[: last + 1], values[: last + 1], "o", markersize=5, **how)
    axes.plot(counts[last + 1 :], values[last + 1 :], "o", markerfacecolor="white", **how)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set(xlabel="training images", ylabel="accuracy on the validation images")
    axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
    axes.set_ylim(max(min(low.min(), majority) - 0.05, 0), 1.02)
    style.percent_labels(axes.yaxis)
    style.light_grid(axes, "y")
    return page.figure
