"""Muon for weight matrices with AdamW for everything else, behind one optimizer's face."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# AdamW's rate as a share of Muon's, as in the reference recipes (Jordan et al. 2024: 0.02 and 0.002).
_COMPANION_RATE = 0.1

Group = dict[str, Any]


class MuonWithAdamW:
    """torch.optim.Muon takes 2-D weights only: convolutions are flattened for it; the rest goes to AdamW.

    groups: parameter groups whose "params" are (name, parameter) pairs. head: a weight matrix that AdamW gets too.
    make_muon: from groups to torch.optim.Muon.
    """

    def __init__(
        self,
        groups: list[Group],
        *,
        lr: float,
        head: nn.Parameter | None,
        make_muon: Callable[[list[Group]], torch.optim.Optimizer],
    ) -> None:
        self._flat: list[tuple[nn.Parameter, nn.Parameter]] = []
        matrices, others = [], []
        for group in groups:
            rate = group.get("lr", lr)
            mine = [(n, self._flattened(p)) for n, p in group["params"] if p.ndim >= 2 and p is not head]
            rest = [(n, p) for n, p in group["params"] if p.ndim < 2 or p is head]
            if mine:
                matrices.append({**group, "params": mine, "lr": rate})
            if rest:
                others.append(
                    {**group, "params": rest, "lr": rate * _COMPANION_RATE, "name": f"AdamW, {group['name']}"}
                )
        self._parts = [make_muon(matrices)] if matrices else []
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr * _COMPANION_RATE, weight_decay=0.0, fused=True))

    @property
    def param_groups(self) -> list[Group]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        """Step both; gradients are read from the model's own parameters."""
        for parameter, flat in self._flat:
            flat.grad = None if parameter.grad is None else parameter.grad.flatten(1)
            flat.data.copy_(parameter.detach().flatten(1))
        for part in self._parts:
            part.step()
        with torch.no_grad():
            for parameter, flat in self._flat:
                parameter.copy_(flat.view(parameter.shape))

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    def _flattened(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.ndim == 2:
            return parameter
        flat = nn.Parameter(parameter.detach().flatten(1).clone())
        self._flat.append((parameter, flat))
        return flat
