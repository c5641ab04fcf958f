"""Memory of batches that is given out again when nobody holds them."""

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# What getrefcount counts of an item that only its list holds, while a loop looks at it.
_NOBODY = next(sys.getrefcount(item) for item in [object()])


class BatchMemory:
    """Float tensors for batches, most of which have one size.

    From the C library each batch would come as new memory: small objects settle in the hole that
    the last one left, so that the next needs another. After some epochs that is as much as twenty
    batches.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def floats(self, shape: Sequence[int]) -> Tensor:
        """Return float32 memory of a shape, whatever is in it."""
        count = math.prod(shape)
        for block in self._blocks:
            # A tensor holds the array that it was made from as long as its memory is in use. The
            # last batch of an epoch is smaller, and finds room in the place of another.
            if sys.getrefcount(block) == _NOBODY and block.size >= count:
                return torch.from_numpy(block)[:count].view(*shape)
        # Those that are too small go: the size of batches has changed.
        self._blocks = [block for block in self._blocks if block.size >= count]
        block = np.empty(count, np.float32)
        self._blocks.append(block)
        return torch.from_numpy(block).view(*shape)
