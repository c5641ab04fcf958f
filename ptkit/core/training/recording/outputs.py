"""What the model answers for single images: margins in training, outputs in validation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data.keyed import Indices
from ptkit.core.distributed import summed_on_device
from ptkit.core.ranks import here

# Outputs on the device, of which margins are computed together.
_NUMBERS_AT_ONCE = 1 << 17
# Outputs of a larger list are not kept: each epoch would write 80 MB.
MOST_OUTPUTS = 10_000_000


class Margins:
    """By training image the sum over epochs of the output of its label minus the largest other
    one, and how many are in it: their quotient is the area under the margin (Pleiss et al. 2020).
    """

    def __init__(self, num_images: int) -> None:
        self.sum = np.zeros(num_images)
        self.count = np.zeros(num_images, np.int64)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._indices: list[Indices] = []
        self._num_waiting = 0
        # On the device, of images that came before those that wait.
        self._margins: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor, indices: Indices) -> None:
        """Add a batch: outputs (n * crops, K), labels (n * crops,), indices (n,) into the list."""
        self._waiting.append((outputs, labels))
        crops = len(labels) // len(indices)
        self._indices.append(indices if crops == 1 else indices.repeat(crops))
        self._num_waiting += outputs.numel()
        if self._num_waiting >= _NUMBERS_AT_ONCE:
            self._compute()

    def gather(self) -> None:
        """Sum them over all ranks into the first one."""
        self._read()
        for values in (self.sum, self.count):
            total = summed_on_device(torch.from_numpy(values)).numpy()
            values[:] = total if here().is_main else 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the sums so far; waits for the device."""
        self._read()
        return {"sum": torch.from_numpy(self.sum.copy()), "count": torch.tensor(self.count)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.sum, self.count = state["sum"].numpy().copy(), state["count"].numpy().copy()

    def _compute(self) -> None:
        """Compute the margins of the outputs that wait, on their device."""
        if self._waiting:
            outputs, labels = (torch.cat(some) for some in zip(*self._waiting, strict=True))
            self._waiting, self._num_waiting = [], 0
            own = outputs.gather(1, labels[:, None])
            others = outputs.scatter(1, labels[:, None], -torch.inf).amax(1)
            self._margins.append(own[:, 0].float() - others.float())

    def _read(self) -> None:
        self._compute()
        if self._margins:
            indices, size = np.concatenate(self._indices), len(self.sum)
            margins = torch.cat(self._margins).cpu().double().numpy()
            self._indices, self._margins = [], []
            self.sum += np.bincount(indices, margins, size)
            self.count += np.bincount(indices, minlength=size)


class ValidOutputs:
    """The outputs of one validation."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._parts: list[Tensor] = []
        self._indices: list[Indices] = []

    def add(self, outputs: Tensor, indices: Indices) -> None:
        """Add outputs (n, K) of images at some places of the list."""
        self._parts.append(outputs)
        self._indices.append(indices[: len(outputs)])

    def taken(self) -> Tensor:
        """Return float32 (N, K) in the order of the list, and forget them; all ranks call it."""
        parts, indices = torch.cat(self._parts), torch.from_numpy(np.concatenate(self._indices))
        self._parts, self._indices = [], []
        # Ranks have different images: what one has not seen is 0 there.
        outputs = torch.zeros(self._num_images, parts.shape[1], device=parts.device)
        outputs[indices.to(parts.device)] = parts.float()
        return summed_on_device(outputs).cpu()
