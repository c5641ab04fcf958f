"""How often answers are right that are so sure: before and after a temperature."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ptkit.plots import style

_SIDE, _LEFT = 340, 56
# A bin: mean probability, share of right ones, how many.
Bin = tuple[float, float, int]


@style.house_style()
def reliability_figure(
    before: Sequence[Bin],
    after: Sequence[Bin] | None,
    *,
    ece: Sequence[float],
    what: str,
    footer: str,
) -> Figure:
    """Draw the share of right ones over the mean probability of each bin, and the diagonal that
    calibrated probabilities follow.

    after: None where there is no temperature. ece: of both, on images that did not help to fit.
    what: the numbers are of, for people.
    """
    change = f" before, {ece[1]:.3f} after" if after is not None else ""
    title = f"Do probabilities keep what they promise? ECE {ece[0]:.3f}{change}"
    notes = [f"{what}, in {len(before)} bins of equal size; calibrated ones lie on the diagonal."]
    page = style.new_page(_SIDE + _LEFT + 160, _SIDE + 54, title=title, notes=notes, footer=footer)
    axes = page.axes(_LEFT, 8, _SIDE, _SIDE)
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=(0, (5, 4)))
    lines = [(before, style.ORANGE, "before")]
    if after is not None:
        lines.append((after, style.BLUE, "after"))
    for k, (found, color, name) in enumerate(lines):
        confidence, right, _ = np.array(found).T
        axes.plot(confidence, right, "o-", color=color, linewidth=1.6, markersize=4, clip_on=False)
        page.inset(_LEFT + _SIDE + 16, 18 * k).color_key(name, 0, color=color)
    # Where all probabilities are high the lower part would be empty.
    low = min(min(confidence, right) for found, *_ in lines for confidence, right, _ in found)
    low = max(0.0, np.floor(low * 10 - 0.5) / 10)
    axes.set(xlim=(low, 1), ylim=(low, 1), xlabel="mean probability", ylabel="share that is right")
    style.percent_labels(axes.xaxis, axes.yaxis)
    style.light_grid(axes, "both")
    return page.figure
