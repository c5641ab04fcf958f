"""Numbers of a tensor as they lie in memory."""

from torch import Tensor


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return all numbers of a tensor, (n,), in the order of its memory, whatever that is: a view,
    or a copy where they do not lie side by side.
    """
    is_channels_last = tensor.ndim == 4 and tensor.permute(0, 2, 3, 1).is_contiguous()
    return (tensor.permute(0, 2, 3, 1) if is_channels_last else tensor).flatten()
