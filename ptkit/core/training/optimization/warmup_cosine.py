"""Warm-up, then a cosine; each parameter group may start later."""

import math
from collections.abc import Callable, Sequence

import torch

Factor = Callable[[int], float]


class WarmupCosineLR(torch.optim.lr_scheduler.LambdaLR):
    """Raise the rate linearly over `warmup_epochs`, then lower it in half a cosine.

    All lengths are in epochs, whether it is stepped once an epoch or every step. The cosine
    begins at the group's own rate; after it the rate stays at its lowest (Loshchilov and Hutter
    2017).

    delay_epochs: before its delay a group's rate is 0; one number, or one for each parameter group.
    cosine_epochs: by default what is left of the run. min_factor: the lowest rate as a share of the
    group's own.
    epochs: of the run. ticks_per_epoch: how often it is stepped.

    Raises:
        ValueError: a length below 0, or a group whose cosine would begin after the run.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_epochs: float = 5,
        delay_epochs: float | Sequence[float] = 0,
        cosine_epochs: float | None = None,
        min_factor: float = 0.0,
        *,
        epochs: int,
        ticks_per_epoch: int = 1,
    ) -> None:
        if (
            warmup_epochs < 0
            or not 0 <= min_factor <= 1
            or (cosine_epochs is not None and cosine_epochs <= 0)
        ):
            raise ValueError(
                "warmup_epochs must be at least 0, cosine_epochs above 0, min_factor of 0..1"
            )
        if isinstance(delay_epochs, int | float):
            delay_epochs = [delay_epochs] * len(optimizer.param_groups)
        factors = []
        for delay in delay_epochs:
            left = epochs - delay - warmup_epochs
            if delay < 0 or left <= 0:
                raise ValueError(
                    f"a delay of {delay:g} and a warm-up of {warmup_epochs:g} epochs leave nothing"
                    f" for the cosine in a run of {epochs} epochs"
                )
            length = left if cosine_epochs is None else cosine_epochs
            lengths = (delay, warmup_epochs, length)
            factors.append(_factor(lengths, min_factor, ticks_per_epoch=ticks_per_epoch))
        super().__init__(optimizer, factors)


def _factor(lengths: tuple[float, float, float], lowest: float, *, ticks_per_epoch: int) -> Factor:
    delay, warmup, cosine = lengths

    def factor(tick: int) -> float:
        epoch = tick / ticks_per_epoch - delay
        # Lengths in epochs need not be whole steps: without the margin, rounding could start a tick
        # late.
        if epoch < -1e-9:
            return 0.0
        # The last tick of the ramp has the full rate, as in the warm-up before other schedules.
        if epoch + 1 / ticks_per_epoch <= warmup + 1e-9:
            return lowest + (1 - lowest) * min(1.0, (epoch + 1 / ticks_per_epoch) / warmup)
        share = min(max((epoch - warmup) / cosine, 0.0), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * share)) / 2

    return factor
