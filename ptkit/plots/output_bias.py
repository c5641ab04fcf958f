"""The bias of each output from epoch to epoch: which classes the last layer favours."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptkit.plots import style
from ptkit.plots.fonts import class_labels
from ptkit.plots.labels import labels_of

_MOST_NAMED, _WIDTH, _HEIGHT, _LEFT, _NAMES = 6, 500, 320, 56, 150


@style.house_style()
def bias_figure(
    epochs: Sequence[int], biases: np.ndarray, *, class_names: Sequence[str], footer: str = ""
) -> Figure:
    """Draw the bias of each output over the epochs, the highest and lowest at the end in colour.

    biases: (E, K).
    """
    last, names = biases[-1], class_labels(class_names)
    labels = labels_of(class_names, width=_NAMES, size=8)
    order = np.argsort(-last, kind="stable")
    half = _MOST_NAMED // 2
    named = order if len(order) <= _MOST_NAMED else np.concatenate([order[:half], order[-half:]])
    high, low = (f"“{names[k]}” {style.number(float(last[k]))}" for k in order[[0, -1]])
    title = f"Which classes does the output layer favour? {high}, least {low}"
    notes = [f"Bias of each of {len(order):,} outputs; {len(named):,} are named."]
    width, key = _LEFT + _WIDTH + _NAMES + 50, labels.key(named.tolist())
    page = style.new_page(width, _HEIGHT + 56, title=title, notes=notes, footer=footer, key=key)
    axes = page.axes(_LEFT, 8, _WIDTH, _HEIGHT)
    for k in order:
        axes.plot(epochs, biases[:, k], color=style.FAINT, linewidth=0.8)
    colors = [style.BLUE if last[k] >= np.median(last) else style.ORANGE for k in named]
    low_end, high_end = axes.get_ylim()
    # Where lines end close together their names are moved apart.
    tops = _apart([(high_end - last[k]) / (high_end - low_end or 1) * _HEIGHT for k in named], 14)
    for k, color, top in zip(named, colors, tops, strict=True):
        axes.plot(epochs, biases[:, k], color=color, linewidth=1.6)
        text = f"{style.number(float(last[k]))}  {labels.texts[k]}"
        page.text(text, _LEFT + _WIDTH + 8, 8 + top, va="center", size=8, color=color)
    axes.set(xlabel="epoch", ylabel="bias", ylim=(low_end, high_end))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    style.number_labels(axes)
    style.light_grid(axes, "y")
    return page.figure


def _apart(tops: Sequence[float], least: float) -> list[float]:
    """Return falling places moved down until all are `least` apart; tops: rising."""
    moved: list[float] = []
    for top in tops:
        moved.append(max(top, moved[-1] + least) if moved else top)
    return moved
