"""Optimizers that cannot take every parameter, each with a companion for the rest."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.training.optimization.parameter_groups import NOT_OPTIONS, Group

# AdamW's rate as a share of Muon's, as in the reference recipes (Jordan et al. 2024).
_COMPANION_RATE = 0.1
_COMPANION_OPTIONS = frozenset({"lr", "weight_decay", "eps"})

Build = Callable[[list[Group]], torch.optim.Optimizer]
# A parameter of the model and its flattened copy.
Copied = tuple[nn.Parameter, nn.Parameter]


class PairedOptimizer:
    """Steps several torch optimizers, each with its own parameters; at most one per class.

    flattened: parameters of the model whose optimizer has a flattened copy, each with that copy.
    """

    def __init__(
        self, parts: Iterable[torch.optim.Optimizer], *, flattened: Sequence[Copied] = ()
    ) -> None:
        self._parts = {type(part): part for part in parts}
        self._flattened = list(flattened)

    @property
    def param_groups(self) -> list[Group]:
        return [group for part in self._parts.values() for group in part.param_groups]

    @property
    def originals(self) -> dict[int, nn.Parameter]:
        """The parameters of the model whose copies are stepped, by the id of the copy."""
        return {id(copy): parameter for parameter, copy in self._flattened}

    @property
    def parts(self) -> list[Any]:
        return list(self._parts.values())

    def step(self) -> None:
        """Step all parts; gradients are read from the model's own parameters."""
        with torch.no_grad():
            for parameter, matrix in self._flattened:
                matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
                matrix.copy_(parameter.flatten(1))
            for part in self._parts.values():
                part.step()
            for parameter, matrix in self._flattened:
                parameter.copy_(matrix.view(parameter.shape))
                matrix.grad = None

    def take_in(self, addition: "PairedOptimizer") -> None:
        """Add the groups of another pair of the same kind."""
        for kind, part in addition._parts.items():
            if kind in self._parts:
                take_in(self._parts[kind], part)
            else:
                self._parts[kind] = part
        self._flattened += addition._flattened

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self._parts.values(), state["parts"], strict=True):
            part.load_state_dict(saved)


def groups_by_parameter(optimizers: Iterable[Any]) -> dict[int, tuple[Group, float]]:
    """Return by the id of each parameter of the model that has one: its group, and the rate of
    groups without one in the torch optimizer that steps it.
    """
    found = {}
    for optimizer in optimizers:
        is_pair = isinstance(optimizer, PairedOptimizer)
        originals, parts = (optimizer.originals, optimizer.parts) if is_pair else ({}, [optimizer])
        for part in parts:
            for group in part.param_groups:
                # A user's own optimizer may have none.
                rate = float(part.defaults.get("lr") or group["lr"])
                for parameter in group["params"]:
                    found[id(originals.get(id(parameter), parameter))] = (group, rate)
    return found


def muon_with_adamw(
    groups: list[Group], *, lr: float, weight_decay: float, head: nn.Parameter | None, build: Build
) -> PairedOptimizer:
    """Return Muon for the weight matrices and AdamW for the rest.

    torch.optim.Muon takes only 2-D weights: convolutions are flattened for it; norms, biases and
    the head go to AdamW.

    groups: parameter groups whose "params" are (name, parameter) pairs. head: the weight matrix
        of the classifying layer, whose gradients are of another kind: AdamW gets it too. build:
        makes torch.optim.Muon of groups.
    """
    flattened: list[Copied] = []

    def matrix(parameter: nn.Parameter) -> nn.Parameter:
        if parameter.ndim == 2:
            return parameter
        flat = nn.Parameter(parameter.detach().flatten(1).clone())
        flattened.append((parameter, flat))
        return flat

    matrices, others = [], []
    for group in groups:
        rate = group.get("lr", lr)
        mine = [(n, matrix(p)) for n, p in group["params"] if p.ndim >= 2 and p is not head]
        rest = [(n, p) for n, p in group["params"] if p.ndim < 2 or p is head]
        if mine:
            matrices.append({**group, "params": mine, "lr": rate})
        unknown = group.keys() - NOT_OPTIONS - _COMPANION_OPTIONS
        if unknown and not mine:
            names = ", ".join(n for n, _ in rest[:3])
            raise UsageError(
                f"{min(unknown)} has no effect on {names}: beside Muon, AdamW steps norms, biases"
                " and head"
            )
        if rest:
            name = f"AdamW, {group['name']}"
            others.append({**group, "params": rest, "lr": rate * _COMPANION_RATE, "name": name})
    parts = [build(matrices)] if matrices else []
    if others:
        rate = lr * _COMPANION_RATE
        parts.append(torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay, fused=True))
    return PairedOptimizer(parts, flattened=flattened)


def sparse_adam_with_adam(
    groups: list[Group], *, lr: float, sparse: set[str], options: dict[str, Any], build: Build
) -> PairedOptimizer:
    """Return SparseAdam for parameters with sparse gradients, and Adam alike for the others.

    groups: see `muon_with_adamw`. sparse: names of parameters with sparse gradients. build: makes
    torch.optim.SparseAdam of groups.
    """
    embeddings, others = [], []
    for group in groups:
        mine = [(n, p) for n, p in group["params"] if n in sparse]
        rest = [(n, p) for n, p in group["params"] if n not in sparse]
        if mine:
            embeddings.append({**group, "params": mine})
        if rest:
            others.append({**group, "params": rest, "name": f"Adam, {group['name']}"})
    parts = [build(embeddings)] if embeddings else []
    if others:
        parts.append(torch.optim.Adam(others, lr=lr, fused=True, **options))
    return PairedOptimizer(parts)


def take_in(optimizer: Any, addition: Any) -> None:
    """Add the groups of a newly built optimizer of the same kind to one that runs, in place."""
    if isinstance(optimizer, PairedOptimizer):
        optimizer.take_in(addition)
        return
    for group in addition.param_groups:
        optimizer.add_param_group(group)
    # Adagrad of older versions makes the state of a parameter only when it is built.
    optimizer.state.update(addition.state)
