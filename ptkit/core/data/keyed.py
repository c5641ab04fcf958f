"""Keyed randomness: every draw is a hash of what it is for, so no generator has a state that could
differ.

Draws come from splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014,
figure 16) of (seed, purpose, epoch, image index, column). They do not depend on the number of
workers, on the
batch an image falls into, or on where a run was interrupted.
"""

import zlib

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def uniforms(
    seed: int, purpose: str, *, epoch: int, indices: npt.NDArray[np.int64], columns: int
) -> npt.NDArray[np.float64]:
    """Return draws in [0, 1) of shape (len(indices), columns), one row for each image index."""
    base = np.uint64(stream_key(seed, purpose, epoch))
    rows = _mix(indices.astype(np.uint64) * np.uint64(_GOLDEN) + base)
    steps = (np.arange(1, columns + 1, dtype=np.uint64)) * np.uint64(_GOLDEN)
    return (_mix(rows[:, None] + steps) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def permutation(seed: int, purpose: str, *, epoch: int, length: int) -> npt.NDArray[np.int64]:
    """Return a random order of 0..length-1."""
    base = np.uint64(stream_key(seed, purpose, epoch))
    keys = _mix(np.arange(1, length + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + base)
    return np.argsort(keys, kind="stable")


def stream_key(seed: int, purpose: str, number: int = 0) -> int:
    """Return a 64-bit key for (seed, purpose, number): the seed of a generator, or the base of a
    family of draws.
    """
    key = _mix_int(seed + _GOLDEN)
    key = _mix_int(key ^ zlib.crc32(purpose.encode()))
    return _mix_int((key + (number + 1) * _GOLDEN) & _MASK)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finish splitmix64 on whole arrays; uint64 arithmetic wraps as the algorithm needs."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_int(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
