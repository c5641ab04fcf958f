"""Precision against recall: what does it cost to find more of a class?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ptkit.plots.fonts import class_labels
from ptkit.plots.labels import labels_of
from ptkit.plots.style import (
    BLUE,
    MUTED,
    ORANGE,
    SMALL,
    house_style,
    light_grid,
    new_page,
    percent_labels,
)

MAX_PANELS = 20

# A line of more points is thinned, which is invisible.
_MAX_POINTS = 500_000
_MAIN, _PANEL, _BETWEEN, _HEAD = 360, 112, 26, 44


@dataclass(frozen=True)
class Curve:
    """recall rises, precision belongs to it, (T,) each.

    ap: average precision. prevalence: the precision of chance.
    """

    recall: np.ndarray
    precision: np.ndarray
    ap: float
    prevalence: float


def precision_recall(truth: np.ndarray, scores: np.ndarray) -> Curve:
    """Return the exact curve of scores (n,) for truth, bool (n,), of which one or more are true.

    Average precision is the sum over the thresholds of precision times the gain in recall, without
    interpolation, as scikit-learn's average_precision_score.
    """
    order = np.argsort(-scores, kind="stable")
    hits, ranked = truth[order].cumsum(), scores[order]
    # Equal scores cannot be told apart by any threshold.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    ap = float((precision * np.diff(recall, prepend=0)).sum())
    return Curve(np.append(0, recall), np.append(precision[0], precision), ap, float(truth.mean()))


def micro_counts(
    truth: np.ndarray, scores: np.ndarray, *, num_thresholds: int = 127
) -> dict[str, np.ndarray]:
    """Return the counts tp, fp, tn, fn, (thresholds,) each, over all classes and images.

    The thresholds go from 0 to 1.

    truth: bool (n, K). scores: (n, K), 0..1; at least the threshold counts as found.
    """
    bins = np.floor(scores.clip(0, 1).ravel() * (num_thresholds - 1)).astype(np.int64)
    tp, fp = (
        np.bincount(bins[which], minlength=num_thresholds)[::-1].cumsum()[::-1]
        for which in (truth.ravel(), ~truth.ravel())
    )
    return {"tp": tp, "fp": fp, "tn": fp[0] - fp, "fn": tp[0] - tp}


@house_style()
def pr_figure(
    truth: np.ndarray, scores: np.ndarray, *, class_names: Sequence[str], footer: str = ""
) -> Figure:
    """Draw the micro average large, and beside it the at most 20 classes of lowest AP.

    truth: bool (n, K), at least one true. scores: (n, K).
    """
    counts = truth.sum(axis=0)
    known = np.flatnonzero(counts).tolist()
    curves = {k: precision_recall(truth[:, k], scores[:, k]) for k in known}
    by_ap = sorted(curves, key=lambda k: (curves[k].ap, k))
    shown = sorted(by_ap[:MAX_PANELS])
    columns = min(5, max(3, math.ceil(math.sqrt(len(shown)))), len(shown))
    rows = math.ceil(len(shown) / columns)
    height = max(_MAIN + _HEAD + 30, rows * (_PANEL + _HEAD) + 24)
    names, labels = class_labels(class_names), labels_of(class_names, width=_PANEL, size=8)
    mean, worst = np.mean([curve.ap for curve in curves.values()]), by_ap[0]
    title = (
        f"How precise is it when it has to find more? mean average precision {mean:.3f}, lowest"
        f" {curves[worst].ap:.3f} for “{names[worst]}”"
    )
    notes, right = [_note(truth, num_shown=len(shown), num_known=len(known))], 44 + _MAIN + 52
    width = right + columns * (_PANEL + _BETWEEN)
    key = labels.key(shown)
    page = new_page(width, height, title=title, notes=notes, footer=footer, key=key)
    micro = precision_recall(truth.ravel(), scores.ravel())
    axes = page.axes(44, _HEAD, _MAIN, _MAIN)
    _draw(axes, micro, color=BLUE, width=2)
    page.text(f"Micro average over all classes: AP {micro.ap:.3f}", 44, _HEAD - 18, weight="bold")
    axes.set(xlabel="recall", ylabel="precision")
    chance, place = f"chance, {micro.prevalence:.1%}", (0.02, micro.prevalence)
    axes.annotate(chance, place, (0, 3), textcoords="offset points", **SMALL)
    for n, k in enumerate(shown):
        left = right + n % columns * (_PANEL + _BETWEEN)
        top = _HEAD + n // columns * (_PANEL + _HEAD)
        axes = page.axes(left, top, _PANEL, _PANEL)
        _draw(axes, curves[k], color=ORANGE, width=1.4)
        axes.tick_params(labelbottom=False, labelleft=False, length=2)
        page.text(labels.texts[k], left, top - 17, va="bottom", size=8)
        how = {"va": "bottom", "size": 7.5, "color": MUTED}
        page.text(f"AP {curves[k].ap:.3f}", left, top - 4, **how)
        page.text(f"{counts[k]:,}", left + _PANEL, top - 4, ha="right", **how)
    return page.figure


def _draw(axes: Axes, curve: Curve, *, color: str, width: float) -> None:
    recall, precision = curve.recall, curve.precision
    if len(recall) > _MAX_POINTS:
        # For millions of points matplotlib would take gigabytes: only those where recall rises.
        # Between the first and the last point of one recall the line is vertical.
        rises = np.diff(recall) > 0
        kept = np.flatnonzero(np.append(True, rises) | np.append(rises, True))
        kept = kept[np.linspace(0, len(kept) - 1, min(len(kept), _MAX_POINTS)).astype(int)]
        recall, precision = recall[kept], precision[kept]
    axes.axhline(curve.prevalence, color=MUTED, linewidth=0.9, linestyle=(0, (5, 4)))
    axes.fill_between(recall, precision, step="pre", color=color, alpha=0.12, linewidth=0)
    axes.step(recall, precision, where="pre", color=color, linewidth=width, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    percent_labels(axes.xaxis, axes.yaxis)
    light_grid(axes, "both")


def thinned(curve: Curve, *, most: int = 101) -> list[tuple[float, float]]:
    """Return at most so many points (recall, precision) of a curve, evenly spread."""
    places = np.unique(np.linspace(0, len(curve.recall) - 1, most).round().astype(int))
    pairs = zip(curve.recall[places].tolist(), curve.precision[places].tolist(), strict=True)
    return list(pairs)


def _note(truth: np.ndarray, *, num_shown: int, num_known: int) -> str:
    num_images, num_classes = truth.shape
    which = f"the {num_shown} classes of {num_known:,} with the lowest AP"
    if num_shown == num_known:
        which = "all classes"
    if num_known < num_classes:
        which += f"; {num_classes - num_known:,} without images left out"
    small = f"{which}, with the number of images"
    return f"{num_images:,} images; small: {small}. Dashed: prevalence."
