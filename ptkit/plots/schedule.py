"""The rate of every parameter group over the epochs of a run."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ptkit.core.wording import counted
from ptkit.plots import style

_WIDTH, _LEFT, _LINEAR, _LOG, _BETWEEN = 760, 56, 240, 150, 24
_COLORS = (style.BLUE, style.ORANGE, "#2d8a4e", style.RED, "#7a4fb0")
# Below this share of the highest rate a logarithmic scale shows nothing that matters.
_LOWEST = 1e-6


@style.house_style()
def schedule_figure(
    call: str,
    epochs: np.ndarray,
    rates: np.ndarray,
    *,
    plain_rates: np.ndarray,
    num_epochs: int,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw the rates of all groups, once on a linear and once on a logarithmic scale.

    epochs: (N,), where in the run each step begins, from 0. rates, plain_rates: (N, groups), with
    and without the warm-up in front of the schedule; where they differ the latter are dashed.
    """
    kinds = _alike(rates)
    colors = _colors(len(kinds))
    top = 30 if len(kinds) > 1 else 14
    footer = f"rate as a multiple of the group's own · {counted(rates.shape[1], 'parameter group')}"
    title, height = _title(call, rates, num_epochs), top + _LINEAR + _LOG + _BETWEEN + 44
    page = style.new_page(_WIDTH, height, title=title, notes=notes, footer=footer)
    linear = page.axes(_LEFT, top, _WIDTH - _LEFT, _LINEAR)
    log = page.axes(_LEFT, top + _LINEAR + _BETWEEN, _WIDTH - _LEFT, _LOG)
    highest = max(float(rates.max()), float(plain_rates.max())) or 1.0
    # On the logarithmic scale zero is far below its edge.
    for axes, lowest in ((linear, 0.0), (log, highest * _LOWEST / 1000)):
        for color, (first, *_) in zip(colors, kinds, strict=True):
            shown, plain = (np.maximum(values[:, first], lowest) for values in (rates, plain_rates))
            # A rate holds until the next step begins; the last one to the end of the run.
            times = np.append(epochs, num_epochs)
            _draw(axes, times, rates=shown, plain=plain, color=color)
        axes.set_xlim(0, num_epochs)
        axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
        style.light_grid(axes, "y")
    linear.tick_params(labelbottom=False)
    linear.set(ylim=(0, highest * 1.08), ylabel="rate")
    style.number_labels(linear)
    seen = rates[rates > highest * _LOWEST]
    lowest = float(seen.min()) if seen.size else highest / 10
    # Before the scale, which older versions of matplotlib warn of where all rates are one.
    log.set_ylim(min(lowest, highest / 2) / 1.5, highest * 1.5)
    style.number_labels(log, log=LogLocator(numticks=6))
    log.set(xlabel="epochs done", ylabel="rate, logarithmic")
    if len(kinds) > 1:
        _draw_legend(page, kinds, colors)
    return page.figure


def _alike(rates: np.ndarray) -> list[list[int]]:
    """Return lists of the columns that are equal."""
    kinds: dict[bytes, list[int]] = {}
    for column, values in enumerate(rates.T):
        kinds.setdefault(values.tobytes(), []).append(column)
    return list(kinds.values())


def _colors(count: int) -> list[str]:
    if count <= len(_COLORS):
        return list(_COLORS[:count])
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count))
    return [matplotlib.colors.to_hex(shade) for shade in shades]


def _draw(
    axes: Axes, times: np.ndarray, *, rates: np.ndarray, plain: np.ndarray, color: str
) -> None:
    how: dict[str, Any] = {"where": "post", "color": color}
    if not np.array_equal(rates, plain):
        end = np.flatnonzero(rates != plain)[-1] + 2
        dashed = (0, (4, 3))
        axes.step(times[:-1][:end], plain[:end], linewidth=1, linestyle=dashed, alpha=0.7, **how)
    axes.step(times, np.append(rates, rates[-1]), linewidth=2, solid_capstyle="butt", **how)


def _draw_legend(page: style.Page, kinds: list[list[int]], colors: list[str]) -> None:
    left = _LEFT
    for color, columns in zip(colors, kinds, strict=True):
        if left > _WIDTH - 90:
            page.text("…", left, 7, va="center", color=style.MUTED)
            return
        text = f"group{'s' * (len(columns) > 1)} {', '.join(str(k + 1) for k in columns)}"
        page.color_key(text, left, color=color)
        left += 28 + len(text) * 6 + 18


def _title(call: str, rates: np.ndarray, num_epochs: int) -> str:
    top = rates.max(axis=1)
    peak = int(top.argmax())
    found, end = f"{call}: rate {style.number(top[peak])}", f"{style.number(top[-1])} at the end of"
    if peak == 0:
        return f"{found} at first, {end} {num_epochs:,} epochs"
    when = round((peak + 1) / len(rates) * num_epochs, 1)
    return f"{found} at most, after {when:g} epochs, {end} {num_epochs:,}"
