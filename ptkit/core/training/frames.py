"""Which epochs a small file keeps that has arrays of every epoch of a run."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

# About so many frames are kept at most: the files stay small.
MAX_FRAMES = 100


def with_frame(frames: Mapping[int, T], epoch: int, frame: T) -> dict[int, T]:
    """Return the frames by epoch with one more; the first and the newest stay, and of too many
    every second one goes.
    """
    stride = 1
    while epoch // stride > MAX_FRAMES:
        stride *= 2
    every = {**frames, epoch: frame}
    return {k: kept for k, kept in every.items() if k == epoch or k % stride == 0}
