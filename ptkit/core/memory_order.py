"""Numbers of a tensor as they lie in memory."""

from torch import Tensor


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return all numbers of a tensor, (n,).

    Those of a contiguous or channels-last tensor are in the order of its memory, in a view. Those
    of any other are in the order of their indices: in a copy, unless equal steps through memory
    reach them all, as in x[::2].
    """
    is_channels_last = tensor.ndim == 4 and tensor.permute(0, 2, 3, 1).is_contiguous()
    return (tensor.permute(0, 2, 3, 1) if is_channels_last else tensor).flatten()
