"""Precision, recall and average precision of each class, where images have several labels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ptkit.core.wording import counted
from ptkit.plots.fonts import class_labels
from ptkit.plots.labels import labels_of
from ptkit.plots.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    SMALL,
    house_style,
    new_page,
    percent,
    percent_labels,
)

_WIDTH, _LEFT, _RIGHT, _ROW, _MAX_ROWS = 620, 150, 80, 20, 50
_MARKERS = {
    "precision": (BLUE, "o", 36, "precision: of those said to have it"),
    "recall": (ORANGE, "o", 36, "recall: of those that have it"),
    "average_precision": (INK, "|", 150, "average precision"),
}


@house_style()
def label_rates(
    rates: dict[str, np.ndarray], class_names: Sequence[str], *, mean_ap: float, footer: str = ""
) -> Figure:
    """Draw a row a class, the lowest average precision first; of many classes the lowest ones.

    rates: precision, recall, average_precision and support, each (K,); nan is left out.
    """
    shown = np.argsort(rates["average_precision"], kind="stable")[:_MAX_ROWS]
    names, labels = class_labels(class_names), labels_of(class_names, width=_LEFT - 10, size=8)
    lowest = percent(float(np.nan_to_num(rates["average_precision"][shown[0]])))
    title = (
        f"Which classes are found? mAP {percent(mean_ap)}, lowest “{names[shown[0]]}” with {lowest}"
    )
    total = counted(len(class_names), "class", "classes")
    notes = [f"{len(shown)} of {total}, the lowest average precision first."]
    height, key = _ROW * len(shown) + 60, labels.key(shown.tolist())
    page = new_page(_WIDTH, height, title=title, notes=notes, footer=footer, key=key)
    axes = page.axes(_LEFT, 24, _WIDTH - _LEFT - _RIGHT, _ROW * len(shown))
    rows = np.arange(len(shown))
    precision, recall = rates["precision"][shown], rates["recall"][shown]
    low, high = (np.nan_to_num(how(precision, recall)) for how in (np.fmin, np.fmax))
    axes.hlines(rows, low, high, color=FAINT, linewidth=3, zorder=1)
    for rate, (color, marker, size, _) in _MARKERS.items():
        shares = rates[rate][shown]
        axes.scatter(shares, rows, s=size, color=color, marker=marker, zorder=3, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
    axes.set_yticks(rows, [labels.texts[k] for k in shown])
    percent_labels(axes.xaxis)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.tick_params(labelsize=8, length=0)
    for row, k in enumerate(shown):
        text, middle = f"{int(rates['support'][k]):,} images", 24 + _ROW * (row + 0.5)
        page.text(text, _WIDTH - _RIGHT + 12, middle, va="center", size=8)
    left = 0.0
    for color, marker, _, text in _MARKERS.values():
        page.text("●" if marker == "o" else "│", left, 6, va="center", size=10, color=color)
        page.text(text, left + 16, 6, va="center", **SMALL)
        left += 30 + 5.6 * len(text)
    return page.figure
