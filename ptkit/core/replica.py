"""One model in several processes: who exchanges gradients, and the outputs that are compared."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ptkit.core.distributed import talking
from ptkit.core.ranks import here


class Replica:
    """Called in place of a model: DistributedDataParallel, by which all ranks have one gradient.

    forward: the model, or its compiled form. finds_unused: some parameters get no gradient in a
    step.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[Tensor], Tensor], *, finds_unused: bool
    ) -> None:
        self._model, self._finds_unused = model, finds_unused
        self._called = model if forward is model else _Called(model, forward)
        self._trained: list[bool] = []
        self._wrapped: DistributedDataParallel | None = None

    def renew(self) -> None:
        """Go by the parameters that train now: some are unfrozen at an epoch."""
        trained = [parameter.requires_grad for parameter in self._model.parameters()]
        if trained == self._trained:
            return
        self._trained = trained
        with warnings.catch_warnings():
            # Of an argument that newer versions call otherwise, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped = DistributedDataParallel(
                self._called, broadcast_buffers=False, find_unused_parameters=self._finds_unused
            )

    def __call__(self, images: Tensor) -> Tensor:
        assert self._wrapped is not None
        return cast(Tensor, self._wrapped(images))

    def adding_up(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of forward and backward of a batch: of several batches a step, the
        last one adds up the gradients of all.
        """
        if self._wrapped is None or is_last:
            return nullcontext()
        return cast(AbstractContextManager[None], self._wrapped.no_sync())


class _Called(nn.Module):
    """A model that is called in another form, with the same parameters."""

    def __init__(self, model: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, images: Tensor) -> Tensor:
        return self._forward(images)


def has_unused(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """Say whether some parameters that train get no gradient; the gradients are removed."""
    forward(images).float().square().mean().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_missing = any(parameter.grad is None for parameter in trained)
    for parameter in trained:
        parameter.grad = None
    return is_missing


def rows_of_all(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows (n, ...) of all ranks, those of the first one first; nothing waits for a GPU.

    counts: how many of each rank's first rows count. Where all ranks compute the same of the
    result, its gradient flows back to each rank's own rows: that of all images, in parts.
    """
    found: Tensor = _RowsOfAll.apply(rows, counts)
    return found


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        start, own = sum(counts[: here().number]), counts[here().number]
        ctx.own, ctx.shape = slice(start, start + own), rows.shape
        # All send as many.
        mine = rows.new_zeros(max(counts), *rows.shape[1:])
        mine[:own] = rows[:own]
        parts = [torch.empty_like(mine) for _ in counts]
        with talking():
            dist.all_gather(parts, mine)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        mine = gradient.new_zeros(ctx.shape)
        mine[: ctx.own.stop - ctx.own.start] = gradient[ctx.own]
        return mine, None
