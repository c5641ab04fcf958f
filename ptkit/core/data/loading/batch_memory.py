"""Memory of batches that is given out again when nobody holds them."""

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class BatchMemory:
    """Float tensors for batches, most of which have one size.

    From the C library each batch would come as new memory: small objects settle in the hole that
    the last one left, so that the next needs another. After some epochs that is as much as twenty
    batches.
    """

    def __init__(self) -> None:
        # Blocks that nobody holds.
        self._free: list[np.ndarray] = []

    def floats(self, shape: Sequence[int]) -> Tensor:
        """Return float32 memory of a shape, whatever is in it."""
        count = math.prod(shape)
        # The last batch of an epoch is smaller, and finds room in the place of another.
        block = min(
            (block for block in self._free if block.size >= count), key=np.size, default=None
        )
        if block is None:
            block = np.empty(count, np.float32)
        else:
            self._free = [other for other in self._free if other is not block]
        # Tensors keep the array that they were made from: this one goes when the last of them does.
        lease = block[:count]
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease).view(*shape)

    def _give_back(self, block: np.ndarray) -> None:
        self._free.append(block)
