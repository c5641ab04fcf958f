"""The rule about properties that tell the label without anyone looking at the picture: a network
learns them first.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.evidence import Evidence, Found, Mask
from ptkit.core.wording import first_of

# Of what a guess by the largest class leaves open, see `_skill`.
MIN_SKILL = 0.3
# Values of a number, levels of a colour, are put into so many bins of equally many images.
_BINS, _COLOR_BINS = 20, 5
# Fewer images that look different say nothing.
_LEAST = 20

Codes = npt.NDArray[np.int64]


def shortcut(evidence: Evidence) -> Found | None:
    """Find trivial properties that predict the label, or tell one class from all others."""
    labels = evidence.listing.labels[evidence.is_readable]
    units = _units(evidence)
    if len(np.unique(units)) < _LEAST:
        return None
    texts = []
    for name, codes in _trivial(evidence).items():
        answers = _answers(codes, labels, units)
        if _skill(answers, labels, units) > MIN_SKILL:
            texts.append(f"{name} alone gives {(answers == labels).mean():.0%} of the labels")
            continue
        skills = {c: _skill_at_one(codes, labels == c, units) for c in np.unique(labels)}
        told = [c for c, skill in skills.items() if skill > MIN_SKILL]
        if told:
            names = first_of([evidence.listing.class_names[label] for label in told], 3)
            texts.append(f"{name} alone tells {names} from the others")
    return Found("; ".join(texts)) if texts else None


def _units(evidence: Evidence) -> Codes:
    """Return a number for each readable image, the same for those that look alike, 0..K - 1."""
    first = np.arange(len(evidence.listing))
    # Groups of look-alikes have all copies of their images, so they come last.
    for group in (*evidence.exact, *evidence.alike):
        first[group] = group[0]
    units: Codes = np.unique(first[evidence.is_readable], return_inverse=True)[1]
    return units


def _skill(answers: Codes, labels: Codes, units: Codes) -> float:
    """Return how much of what a guess by the largest class leaves open the answers get right: 0 for
    none, 1 for all; two standard errors on the safe side, where look-alikes count as one image.
    """
    majority = np.bincount(labels).max() / len(labels)
    accuracy = (answers == labels).mean()
    error = np.sqrt(accuracy * (1 - accuracy) / len(np.unique(units)))
    return float((accuracy - 2 * error - majority) / (1 - majority)) if majority < 1 else 0.0


def _skill_at_one(codes: Codes, is_class: Mask, units: Codes) -> float:
    """Return the same for one class against all others."""
    labels = is_class.astype(np.int64)
    return _skill(_answers(codes, labels, units), labels, units)


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


def _answers(codes: Codes, labels: Codes, units: Codes) -> Codes:
    """Return for each image the most frequent label of its code in the other half of the images."""
    # Neighbours in a list are often of one class, so the halves are drawn; and by units: the next
    # frame of a video would tell the label by any property.
    half = (np.random.default_rng(0).permutation(units.max() + 1) % 2)[units]
    answers = np.empty_like(labels)
    for asked in (half == 0, half == 1):
        table = np.zeros((codes.max() + 1, labels.max() + 1), np.int64)
        np.add.at(table, (codes[~asked], labels[~asked]), 1)
        # A code that was never seen gets the largest class.
        known = np.where(table.any(axis=1), table.argmax(axis=1), table.sum(axis=0).argmax())
        answers[asked] = known[codes[asked]]
    return answers
