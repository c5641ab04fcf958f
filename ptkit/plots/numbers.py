"""Predicted numbers against the true ones: a panel for each number."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptkit.plots import style
from ptkit.plots.fonts import class_labels
from ptkit.plots.labels import labels_of

MAX_PANELS = 6
_SIDE, _BETWEEN, _LEFT, _HEAD = 300, 90, 76, 24


@style.house_style()
def numbers_figure(
    true: np.ndarray, predicted: np.ndarray, *, names: Sequence[str], footer: str = ""
) -> Figure:
    """Draw a point for each image; right predictions lie on the dashed line.

    true, predicted: (n, D), in the labels' units.
    """
    errors = np.abs(predicted - true).mean(axis=0)
    shown = list(range(min(len(names), MAX_PANELS)))
    labels = labels_of(names, width=_SIDE, size=9, bold=True)
    worst = int(np.argmax(errors / np.where(true.std(axis=0) > 0, true.std(axis=0), 1)))
    found = (
        f"“{class_labels(names)[worst]}” is off by {style.number(float(errors[worst]))} on average"
    )
    title = f"How near are the predicted numbers to the true ones? {found}"
    notes = [f"{len(true):,} images, {len(shown):,} of {len(names):,} numbers. Dashed: right."]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    width, height = columns * (_SIDE + _BETWEEN), rows * (_SIDE + _BETWEEN)
    key = labels.key(shown)
    page = style.new_page(width, height, title=title, notes=notes, footer=footer, key=key)
    for place, k in enumerate(shown):
        row, column = divmod(place, columns)
        left, top = _LEFT + column * (_SIDE + _BETWEEN), _HEAD + row * (_SIDE + _BETWEEN)
        page.text(labels.texts[k], left, top - 18, weight="bold")
        axes = page.axes(left, top, _SIDE, _SIDE)
        _draw_points(axes, true[:, k], predicted[:, k])
    return page.figure


def _draw_points(axes: Axes, true: np.ndarray, predicted: np.ndarray) -> None:
    low, high = (float(end) for end in (min(true.min(), predicted.min()),
                                        max(true.max(), predicted.max())))  # fmt: skip
    margin = 0.04 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=style.MUTED, linewidth=0.9, linestyle=(0, (5, 4)))
    axes.scatter(true, predicted, s=14, color=style.BLUE, alpha=0.6, linewidths=0)
    axes.set(xlim=limits, ylim=limits, xlabel="true", ylabel="predicted")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(lambda value, _: style.number(value))
    style.light_grid(axes, "both")
