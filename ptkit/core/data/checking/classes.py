"""Rules about the classes and about how the parts differ."""

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.evidence import Evidence, Found
from ptkit.core.wording import first_of

MAX_IMBALANCE = 10
# Standard errors, and the least difference worth a word: of many images every difference is
# significant.
_SIGNIFICANT, _LEAST_DISTANCE, _LEAST_EFFECT = 3.0, 0.05, 0.2
# Expected images of a class below which chi-square is no longer chi-square.
_LEAST_EXPECTED = 5
# Rec. 601, as OpenCV's grey.
_LUMA = np.array([0.299, 0.587, 0.114])


def unseen_labels(evidence: Evidence) -> Found | None:
    """Find images of held-out parts whose label no training image has."""
    listing = evidence.listing
    if not listing.held_out:
        return None
    seen = np.unique(listing.labels[listing.parts == listing.training])
    rows = np.flatnonzero(~np.isin(listing.labels, seen) & ~evidence.is_ignored).tolist()
    names = first_of(sorted({listing.label_name(row) for row in rows}), 5)
    text = f"{len(rows):,} held-out images have labels that training does not have ({names})"
    return Found(text, [[row] for row in rows]) if rows else None


def imbalance(evidence: Evidence) -> Found | None:
    """Compare the largest class of the training part, or of the only one, with the smallest."""
    listing = evidence.listing
    training = listing.labels[listing.parts == (listing.training or 0)]
    counts = np.bincount(training, minlength=len(listing.class_names))
    # A class without images is a matter of the split, which names it.
    present = np.flatnonzero(counts)
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    if counts[largest] <= MAX_IMBALANCE * counts[smallest]:
        return None
    names = listing.class_names
    return Found(
        f"{names[largest]} has {counts[largest]:,} images, {names[smallest]}"
        f" {counts[smallest]:,}: {counts[largest] / counts[smallest]:.0f} times as many"
    )


def label_drift(evidence: Evidence) -> Found | None:
    """Compare the shares of the classes in each held-out part with those in training: chi-square,
    and the total variation distance.
    """
    listing = evidence.listing
    texts = []
    for part in listing.held_out:
        counts = np.stack(
            [
                np.bincount(listing.labels[listing.parts == k], minlength=len(listing.class_names))
                for k in (listing.training or 0, part)
            ]
        )
        distance, z = _distance(counts)
        if distance > _LEAST_DISTANCE and z > _SIGNIFICANT:
            texts.append(
                f"{distance:.0%} of the images of {listing.part_names[part]} would need another"
                " class to have the shares of training"
            )
    return Found("; ".join(texts)) if texts else None


def brightness_drift(evidence: Evidence) -> Found | None:
    """Compare the brightness of each held-out part with that of training: Welch's test, and the
    difference in standard deviations.
    """
    listing = evidence.listing
    brightness = evidence["color"] @ _LUMA
    texts = []
    for part in listing.held_out:
        ours, theirs = (
            brightness[(listing.parts == k) & evidence.is_readable]
            for k in (listing.training, part)
        )
        if min(len(ours), len(theirs)) < 2:
            continue
        difference = theirs.mean() - ours.mean()
        error = np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
        effect = abs(difference) / max(np.sqrt((ours.var() + theirs.var()) / 2), 1e-9)
        if abs(difference) > _SIGNIFICANT * error and effect > _LEAST_EFFECT:
            texts.append(
                f"{listing.part_names[part]} has a mean brightness of {theirs.mean():.2f}, training"
                f" {ours.mean():.2f}: {effect:.1f} standard deviations apart"
            )
    return Found("; ".join(texts)) if texts else None


def _distance(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the total variation distance of two rows of counts, 0..1, and how many standard errors
    the chi-square of their table is above its mean.

    The cube root of chi-square over its degrees of freedom is about normal (Wilson and Hilferty,
    1931).
    """
    totals = counts.sum(axis=1, keepdims=True)
    if not totals.all():
        return 0.0, 0.0
    shares = counts / totals
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    expected = counts.sum(axis=0) * totals / totals.sum()
    is_common = (expected >= _LEAST_EXPECTED).all(axis=0)
    freedom = is_common.sum() - 1
    if freedom < 1:
        return distance, 0.0
    chi_square = ((counts - expected) ** 2 / np.where(is_common, expected, np.inf)).sum()
    spread = 2 / (9 * freedom)
    return distance, float((np.cbrt(chi_square / freedom) - (1 - spread)) / np.sqrt(spread))
