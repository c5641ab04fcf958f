"""The rates that a schedule gives, without training."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.optimization.schedule_arguments import PER_GROUP
from ptkit.core.training.optimization.schedules import SCHEDULERS, Schedule, build_schedule

# Enough for a smooth curve; more steps an epoch change nothing visible.
_STEPS_PER_EPOCH, _MAX_STEPS = 100, 20_000

Rates = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preview:
    """The rates of a run's groups over its epochs.

    call: the schedule's. per: "step" or "epoch". epochs: (N,), where in the run each step begins.
    rates, plain_rates: (N, groups), with and without the warm-up, as multiples of a group's own
    rate. notes: how to read them.
    """

    call: str
    per: str
    epochs: Rates
    rates: Rates
    plain_rates: Rates
    notes: tuple[str, ...]


def preview_schedule(text: str, *, epochs: int) -> Preview:
    """Return the rates of a call in a run of `epochs` epochs, with the usual warm-up before.

    There are as many parameter groups as its lists have items, else one.

    Raises:
        UsageError: unknown name or argument, or one that does not fit such a run.
    """
    call = parse(text)
    named = SCHEDULERS.named(call) if call.name in SCHEDULERS.parts and not call.prefix else call
    num_groups, steps_per_epoch = _num_groups(named), _steps_per_epoch(named, epochs)
    warmup = SchedulerSettings().warmup
    found = []
    for share in (warmup, 0.0):
        optimizer = _optimizer(num_groups)
        asked = SchedulerSettings(call=text, warmup=share)
        schedule = build_schedule(asked, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)
        found.append(_rates(schedule, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch))
    times = np.arange(epochs * steps_per_epoch) / steps_per_epoch
    notes = _notes(named, schedule, warmup_epochs=warmup * epochs)
    return Preview(str(call), schedule.per, times, found[0], found[1], notes)


def _rates(
    schedule: Schedule, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int
) -> Rates:
    rates = np.empty((epochs * steps_per_epoch, len(optimizer.param_groups)))
    for step in range(len(rates)):
        schedule.set_rates(optimizer)
        rates[step] = [group["lr"] for group in optimizer.param_groups]
        schedule.after_step()
        if (step + 1) % steps_per_epoch == 0:
            # A constant loss makes ReduceLROnPlateau lower the rate.
            schedule.after_epoch(valid_loss=1.0, metrics={})
    return rates


def _optimizer(num_groups: int) -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(()))], "name": f"group {number}"}
        for number in range(1, num_groups + 1)
    ]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def _num_groups(call: Call) -> int:
    values = (value for key, value in call.kwargs.items() if key in PER_GROUP.get(call.name, ()))
    lengths = {len(value) for value in values if isinstance(value, list | tuple)}
    if len(lengths) > 1:
        raise call.error(
            "lists with one item for each parameter group must be of one length, found"
            f" {sorted(lengths)}"
        )
    if lengths == {0}:
        raise call.error("a list with one item for each parameter group cannot be empty")
    return max(lengths, default=1)


def _steps_per_epoch(call: Call, epochs: int) -> int:
    """Return how many steps an epoch is drawn with: those that the call names, else enough."""
    given = call.kwargs.get("steps_per_epoch")
    total = call.kwargs.get("total_steps")
    if type(given) is int and given > 0:
        num_steps = given
    elif call.name == "OneCycleLR" and type(total) is int and total > 0:
        num_steps = max(total // epochs, 1)
    else:
        num_steps = max(min(_STEPS_PER_EPOCH, _MAX_STEPS // epochs), 1)
    if num_steps * epochs > 10 * _MAX_STEPS:
        raise UsageError(
            f"{num_steps * epochs:,} steps are too many to draw: at most {10 * _MAX_STEPS:,}"
        )
    return num_steps


def _notes(call: Call, schedule: Schedule, *, warmup_epochs: float) -> tuple[str, ...]:
    notes = ["Stepped once an epoch." if schedule.per == "epoch" else "Stepped every step."]
    if not schedule.warms_up_itself:
        notes[0] += (
            f" Dashed: without the warm-up over the first {warmup_epochs:g} epochs"
            " (scheduler.warmup)."
        )
    if call.name == "ReduceLROnPlateau":
        notes.append("Shown for a validation loss that never improves.")
    absolute = [key for key in ("eta_min", "min_lr", "max_lr") if key in call.kwargs]
    if absolute:
        notes.append(
            f"{' and '.join(absolute)} is a rate itself: shown for groups whose own rate is 1."
        )
    return tuple(notes)
