"""Numbers that stay on the device until an epoch has ended, and the time that taking them costs."""

import time
from types import TracebackType

import torch
from torch import Tensor

# So many become one tensor: on a GPU each tensor takes 512 bytes, however small.
_AT_ONCE = 64


class Series:
    """Tensors of one shape, one after the other; adding waits for nothing."""

    def __init__(self, values: Tensor | None = None) -> None:
        self._parts = [] if values is None else [values]
        self._new: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Add one."""
        self._new.append(value)
        if len(self._new) == _AT_ONCE:
            self._join()

    def values(self) -> Tensor:
        """Return all of them, float32 (n, ...), on their device; (0,) where there are none."""
        self._join()
        self._parts = [torch.cat(self._parts)] if self._parts else []
        return self._parts[0] if self._parts else torch.empty(0)

    def _join(self) -> None:
        if self._new:
            self._parts.append(torch.stack(self._new).float())
            self._new = []


class Seconds:
    """Adds up the time spent in its blocks, none of which lies in another; the device's own work
    goes on after them.
    """

    def __init__(self) -> None:
        self.total = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.total += time.perf_counter() - self._begin
