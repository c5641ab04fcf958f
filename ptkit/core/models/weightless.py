"""Models built without memory for their weights, to know how many there are before any is made.

`without_memory` makes everything on the meta device; `without_weights` the parameters alone, for
models that compute with other tensors while they are built.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
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


@contextmanager
def without_weights() -> Iterator[None]:
    """Let every parameter that is made inside have a shape and no values, so that the largest model
    costs nothing.

    Only parameters: code that computes with other tensors while it builds a model finds them as
    they are.
    """

    def emptied(_: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or nn.parameter.is_lazy(parameter):
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch's annotation says that the hook returns nothing; its text says what it may return.
    # The handle removes the hook at the end of `with`.
    with nn.modules.module.register_module_parameter_registration_hook(emptied):  # type: ignore[arg-type]
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
