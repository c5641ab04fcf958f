"""The convolutions in a state dict, found by the shape of their weights alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ptkit.core.errors import CheckpointError
from ptkit.core.models.hooks import match_names


def find_kernels(
    state_dict: Mapping[str, Tensor], patterns: Sequence[str] | None, *, path: Path
) -> dict[str, np.ndarray]:
    """Return layer -> float32 (outputs, inputs, height, width), in the state dict's order.

    patterns: names or globs of layers, with or without their `.weight`; None means all. path: for
    the error message.

    Raises:
        CheckpointError: no four-dimensional weights.
        UsageError: a pattern that matches none of them.
    """
    found = {
        name.removesuffix(".weight"): tensor
        for name, tensor in state_dict.items()
        if tensor.ndim == 4 and tensor.is_floating_point() and tensor.numel()
    }
    if not found:
        raise CheckpointError(
            f"{path} has no convolution kernels: none of its {len(state_dict):,} tensors is 4-D"
        )
    chosen = list(found)
    if patterns:
        chosen = match_names(
            chosen, [pattern.removesuffix(".weight") for pattern in patterns], what="convolution"
        )
    return {name: found[name].detach().float().cpu().numpy() for name in chosen}
