"""A model larger than a device: each rank keeps a part of every parameter (FSDP2).

torch.distributed.fsdp.fully_shard does the work: it brings a block together for its forward and its
backward, and adds up its gradients into the parts. What is saved is whole, as of one process.
"""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.ranks import here

# Smaller blocks are brought together with what holds them: an exchange costs time by itself.
_LEAST = 1_000_000
# Older ones do not divide models on CPUs, nor take apart again what is outside all blocks.
_SINCE = "2.8"
# What calls its children one by one; others may read the weights of a child without calling it.
_ROWS = (nn.Sequential, nn.ModuleList)


class Sharded:
    """Called in place of a model whose blocks are divided among the ranks, in place, on `device`;
    steps like `Replica`.

    Raises:
        UsageError: this torch, or this model, cannot.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        if torch.__version__ < _SINCE:
            raise UsageError(
                f"train.shard needs torch {_SINCE}, and this is {torch.__version__}: leave it out"
            )
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        mesh = init_device_mesh(device.type, (here().num_ranks,))
        try:
            for part in (*blocks_of(model), model):
                # Else the outermost would keep what it brought together, which an average that
                # is put in its place for a while does not change.
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
        except (ValueError, NotImplementedError) as error:
            raise UsageError(f"train.shard: {error}; leave it out") from error
        self._model = cast(FSDPModule, model)
        if device.type == "cpu":
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    # gloo has no mean.
                    module.set_force_sum_reduction_for_comms(True)

    def renew(self) -> None:
        """Do nothing: the parameters that train now are looked up in each step."""

    def __call__(self, images: Tensor) -> Tensor:
        return cast(Tensor, self._model(images))  # type: ignore[operator]

    def adding_up(self, *, is_last: bool) -> AbstractContextManager[None]:
        """See `Replica.adding_up`; each batch is added to the parts of the gradients: until the
        last one each rank would have them whole.
        """
        return nullcontext()


def blocks_of(model: nn.Module, *, least: int = _LEAST) -> list[nn.Module]:
    """Return the blocks that are brought together by themselves, inner ones first: children of the
    model and of its Sequentials and ModuleLists with at least so many parameters of their own.
    """
    blocks: list[nn.Module] = []
    # Not the parameters: dividing replaces each, and frees it where nothing else keeps it.
    taken: set[int] = set()

    def visit(module: nn.Module) -> None:
        for child in module.children():
            visit(child)
            own = [p for p in child.parameters() if id(p) not in taken]
            is_called = isinstance(module, _ROWS) or module is model
            # Nothing calls a ModuleList itself.
            if isinstance(child, nn.ModuleList | nn.ModuleDict) or not is_called:
                continue
            if sum(parameter.numel() for parameter in own) >= least:
                blocks.append(child)
                taken.update(map(id, own))

    visit(model)
    return blocks


def whole(value: Any) -> Any:
    """Return tensors, in dicts and lists, with what all ranks have of them, on the CPU of the first
    one; others get empty ones. All ranks call it at once; one that is alone gets `value`.
    """
    if here().is_alone:
        return value
    if isinstance(value, dict):
        # A state dict carries the versions of its layers.
        found = copy.copy(value)
        for key, one in value.items():
            found[key] = whole(one)
        return found
    if isinstance(value, list):
        return [whole(one) for one in value]
    if not is_part(value):
        return value
    full = value.detach().full_tensor()
    # Of several such tensors a GPU would hold the whole model.
    return full.cpu() if here().is_main else torch.empty(0)


def parts_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what this rank has of whole tensors, by name; see `part_like`."""
    return {name: part_like(tensor, like.get(name)) for name, tensor in tensors.items()}


def part_like(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Return what this rank has of a whole tensor, divided as `like` is; all ranks call it."""
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def is_part(value: object) -> bool:
    """Say whether this is a tensor of which each rank has a part."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")
