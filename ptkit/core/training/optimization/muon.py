"""Muon, where torch does not have it yet (before 2.9)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# How the rate of an (out, in) matrix is adapted; the names are torch's.
_RATIOS: dict[str | None, Callable[[int, int], float]] = {
    None: lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` of later versions: the same arguments, state and numbers.

    Momentum, orthogonalised by `ns_steps` Newton-Schulz iterations (Jordan et al. 2024), and
    decoupled weight decay.

    params: matrices only.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if adjust_lr_fn not in _RATIOS:
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)

    def _step_one(self, matrix: Tensor, group: dict[str, Any]) -> None:
        gradient, state, momentum = matrix.grad, self.state[matrix], group["momentum"]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(average, momentum) if group["nesterov"] else average
        update = _orthogonalised(
            update, group["ns_coefficients"], num_steps=group["ns_steps"], eps=group["eps"]
        )
        ratio = _RATIOS[group["adjust_lr_fn"]](*matrix.shape)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-group["lr"] * ratio)


def _orthogonalised(
    matrix: Tensor, coefficients: tuple[float, float, float], *, num_steps: int, eps: float
) -> Tensor:
    """Return nearly U·Vᵀ of the matrix's decomposition U·S·Vᵀ, in bf16 as torch does."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    # The smaller of the two Gram matrices.
    x = x.T if is_tall else x
    # The iteration converges for singular values of at most 1.
    x = x / x.norm().clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
