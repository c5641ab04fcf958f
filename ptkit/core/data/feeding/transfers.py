"""Copies to the training device that never make the program wait for it."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def sent(values: Tensor | npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy to a device; on CUDA from pinned memory and without waiting. On a CPU it is the same
    memory.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def constant(values: Any, device: torch.device, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers as a tensor (n,) that is copied to the device once in a run; it must not be
    changed.
    """
    return _constant(tuple(np.ravel(values).tolist()), device, dtype)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(device)
