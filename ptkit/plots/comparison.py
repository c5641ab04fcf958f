"""Runs side by side: one metric with its intervals, and its curves over one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptkit.core.shares import is_share
from ptkit.plots.fonts import class_labels
from ptkit.plots.style import INK, house_style, light_grid, new_page, number, percent_labels

_LEFT, _PLOT, _ROW, _CURVES, _MAX_ROWS = 190, 400, 26, 220, 40


@dataclass(frozen=True)
class Compared:
    """A run, or several of one setting. interval: 95 %, None where unknown. curves: epochs and
    values of each run.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    curves: tuple[tuple[Sequence[float], Sequence[float]], ...]


@house_style()
def comparison_figure(rows: Sequence[Compared], *, metric: str, footer: str = "") -> Figure:
    """Draw each row's value with its interval, and below the curves; of many rows the first ones.

    metric: shares of 0..1, but for the errors of numbers.
    """
    shown = rows[:_MAX_ROWS]
    height = _ROW * len(shown)
    some = f" {len(shown)} of {len(rows):,} rows." if len(rows) > len(shown) else ""
    notes = [f"Lines are 95% intervals.{some}"]
    title = f"Which is better? Validation {metric}"
    page = new_page(_LEFT + _PLOT, height + _CURVES + 90, title=title, notes=notes, footer=footer)
    colors = [matplotlib.colormaps["tab10"](k % 10) for k in range(len(shown))]
    axes = page.axes(_LEFT, 10, _PLOT, height)
    for k, (row, color) in enumerate(zip(shown, colors, strict=True)):
        if row.interval is not None:
            axes.hlines(k, *row.interval, color=color, linewidth=2)
        axes.scatter([row.value], [k], color=color, s=36, zorder=3)
        text = f"{row.value:.1%}" if is_share(metric) else number(row.value)
        axes.annotate(text, (row.value, k), xytext=(0, 6), textcoords="offset points",
                      ha="center", size=7, color=INK)  # fmt: skip
    axes.set_yticks(np.arange(len(shown)), class_labels([row.name for row in shown]))
    axes.set_ylim(len(shown) - 0.4, -0.7)
    light_grid(axes, "x")
    below = page.axes(_LEFT, height + 60, _PLOT, _CURVES)
    for row, color in zip(shown, colors, strict=True):
        for epochs, values in row.curves:
            # A single epoch has no line.
            marker = "o" if len(epochs) == 1 else ""
            below.plot(epochs, values, color=color, linewidth=1.4, alpha=0.85, marker=marker)
    below.set(xlabel="epoch", ylabel=metric)
    light_grid(below, "y")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if is_share(metric):
        percent_labels(axes.xaxis, below.yaxis)
    return page.figure
