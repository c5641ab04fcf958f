"""Models built without memory for their weights, to know how many there are before any is made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# What networks compute their own widths and depths with, as RegNets do.
_NUMBERS = (torch.arange, torch.linspace, torch.tensor)
_FEW = 1000


@contextmanager
def without_memory() -> Iterator[None]:
    """Let modules be built on the meta device, and short runs of plain numbers on the CPU, which
    some networks read again while they are built.
    """
    with torch.device("meta"), _NumbersOnCpu():
        yield


class _NumbersOnCpu(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        found = function(*args, **given)
        # However many a file asks for, they take no memory on the meta device.
        if function in _NUMBERS and found.is_meta and found.numel() <= _FEW:
            return function(*args, **{**given, "device": "cpu"})
        return found
