"""Whether a run learned: limits that its verdicts at the end and `ptkit diagnose` share."""

import math

# Of the loss of guessing; a run that learns is below it after an epoch.
LEARNS_BELOW = 0.98


def is_as_guessing(loss: float, guessing: float) -> bool:
    """Say whether a training loss is that of the same answer for every image."""
    return loss >= LEARNS_BELOW * guessing


def majority_limit(share: float, total: float) -> float:
    """Return the accuracy that always answering the largest class, `share` of `total` images, stays
    below: two binomial standard errors above the share.
    """
    return share + 2 * math.sqrt(share * (1 - share) / total)


def is_as_majority(accuracy: float, *, share: float, total: float) -> bool:
    """Say whether an accuracy could be that of always answering the largest class."""
    return accuracy <= majority_limit(share, total)
