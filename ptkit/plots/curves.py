"""Learning curves of a run, from the rows of metrics.csv."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ptkit.plots.style import BLUE, FAINT, INK, MUTED, ORANGE, Page, house_style, new_page, number, percent

Row = Mapping[str, float | None]

_WIDTH, _LEFT, _PANEL, _STRIP, _BETWEEN = 760, 56, 230, 72, 22
_COLORS = {"train": BLUE, "valid": ORANGE}


@house_style()
def learning_curves(
    rows: Sequence[Row],
    *,
    num_classes: int,
    majority_share: float,
    num_valid: int,
    best_epoch: int | None = None,
    title: str | None = None,
    footer: str = "",
) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs.

    rows: one mapping an epoch with epoch, train_loss, train_accuracy, valid_loss, valid_accuracy, lr; None and nan
    leave a gap. majority_share: of the most frequent class in the validation set, whose size is `num_valid`.
    best_epoch: the one that was kept; by default the one with the highest accuracy.
    """
    epochs = _column(rows, "epoch")
    best = next((row for row in rows if row["epoch"] == best_epoch), None) or _best_row(rows)
    page = new_page(
        _WIDTH,
        2 * _PANEL + _STRIP + 2 * _BETWEEN + 44,
        title=title or _title(rows, best, num_valid),
        notes=[_note(epochs)],
        footer=f"{footer}{' · ' if footer else ''}validation n = {num_valid:,}",
    )
    tops = (18, 18 + _PANEL + _BETWEEN, 18 + 2 * (_PANEL + _BETWEEN))
    loss = page.axes(_LEFT, tops[0], _WIDTH - _LEFT, _PANEL)
    accuracy = page.axes(_LEFT, tops[1], _WIDTH - _LEFT, _PANEL)
    strip = page.axes(_LEFT, tops[2], _WIDTH - _LEFT, _STRIP)
    _draw_losses(loss, rows, math.log(num_classes))
    _draw_accuracies(accuracy, rows, majority_share, num_valid)
    _draw_rate(strip, epochs, _column(rows, "lr"))
    for axes in (loss, accuracy, strip):
        _finish(axes, epochs, best, is_last=axes is strip)
    _draw_legend(page)
    return page.figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return a centred moving average over about a tenth of the values, at least three; gaps stay gaps.

    At the ends the window shrinks on both sides alike, so that a steady rise or fall stays where it is.
    """
    half = max(1, len(values) // 20)
    result = np.full(len(values), np.nan)
    for k in np.flatnonzero(np.isfinite(values)).tolist():
        reach = min(half, k, len(values) - 1 - k)
        result[k] = np.nanmean(np.where(np.isfinite(values), values, np.nan)[k - reach : k + reach + 1])
    return result


def _draw_losses(axes: Axes, rows: Sequence[Row], chance: float) -> None:
    epochs = _column(rows, "epoch")
    losses = {part: _column(rows, f"{part}_loss") for part in _COLORS}
    for part, values in losses.items():
        _draw_curve(axes, epochs, values, _COLORS[part])
    known = np.concatenate([values[np.isfinite(values)] for values in losses.values()])
    _baseline(axes, chance, f"chance, ln K = {number(chance)}")
    axes.set_ylabel("loss")
    highest = max(known.max(initial=0), chance)
    if known.size and highest > 8 * chance and known.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, highest * 1.1)


def _draw_accuracies(axes: Axes, rows: Sequence[Row], majority_share: float, num_valid: int) -> None:
    epochs = _column(rows, "epoch")
    valid = _column(rows, "valid_accuracy")
    error = np.sqrt(np.clip(valid * (1 - valid), 0, None) / num_valid)
    axes.fill_between(epochs, valid - error, valid + error, color=ORANGE, alpha=0.18, linewidth=0)
    for part, color in _COLORS.items():
        _draw_curve(axes, epochs, _column(rows, f"{part}_accuracy"), color)
    _baseline(axes, majority_share, f"always the largest class, {percent(majority_share)}")
    axes.set(ylim=(0, 1.04), ylabel="accuracy")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))


def _draw_rate(axes: Axes, epochs: np.ndarray, rates: np.ndarray) -> None:
    axes.plot(epochs, rates, color=INK, linewidth=1.2, marker="o" if len(epochs) < 4 else None, markersize=4)
    axes.set_ylabel("lr")
    axes.set_xlabel("epoch")
    axes.set_ylim(0, (np.nanmax(rates) if np.isfinite(rates).any() else 1) * 1.15 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _draw_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, color: str) -> None:
    if len(epochs) < 6:
        axes.plot(epochs, values, color=color, linewidth=2, marker="o", markersize=4)
        return
    axes.plot(epochs, values, color=color, linewidth=0.8, alpha=0.55)
    axes.plot(epochs, smoothed(values), color=color, linewidth=2.2, solid_capstyle="round")


def _baseline(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        label,
        (0.995, value),
        (0, 2),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="bottom",
        size=8,
        color=MUTED,
        zorder=1.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
    )


def _finish(axes: Axes, epochs: np.ndarray, best: Row | None, *, is_last: bool) -> None:
    """Give all panels the same epochs, a light grid and the mark of the best epoch."""
    margin = max(0.5, len(epochs) * 0.01)
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=8, length=3, labelbottom=is_last)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if best is None:
        return
    epoch = float(best["epoch"] or 0)
    axes.axvline(epoch, color=INK, linewidth=0.9, alpha=0.6, zorder=1)
    value = best.get({"loss": "valid_loss", "accuracy": "valid_accuracy"}.get(axes.get_ylabel(), ""))
    if value is not None and math.isfinite(value):
        axes.plot([epoch], [value], marker="o", markersize=7, color=ORANGE, markeredgecolor="white", zorder=5)


def _draw_legend(page: Page) -> None:
    left = float(_LEFT)
    for text, color in (("train", BLUE), ("validation", ORANGE)):
        bar = np.full((3, 22, 3), [int(color[k : k + 2], 16) for k in (1, 3, 5)], np.uint8)
        page.image(bar, left, 5)
        page.text(text, left + 28, 7, va="center", size=9)
        left += 110
    page.text("│ best epoch     band: ±1 standard error", left, 7, va="center", size=9, color=MUTED)


def _best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row with the highest validation accuracy; ties go to the lower loss, then to the earlier epoch."""

    def score(row: Row) -> tuple[float, float]:
        return _known(row.get("valid_accuracy"), -math.inf), -_known(row.get("valid_loss"), math.inf)

    scored = [row for row in rows if math.isfinite(_known(row.get("valid_accuracy"), math.nan))]
    return max(scored, key=score, default=None)


def _title(rows: Sequence[Row], best: Row | None, num_valid: int) -> str:
    if best is None:
        return f"How well does it learn? no validation accuracy in {len(rows):,} epochs"
    share = _known(best["valid_accuracy"], 0)
    error = math.sqrt(share * (1 - share) / num_valid)
    epoch = int(_known(best["epoch"], 0))
    return f"How well does it learn? {percent(share)} ± {error:.1%} at epoch {epoch} of {len(rows)}"


def _note(epochs: np.ndarray) -> str:
    if len(epochs) < 6:
        return "One point an epoch."
    return f"Thin: each epoch. Thick: mean of {2 * max(1, len(epochs) // 20) + 1} epochs."


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([_known(row.get(key), math.nan) for row in rows], float)


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else float(value)
