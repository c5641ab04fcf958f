"""Accuracy among the answered images over the share that is answered."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots import style

_WIDTH, _HEIGHT, _LEFT = 640, 300, 56


@dataclass(frozen=True)
class CoverageCurve:
    """The surest images are answered first: coverage (n,) rises, accuracy (n,) belongs to it, and
    so does the probability (n,) of the least sure one among them.
    """

    coverage: np.ndarray
    accuracy: np.ndarray
    probability: np.ndarray


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> CoverageCurve:
    """Return the curve of answers (n,) with these probabilities, right or not, one image or more
    (El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", 2010, section
    2).
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], right[order].cumsum()
    # Equal probabilities are answered together.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return CoverageCurve((ends + 1) / len(ranked), hits[ends] / (ends + 1), ranked[ends])


@style.house_style()
def coverage_figure(
    curve: CoverageCurve, *, answered: tuple[float, float] | None, point: str, footer: str
) -> Figure:
    """Draw the curve, and the point where thresholds and the check for strangers stand.

    answered: coverage and accuracy of what they let pass; None without them, or if it is nothing.
    point: what it is, in words.
    """
    everything = f"{style.percent(float(curve.accuracy[-1]))} of all"
    title = f"How right is it when it may say unknown? {everything}"
    if answered is not None:
        shares = [style.percent(share) for share in answered]
        title += f", {shares[1]} of the {shares[0]} that it answers"
    notes = [
        "Line: only the most probable answers are given." + f" Point: {point}." * bool(answered)
    ]
    page = style.new_page(_WIDTH, _HEIGHT + 58, title=title, notes=notes, footer=footer)
    axes = page.axes(_LEFT, 14, _WIDTH - _LEFT - 12, _HEIGHT)
    axes.plot(curve.coverage, curve.accuracy, color=style.BLUE, linewidth=2, clip_on=False)
    lowest = float(curve.accuracy.min())
    if answered is not None:
        axes.plot(*answered, "o", color=style.ORANGE, markersize=8, clip_on=False)
        lowest = min(lowest, answered[1])
    axes.set(
        xlim=(0, 1),
        ylim=(max(0.0, lowest - 0.03), 1.005),
        xlabel="share of images that are answered",
        ylabel="accuracy among them",
    )
    style.percent_labels(axes.xaxis, axes.yaxis)
    style.light_grid(axes, "both")
    return page.figure
