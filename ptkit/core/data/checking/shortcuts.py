"""The rule about properties that tell the label without anyone looking at the picture: a network
learns them first.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.evidence import Evidence, Found

# Of what a guess by the largest class leaves open, see `_skill`.
MIN_SKILL = 0.3
# Values of a number, levels of a colour, are put into so many bins of equally many images.
_BINS, _COLOR_BINS = 20, 5
# Fewer images say nothing.
_LEAST = 20

Codes = npt.NDArray[np.int64]


def shortcut(evidence: Evidence) -> Found | None:
    """Find trivial properties that predict the label."""
    labels = evidence.listing.labels[evidence.is_readable]
    if len(labels) < _LEAST:
        return None
    texts = []
    for name, codes in _trivial(evidence).items():
        accuracy, majority = _accuracy(codes, labels), np.bincount(labels).max() / len(labels)
        error = np.sqrt(accuracy * (1 - accuracy) / len(labels))
        # Two standard errors on the safe side.
        if majority < 1 and (accuracy - 2 * error - majority) / (1 - majority) > MIN_SKILL:
            texts.append(f"{name} alone gives {accuracy:.0%} of the labels")
    if not texts:
        return None
    return Found(f"{'; '.join(texts)}; always the largest class gives {majority:.0%}")


def _trivial(evidence: Evidence) -> Mapping[str, Codes]:
    """Return the trivial properties of the readable images, each as small whole numbers."""
    rows = {
        name: evidence[name][evidence.is_readable]
        for name in ("width", "height", "num_bytes", "format", "color")
    }
    levels = [_binned(channel, _COLOR_BINS) for channel in rows["color"].T]
    return {
        "the width": _binned(rows["width"], _BINS),
        "the height": _binned(rows["height"], _BINS),
        "the size of the file": _binned(rows["num_bytes"], _BINS),
        "the format of the file": rows["format"].astype(np.int64),
        "the mean colour": np.ravel_multi_index(levels, [_COLOR_BINS] * 3),
    }


def _binned(values: npt.NDArray[np.generic], num_bins: int) -> Codes:
    """Return the bin of each value, 0..num_bins - 1, by quantiles."""
    edges = np.quantile(values.astype(float), np.arange(1, num_bins) / num_bins)
    return np.searchsorted(edges, values.astype(float), side="right")


def _accuracy(codes: Codes, labels: Codes) -> float:
    """Return how often the most frequent label of an image's code is its own, counted on one half
    of the images and tried on the other, both ways.
    """
    # Neighbours in a list are often of one class; so the halves are drawn.
    half = np.random.default_rng(0).permutation(len(labels)) % 2
    right = 0
    for tried in (0, 1):
        known, asked = half != tried, half == tried
        table = np.zeros((codes.max() + 1, labels.max() + 1), np.int64)
        np.add.at(table, (codes[known], labels[known]), 1)
        # A code that was never seen gets the largest class.
        answers = np.where(table.any(axis=1), table.argmax(axis=1), table.sum(axis=0).argmax())
        right += int((answers[codes[asked]] == labels[asked]).sum())
    return right / len(labels)
