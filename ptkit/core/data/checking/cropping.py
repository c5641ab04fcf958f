"""What the usual evaluation of photographs, a centre crop, leaves out of each class's images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.evidence import Evidence, Found
from ptkit.core.sizes import is_small
from ptkit.core.wording import counted, first_of

# Of each side of the central square: Resize(256), CenterCrop(224).
_KEPT = 7 / 8
# Shares of the pixels: what a picture of almost 2:1 loses; and a class beside the others.
MAX_LOSS, MAX_MORE = 0.6, 0.15
# Fewer images of a class say nothing about it.
_LEAST = 5


@dataclass(frozen=True)
class CropLoss:
    """What a crop leaves out of one class. median, worst: shares of the pixels, 0..1. row: of the
    worst image. num_images: of the class.
    """

    class_name: str
    median: float
    worst: float
    row: int
    num_images: int


def crop_losses(evidence: Evidence) -> list[CropLoss]:
    """Return what a crop leaves out of each class, the largest share first; nothing for images that
    are seen whole, those of up to 64 pixels.
    """
    rows = np.flatnonzero(evidence.is_readable & ~evidence.is_ignored)
    height, width = evidence["height"][rows], evidence["width"][rows]
    if not len(rows) or is_small(int(np.median(np.minimum(height, width)))):
        return []
    share = _lost(height, width)
    names = evidence.listing.class_names
    # Images of several labels count as one class.
    labels = evidence.listing.labels[rows] if names else np.zeros(len(rows), np.int64)
    losses = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        worst = own[share[own].argmax()]
        losses.append(
            CropLoss(
                names[label] if names else "all",
                float(np.median(share[own])),
                float(share[worst]),
                int(rows[worst]),
                len(own),
            )
        )
    return sorted(losses, key=lambda loss: -loss.median)


def crop(evidence: Evidence) -> Found | None:
    """Find classes of which a centre crop leaves out far more than of others, or most."""
    losses = crop_losses(evidence)
    if not losses:
        return None
    usual = float(np.median([loss.median for loss in losses]))
    chosen = [
        loss
        for loss in losses
        if loss.num_images >= _LEAST and loss.median > min(MAX_LOSS, usual + MAX_MORE)
    ]
    if not chosen:
        return None
    shown = first_of([f"{loss.median:.0%} of {loss.class_name}" for loss in chosen], 3)
    if len(chosen) < len(losses):
        shown += f", and {usual:.0%} of the median class"
    what = counted(len(chosen), "class loses much", "classes lose much")
    return Found(
        f"{what} to the usual centre crop: {shown}; train with --fit pad to show all of it",
        [[loss.row] for loss in chosen],
        reasons={loss.row: f"{loss.worst:.0%} outside the crop" for loss in chosen},
    )


def _lost(height: npt.NDArray[np.int32], width: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return the share of the pixels outside the crop."""
    side = _KEPT * np.minimum(height, width)
    lost: npt.NDArray[np.float64] = 1 - side**2 / (height.astype(float) * width)
    return lost
