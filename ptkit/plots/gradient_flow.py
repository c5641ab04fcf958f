"""How far each step moves each layer, and how large the gradients are, over a run."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ptkit.plots import style
from ptkit.plots.fonts import fitted

_MOST_COLUMNS = 600
# log10; steps of 1/10,000 to 1/100 of the weights are usual: white.
_LOW, _HIGH = -6.0, 0.0
_FLOW = LinearSegmentedColormap.from_list(
    "flow", [(0, "#2166ac"), (1 / 3, "#f7f7f7"), (2 / 3, "#f7f7f7"), (1, "#b2182b")]
)
_LEFT, _WIDTH, _NORMS = 190, 600, 200


@style.house_style()
def flow_figure(
    ratios: Mapping[str, np.ndarray],
    grad_norms: np.ndarray,
    *,
    num_epochs: int,
    clip: float | None = None,
    footer: str = "",
) -> Figure:
    """Draw how far a step moves each layer, log10(‖Δw‖/‖w‖), and the total gradient norm below.

    ratios: by layer, (samples,) over the run, nan where unknown. grad_norms: one a step. clip: the
    value at which gradients are clipped.
    """
    names, table = list(ratios), _chunked(np.stack(list(ratios.values())))
    medians = _median(table)
    line = max(4, min(16, 640 // len(names)))
    height = line * len(names)
    slowest = int(np.argmin(np.where(np.isfinite(medians), medians, np.inf)))
    found = f"{names[slowest]} least, by {style.number(float(medians[slowest]))} of its weights"
    title = f"How far does a step move each layer? {found}"
    notes = ["‖Δw‖/‖w‖ of sampled steps: white is usual, blue hardly moves, red moves too far."]
    page_height = height + _NORMS + 130
    page = style.new_page(_LEFT + _WIDTH, page_height, title=title, notes=notes, footer=footer)
    axes = page.axes(_LEFT, 4, _WIDTH, height)
    with np.errstate(divide="ignore"):
        shown = np.ma.masked_invalid(np.log10(table).clip(_LOW))
    box = (0, num_epochs, len(names), 0)
    axes.imshow(shown, _FLOW, aspect="auto", vmin=_LOW, vmax=_HIGH, extent=box)
    axes.set(yticks=[], xticks=[])
    for k in range(0, len(names), math.ceil(12 / line)):
        text = fitted(names[k], width=_LEFT - 12, size=7.5)
        page.text(text, _LEFT - 6, 4 + (k + 0.5) * line, ha="right", va="center", size=7.5)
    labels, meaning = ["1e−6", "1e−4", "1e−2", "1"], "‖Δw‖/‖w‖"
    bar = page.inset(_LEFT, height + 16)
    bar.color_bar(0, 0, colormap=_FLOW, labels=labels, meaning=meaning)
    axes = page.axes(_LEFT, height + 72, _WIDTH, _NORMS)
    _draw_norms(axes, grad_norms, num_epochs=num_epochs, clip=clip)
    return page.figure


def _draw_norms(axes: Axes, norms: np.ndarray, *, num_epochs: int, clip: float | None) -> None:
    places = np.linspace(0, num_epochs, len(norms), endpoint=False)
    axes.plot(places, norms, color=style.BLUE, linewidth=0.6, alpha=0.8)
    known = norms[np.isfinite(norms)]
    lines = {f"p{p}": float(np.percentile(known, p)) for p in (50, 90)} if known.size else {}
    lines |= {"clip": clip} if clip is not None else {}
    for name, value in lines.items():
        color = style.RED if name == "clip" else style.INK
        axes.axhline(value, color=color, linewidth=0.9, linestyle=(0, (5, 3)))
        # The clip line may lie on that of p90.
        place, side = (0, "left") if name == "clip" else (1, "right")
        how: dict[str, Any] = {"size": 7.5, "va": "bottom", "ha": side, "color": color}
        how["transform"] = axes.get_yaxis_transform()
        how["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
        axes.text(place, value, f"{name} {style.number(value)}", **how)
    is_log = bool(known.size) and known.min() > 0
    style.number_labels(axes, log=LogLocator(subs=(1, 2, 5)) if is_log else None)
    axes.set(xlim=(0, num_epochs), xlabel="epoch", ylabel="gradient norm")
    style.light_grid(axes, "y")


def _chunked(table: np.ndarray) -> np.ndarray:
    """Return at most as many columns as there are pixels, each the median of several."""
    size = -(-table.shape[1] // _MOST_COLUMNS)
    if size == 1:
        return table
    parts = np.array_split(table, -(-table.shape[1] // size), axis=1)
    return np.stack([_median(part) for part in parts], axis=1)


def _median(table: np.ndarray) -> np.ndarray:
    """Return the median of each row without nan; nan where there is nothing else."""
    known = [row[np.isfinite(row)] for row in table]
    return np.array([np.median(row) if row.size else np.nan for row in known])
