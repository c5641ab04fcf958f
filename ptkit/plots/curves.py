"""Learning curves of a run, from the rows of metrics.csv."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ptkit.core.shares import interval, is_less_better, is_share, share_text
from ptkit.plots import style

Row = Mapping[str, float | None]

_WIDTH, _LEFT, _PANEL, _STRIP, _BETWEEN = 760, 56, 230, 72, 22
_PARTS = ("train", "valid")
# Of a label at the line of a baseline: a character of the width of a panel, and all of its height.
_CHARACTER, _HEIGHT = 0.008, 0.12


@style.house_style()
def learning_curves(
    rows: Sequence[Row],
    *,
    num_valid: int,
    metric: str = "accuracy",
    chance_loss: float | None = None,
    majority_share: float | None = None,
    best_epoch: int | None = None,
    footer: str = "",
) -> Figure:
    """Draw loss, a metric and the learning rate over the epochs.

    rows: one mapping an epoch with epoch, train_loss, valid_loss, lr, and train_ and valid_ of the
    metric; what is missing, None or nan leaves a gap. metric: a share of 0..1 such as accuracy or
    map, or an error, mae or rmse.
    chance_loss: the loss of guessing, where it is known. majority_share: of the most frequent class
    in the validation set, whose size is `num_valid`. best_epoch: the one that was kept; by default
    the one with the best metric.
    """
    epochs = _column(rows, "epoch")
    kept = next((row for row in rows if row["epoch"] == best_epoch), None)
    best = kept or _best_row(rows, metric)
    note = "One point an epoch."
    if len(rows) >= 6:
        note = f"Thin: each epoch. Thick: mean of {2 * _reach(len(rows)) + 1} epochs."
    title = _title(rows, best, metric=metric, num_valid=num_valid)
    footer = f"{footer}{' · ' if footer else ''}validation n = {num_valid:,}"
    height = 2 * _PANEL + _STRIP + 2 * _BETWEEN + 44
    page = style.new_page(_WIDTH, height, title=title, notes=[note], footer=footer)
    loss, middle, strip = (
        page.axes(_LEFT, 18 + place * (_PANEL + _BETWEEN), _WIDTH - _LEFT, height)
        for place, height in enumerate((_PANEL, _PANEL, _STRIP))
    )
    _draw_losses(loss, rows, chance_loss)
    _draw_metric(middle, rows, metric=metric, num_valid=num_valid)
    if majority_share is not None:
        label = f"always the largest class, {style.percent(majority_share)}"
        _baseline(middle, majority_share, label, [_column(rows, f"{p}_{metric}") for p in _PARTS])
    _draw_rate(strip, rows)
    for axes in (loss, middle, strip):
        _finish(axes, epochs, best, is_last=axes is strip)
    _draw_legend(page, has_band=metric == "accuracy")
    return page.figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return a centred moving average over a tenth of the values, at least three; gaps stay gaps.

    At the ends the window shrinks on both sides alike, so that a steady rise or fall stays where it
    is.
    """
    half = _reach(len(values))
    values = np.where(np.isfinite(values), values, np.nan)
    result = np.full(len(values), np.nan)
    for k in np.flatnonzero(np.isfinite(values)).tolist():
        reach = min(half, k, len(values) - 1 - k)
        result[k] = np.nanmean(values[k - reach : k + reach + 1])
    return result


def _reach(num_epochs: int) -> int:
    """Return how far to both sides the moving average goes."""
    return max(1, num_epochs // 20)


def _draw_losses(axes: Axes, rows: Sequence[Row], chance: float | None) -> None:
    curves = _draw_curves(axes, rows, "loss")
    losses = np.concatenate(curves)
    known = losses[np.isfinite(losses)]
    # Compared with chance or with the median: one bad start must not flatten the rest.
    scale = float(np.median(known)) if chance is None and known.size else chance or 1.0
    highest = max(known.max(initial=0), chance or 0)
    if known.size and highest > 8 * scale and known.min() > 0:
        style.number_labels(axes, log=LogLocator(subs=(1, 2, 5)))
    elif known.min(initial=0) >= 0:
        axes.set_ylim(0, highest * 1.1 or 1)
    if chance is not None:
        _baseline(axes, chance, f"chance, ln K = {style.number(chance)}", curves)


def _draw_metric(axes: Axes, rows: Sequence[Row], *, metric: str, num_valid: int) -> None:
    epochs, valid = _column(rows, "epoch"), _column(rows, f"valid_{metric}")
    if metric == "accuracy":
        # A gap has none.
        ends = [interval(v * num_valid, num_valid) if math.isfinite(v) else (v, v) for v in valid]
        low, high = np.transpose(ends)
        axes.fill_between(epochs, low, high, color=style.ORANGE, alpha=0.18, linewidth=0)
    _draw_curves(axes, rows, metric)
    if is_less_better(metric):
        axes.set_ylim(bottom=0)
        style.number_labels(axes)
        return
    axes.set_ylim(min(0, float(np.nanmin(valid, initial=0))), 1.04)
    style.percent_labels(axes.yaxis)


def _draw_rate(axes: Axes, rows: Sequence[Row]) -> None:
    rates, marker = _column(rows, "lr"), "o" if len(rows) < 4 else None
    epochs = _column(rows, "epoch")
    axes.plot(epochs, rates, color=style.INK, linewidth=1.2, marker=marker, markersize=4)
    axes.set(xlabel="epoch", ylabel="lr")
    axes.set_ylim(0, (np.nanmax(rates) if np.isfinite(rates).any() else 1) * 1.15 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    style.number_labels(axes)


def _draw_curves(axes: Axes, rows: Sequence[Row], quantity: str) -> list[np.ndarray]:
    """Draw a quantity of training and validation, and return the values of both."""
    axes.set_ylabel(quantity)
    epochs = _column(rows, "epoch")
    both = [_column(rows, f"{part}_{quantity}") for part in _PARTS]
    for values, color in zip(both, (style.BLUE, style.ORANGE), strict=True):
        if len(rows) < 6:
            axes.plot(epochs, values, color=color, linewidth=2, marker="o", markersize=4)
            continue
        axes.plot(epochs, values, color=color, linewidth=0.8, alpha=0.55)
        axes.plot(epochs, smoothed(values), color=color, linewidth=2.2, solid_capstyle="round")
    return both


def _baseline(axes: Axes, value: float, label: str, curves: Sequence[np.ndarray]) -> None:
    """Mark a value with a dashed line, and label it where the curves are furthest from it."""
    axes.axhline(value, color=style.MUTED, linewidth=1, linestyle=(0, (5, 4)))
    reach = max(1, math.ceil(len(label) * _CHARACTER * len(curves[0])))
    ends = {"left": slice(0, reach), "right": slice(-reach, None)}
    to_panel = axes.transData + axes.transAxes.inverted()

    def heights(values: np.ndarray) -> np.ndarray:
        """Return how high values are in the panel, 0..1."""
        found: np.ndarray = to_panel.transform(np.column_stack([np.zeros(len(values)), values]))
        return found[:, 1]

    line = heights(np.array([value]))

    def free(place: tuple[str, str]) -> float:
        """Return how near the label is to the curves on its side of the line."""
        away = heights(np.concatenate([curve[ends[place[0]]] for curve in curves])) - line
        away = np.nan_to_num(away if place[1] == "bottom" else -away, nan=np.inf)
        # Further away than the label is high, one place is as good as another.
        return min(float(np.where(away < 0, np.inf, away).min()), _HEIGHT)

    # Where both are as good, at the right and above the line.
    places = [(side, above) for above in ("bottom", "top") for side in ("right", "left")]
    side, above = max(places, key=free)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    how: dict[str, Any] = {"ha": side, "va": above, "zorder": 6, "bbox": box, **style.SMALL}
    where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    offset = 7 if above == "bottom" else -7
    axes.annotate(label, (0.995 if side == "right" else 0.005, value), (0, offset), **where, **how)


def _finish(axes: Axes, epochs: np.ndarray, best: Row | None, *, is_last: bool) -> None:
    """Give all panels the same epochs, a light grid and the mark of the best epoch."""
    margin = max(0.5, len(epochs) * 0.01)
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    style.light_grid(axes, "y")
    axes.tick_params(labelbottom=is_last)
    if best is None:
        return
    epoch = float(best["epoch"] or 0)
    axes.axvline(epoch, color=style.INK, linewidth=0.9, alpha=0.6, zorder=1)
    value = best.get(f"valid_{axes.get_ylabel()}")
    if value is not None and math.isfinite(value):
        axes.plot(epoch, value, "o", markersize=7, color=style.ORANGE, mec="white", zorder=5)


def _draw_legend(page: style.Page, *, has_band: bool) -> None:
    page.color_key("train", _LEFT, color=style.BLUE)
    page.color_key("validation", _LEFT + 110, color=style.ORANGE)
    band = "     band: 95% interval" if has_band else ""
    page.text(f"│ best epoch{band}", _LEFT + 220, 7, va="center", color=style.MUTED)


def _best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """Return the row of the best validation metric; ties go to the lower loss, then the earlier."""
    sign, values = (-1 if is_less_better(metric) else 1), _column(rows, f"valid_{metric}")
    losses = np.nan_to_num(_column(rows, "valid_loss"), nan=math.inf)
    known = np.flatnonzero(np.isfinite(values)).tolist()
    best = max(known, key=lambda k: (sign * values[k], -losses[k]), default=None)
    return None if best is None else rows[best]


def _title(rows: Sequence[Row], best: Row | None, *, metric: str, num_valid: int) -> str:
    if best is None:
        return f"How well does it learn? no validation {metric} in {len(rows):,} epochs"
    value, epoch = _known(best.get(f"valid_{metric}"), 0), int(_known(best["epoch"], 0))
    if metric == "accuracy":
        found = share_text(round(value * num_valid), num_valid)
    else:
        found = f"{metric} {style.percent(value) if is_share(metric) else style.number(value)}"
    return f"How well does it learn? {found} at epoch {epoch} of {len(rows)}"


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([_known(row.get(key), math.nan) for row in rows], float)


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else float(value)
