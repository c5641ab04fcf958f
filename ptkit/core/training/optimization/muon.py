"""The optimizers beside Muon and SparseAdam, which take only some parameters."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.training.optimization.paired import PairedOptimizer
from ptkit.core.training.optimization.parameter_groups import NOT_OPTIONS, Group

# AdamW's rate as a share of Muon's, as in the reference recipes (Jordan et al. 2024).
_COMPANION_RATE = 0.1
_COMPANION_OPTIONS = frozenset({"lr", "weight_decay", "eps"})

Build = Callable[[list[Group]], torch.optim.Optimizer]


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
    flattened: list[tuple[nn.Parameter, nn.Parameter]] = []

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
    groups: list[Group],
    *,
    lr: float,
    sparse: Collection[str],
    options: dict[str, Any],
    build: Build,
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
