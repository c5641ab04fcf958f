"""Batches on their way to the device, one ahead of the one in use."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data.feeding.transfers import sent

T = TypeVar("T")
Values = tuple[Tensor | npt.NDArray[Any], ...]


def copied(
    items: Iterable[tuple[T, Values]], device: torch.device
) -> Iterator[tuple[T, tuple[Tensor, ...]]]:
    """Yield each item with its tensors and arrays on a device.

    On CUDA the next item is on its way, in a stream of its own, before one is yielded: it arrives
    while the model works on the one before.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    under_way: deque[tuple[T, _Copy]] = deque()
    for name, values in items:
        under_way.append((name, _started(values, device, stream)))
        if stream is None or len(under_way) > 1:
            name, copy = under_way.popleft()
            yield name, copy.arrived()
    while under_way:
        name, copy = under_way.popleft()
        yield name, copy.arrived()


@dataclass(frozen=True)
class _Copy:
    """Tensors on the device, and what says when they are there; None: they are."""

    tensors: tuple[Tensor, ...]
    done: torch.cuda.Event | None

    def arrived(self) -> tuple[Tensor, ...]:
        """Return the tensors; the device's work from here on waits for them, the program does not."""
        if self.done is not None:
            here = torch.cuda.current_stream(self.tensors[0].device)
            here.wait_event(self.done)
            for tensor in self.tensors:
                # Else the copying stream may get the memory again while this one still reads it.
                tensor.record_stream(here)
        return self.tensors


def _started(values: Values, device: torch.device, stream: torch.cuda.Stream | None) -> _Copy:
    if stream is None:
        return _Copy(tuple(sent(value, device) for value in values), None)
    with torch.cuda.stream(stream):
        tensors = tuple(sent(value, device) for value in values)
        return _Copy(tensors, stream.record_event())
