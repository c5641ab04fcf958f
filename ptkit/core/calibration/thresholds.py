"""From which probability on each class is answered, so that enough of its answers are right."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# The precision of fewer answers says nothing.
MIN_ANSWERS = 5
# No probability is as large: the class is never answered.
NEVER = float(np.nextafter(np.float32(1), np.float32(2)))


@dataclass(frozen=True)
class Threshold:
    """The probability from which on a class is answered, and what that gives on the images that it
    was found with.

    num_right: of num_answered. Where no probability gives the precision that is wanted, `value` is
    NEVER and the counts are those at which the precision is highest. num_answered is 0 where the
    class has too few answers to tell; `value` is then what it was.
    """

    value: float
    num_answered: int
    num_right: int
    reaches: bool

    @property
    def is_measured(self) -> bool:
        """Whether there were answers enough."""
        return self.num_answered > 0


def find_threshold(
    probabilities: npt.NDArray[np.floating],
    right: npt.NDArray[np.bool_],
    *,
    precision: float,
    otherwise: float = 0.0,
) -> Threshold:
    """Return the lowest threshold from which on a share `precision` of the answers is right.

    probabilities: (n,), of the class, in the images for which it may be answered. right: (n,),
    whether it is. otherwise: the threshold of a class with fewer than MIN_ANSWERS images.
    """
    if len(probabilities) < MIN_ANSWERS:
        return Threshold(otherwise, 0, 0, reaches=False)
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order].astype(float), np.cumsum(right[order])
    # Equal probabilities cannot be told apart.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    ends = ends[ends >= MIN_ANSWERS - 1]
    shares = hits[ends] / (ends + 1)
    enough = np.flatnonzero(shares >= precision)
    # Of equal precisions the one with more answers.
    end = int(ends[enough[-1]] if len(enough) else ends[len(ends) - 1 - shares[::-1].argmax()])
    counts = end + 1, int(hits[end])
    if not len(enough):
        return Threshold(NEVER, *counts, reaches=False)
    return Threshold(_between(ranked, end), *counts, reaches=True)


def _between(ranked: npt.NDArray[np.floating], end: int) -> float:
    """Return a threshold up to the value at `end` and above the next lower one."""
    if end == len(ranked) - 1:
        return 0.0
    middle = np.float32((ranked[end] + ranked[end + 1]) / 2)
    # Of neighbouring float32 numbers the middle is one of them.
    return float(middle if middle > np.float32(ranked[end + 1]) else ranked[end])
