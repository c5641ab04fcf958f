"""Learning-rate schedules: torch's schedulers drive a shadow optimizer; the warm-up multiplies.

SequentialLR refuses ReduceLROnPlateau and mangles OneCycleLR; a shadow with one dummy parameter a
group has neither fault, and the real rate is the shadow's times the warm-up factor. Groups that are
unfrozen later are in the shadow from the start, so that their rate is then where the run's is.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler

from ptkit.core.config.dependents import one_cycle
from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.errors import UsageError
from ptkit.core.parts.argument_rules import ABOVE_0
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.part import Part
from ptkit.core.training.optimization.parameter_groups import Group
from ptkit.core.training.optimization.schedule_arguments import (
    arguments_by_group,
    arguments_of_run,
    check_length,
)
from ptkit.core.wording import counted, nearest, reason_of

_ROWS = {
    "StepLR": ("epoch", "times gamma every step_size epochs"),
    "MultiStepLR": ("epoch", "times gamma at each milestone"),
    "ExponentialLR": ("epoch", "times gamma every epoch"),
    "CosineAnnealingLR": ("step", "half a cosine down to eta_min (Loshchilov and Hutter 2017)"),
    "ReduceLROnPlateau": (
        "epoch",
        "times factor when the validation loss or another metric stops improving",
    ),
    "LambdaLR": (
        "epoch",
        'a factor of the epoch: LambdaLR("0.95 ** epoch") or LambdaLR("module:function")',
    ),
    "OneCycleLR": ("step", "up to max_lr and down far below (Smith and Topin 2018)"),
    "CosineAnnealingWarmRestarts": ("epoch", "cosine that starts again every T_0 epochs"),
    "LinearLR": ("step", "linear between two factors"),
    "PolynomialLR": ("step", "polynomial down to zero"),
}
SCHEDULERS = Catalogue(
    "schedule",
    {
        name: Part(f"torch.optim.lr_scheduler:{name}", text, supplied=frozenset({"optimizer"}))
        for name, (_, text) in _ROWS.items()
    }
    | {
        "WarmupCosineLR": Part(
            "ptkit.core.training.optimization.warmup_cosine:WarmupCosineLR",
            "up over warmup_epochs, then a cosine down; delay_epochs may be a list, one for each"
            " parameter group",
            supplied=frozenset({"optimizer", "epochs", "ticks_per_epoch"}),
        )
    },
)

# A call that gives one of these counts in epochs, as PyTorch's examples do.
_LENGTHS_IN_EPOCHS = {
    "CosineAnnealingLR": "T_max",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
}
_WARM_UP_THEMSELVES = ("OneCycleLR", "WarmupCosineLR")


class Schedule:
    """The rate of every parameter group, step by step.

    A "tick" is a step or an epoch, as `per` says. `set_rates` writes the current rates (and the
    momentum, where the schedule cycles it) into the optimizer's groups.
    """

    def __init__(
        self, scheduler: Any, shadow: Optimizer, *, per: str, metric: str, warmup_steps: int | None
    ) -> None:
        self._scheduler, self._shadow = scheduler, shadow
        self.per, self.metric = per, metric
        self.warms_up_itself, self.warmup_steps = warmup_steps is None, warmup_steps or 0
        self.num_steps = 0
        self._cycles_momentum = bool(getattr(scheduler, "cycle_momentum", False))
        self._shadows = {_name(group, k): group for k, group in enumerate(shadow.param_groups)}

    @property
    def is_own(self) -> bool:
        """Whether the scheduler is the user's, whose state may have any form."""
        module = type(self._scheduler).__module__
        return self._scheduler is not None and not module.startswith(("torch.", "ptkit."))

    @property
    def warmup_text(self) -> str:
        """The warm-up in words."""
        if self.warms_up_itself:
            return "with its own warm-up"
        steps = counted(self.warmup_steps, "step")
        return f"warm-up {steps}" if self.warmup_steps else "no warm-up"

    def set_rates(self, optimizer: Any) -> None:
        """Give every group of `optimizer` its rate for the coming step.

        Raises:
            UsageError: the schedule gives a rate that is below 0 or infinite.
        """
        factor = min(1.0, (self.num_steps + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        for index, group in enumerate(optimizer.param_groups):
            shadow = self._shadows[_name(group, index)]
            # Rounding may leave a cosine an ulp below zero.
            if not -1e-12 <= shadow["lr"] < math.inf:
                raise UsageError(
                    f"after step {self.num_steps} the schedule gives the rate {shadow['lr']:g}"
                )
            group["lr"] = shadow["lr"] * factor
            if self._cycles_momentum:
                _set_momentum(group, shadow)

    def peaks(self, optimizer: Any) -> list[float]:
        """Return the highest rate of every group of `optimizer`, before its first step: its own, or
        what OneCycleLR has for it as max_lr.
        """
        return [
            self._shadows[_name(group, index)].get("max_lr", group["lr"])
            for index, group in enumerate(optimizer.param_groups)
        ]

    def rates(self, optimizer: Any) -> dict[str, float]:
        """Return the rate that every group of `optimizer` has now, by the group's name."""
        return {
            _name(group, k): float(group["lr"]) for k, group in enumerate(optimizer.param_groups)
        }

    def after_step(self) -> None:
        """Count an optimizer step."""
        self.num_steps += 1
        if self.per == "step" and self._scheduler is not None:
            self._tick()

    def after_epoch(self, *, valid_loss: float, metrics: Mapping[str, float]) -> None:
        """Count an epoch, with the values that ReduceLROnPlateau may watch."""
        if self.per != "epoch" or self._scheduler is None:
            return
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(valid_loss if self.metric == "loss" else metrics[self.metric])
        else:
            self._tick()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, enough to resume exactly."""
        inner = {} if self._scheduler is None else _plain(self._scheduler.state_dict())
        groups = [
            {k: v for k, v in group.items() if k != "params"} for group in self._shadow.param_groups
        ]
        return {
            "num_steps": self.num_steps,
            "warmup_steps": self.warmup_steps,
            "scheduler": inner,
            "groups": _plain(groups),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load_steps(state)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        for group, saved in zip(self._shadow.param_groups, state["groups"], strict=True):
            group.update(saved)

    def resume_from(self, state: dict[str, Any], *, epochs_done: int) -> None:
        """Advance to where a schedule of another length is after as many steps and epochs."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self.load_state_dict(state)
            return
        self._load_steps(state)
        for _ in range(self.num_steps if self.per == "step" else epochs_done):
            if self._scheduler is not None:
                self._tick()

    def _load_steps(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        # A share of a longer run would be more steps, and begin to warm up again.
        self.warmup_steps = state.get("warmup_steps", self.warmup_steps)

    def _tick(self) -> None:
        try:
            self._scheduler.step()
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UsageError(
                f"the schedule stopped after step {self.num_steps}: {reason_of(error)}"
            ) from error


def build_schedule(
    asked: SchedulerSettings,
    optimizer: Any,
    *,
    epochs: int,
    steps_per_epoch: int,
    metric_modes: Mapping[str, str] = {"accuracy": "max"},
) -> Schedule:
    """Return the schedule that the settings ask for.

    optimizer: has the parameter groups, those that are unfrozen later included.
    per: "step", "epoch", or "auto": a step where the run gives the length, an epoch where the call
        does. warmup: share of the run over which the rate rises linearly, or steps if above 1.
    metric: watched by ReduceLROnPlateau: "loss" or a key of `metric_modes`, which says whether
        "max" or "min" of each metric is best.

    Raises:
        UsageError: unknown name or argument, or one that does not fit the run.
    """
    per, metric = asked.per, asked.metric
    warmup_steps = warmup_steps_of(asked.warmup, epochs * steps_per_epoch)
    shadow = _shadow_of(optimizer)
    if asked.call.strip() == "none":
        _check_metric("none", metric, metric_modes, is_watched=False)
        return Schedule(None, shadow, per="epoch", metric=metric, warmup_steps=warmup_steps)
    call = parse(asked.call)
    part = SCHEDULERS.find(call)
    # None, where a part takes it, is what is left out.
    given = {k: v for k, v in SCHEDULERS.bind(call, part).items() if v is not None}
    target = part.load()
    is_plateau = isinstance(target, type) and issubclass(target, lr_scheduler.ReduceLROnPlateau)
    _check_metric(call.name, metric, metric_modes, is_watched=is_plateau)
    if per == "auto":
        per = _usual_tick(call, given)
    if is_plateau and per == "step":
        raise call.error(f"{call.name} watches the validation metric, which is known once an epoch")
    length = {"epochs": epochs, "ticks_per_epoch": steps_per_epoch if per == "step" else 1}
    supplied: dict[str, Any] = {"optimizer": shadow} | arguments_of_run(
        call, given, shadow.param_groups, **length
    )
    if is_plateau:
        best = "min" if metric == "loss" else metric_modes[metric]
        if given.get("mode", best) != best:
            raise call.error(
                f"the best {metric} is the {best}imum: leave mode out, or set scheduler.metric",
                "mode",
            )
        supplied["mode"] = best
    by_group = {} if call.prefix else arguments_by_group(call, given, shadow.param_groups, **length)
    fixed = {k: v for k, v in given.items() if k not in by_group}
    scheduler = _built(call, fixed, supplied | by_group)
    check_length(call, scheduler, ticks=epochs * length["ticks_per_epoch"])
    has_own = call.name in _WARM_UP_THEMSELVES and not call.prefix
    return Schedule(
        scheduler, shadow, per=per, metric=metric, warmup_steps=None if has_own else warmup_steps
    )


def rate_of_run(
    asked: SchedulerSettings, *, lr: float | None, is_scaled: bool = False
) -> float | None:
    """Return the rate of a run: what OneCycleLR has as max_lr, the largest of several, else `lr`.

    is_scaled: the rate is for another batch size.

    Raises:
        UsageError: a max_lr that would have to be scaled.
    """
    found = one_cycle(asked.call)
    given = None if found is None else found["max_lr"]
    rates = given if isinstance(given, list | tuple) else [given]
    # What is no rate is refused where the schedule is built.
    if not rates or not all(map(ABOVE_0.check, rates)):
        return lr
    if is_scaled:
        raise UsageError(
            f"optimizer.lr_per scales a rate, and the max_lr of {asked.call} stays what it is: give"
            " it as --lr"
        )
    return float(max(rates))


def warmup_steps_of(warmup: float, num_steps: int) -> int:
    """Return the steps of `scheduler.warmup` in a run of so many."""
    return round(warmup * num_steps) if warmup <= 1 else min(round(warmup), num_steps // 2)


def _shadow_of(optimizer: Any) -> Optimizer:
    """Return an optimizer with a dummy parameter for each group, at its rate and momentum."""
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        own = {key: group[key] for key in ("momentum", "betas", "family") if key in group}
        dummy = torch.nn.Parameter(torch.zeros(()))
        groups.append({"params": [dummy], "lr": group["lr"], "name": _name(group, index), **own})
    kind = torch.optim.Adam if any("betas" in group for group in groups) else torch.optim.SGD
    return kind(groups, lr=groups[0]["lr"])


def _name(group: Group, index: int) -> str:
    return str(group.get("name", f"group {index}"))


def _set_momentum(group: Group, shadow: Group) -> None:
    """Give a group the shadow's momentum, which may have another name there."""
    momentum = shadow["betas"][0] if "betas" in shadow else shadow["momentum"]
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    elif "momentum" in group:
        group["momentum"] = momentum


def _check_metric(name: str, metric: str, modes: Mapping[str, str], *, is_watched: bool) -> None:
    known = ("loss", *modes)
    if metric not in known:
        hint = nearest(metric, known)
        raise UsageError(
            f"scheduler.metric must be one of {', '.join(known)}, found {metric!r}{hint}"
        )
    if metric != "loss" and not is_watched:
        raise UsageError(
            f"scheduler.metric={metric} has no effect: only ReduceLROnPlateau watches a metric, not"
            f" {name}"
        )


def _usual_tick(call: Call, given: Mapping[str, Any]) -> str:
    if call.prefix or _LENGTHS_IN_EPOCHS.get(call.name) in given:
        return "epoch"
    return "step" if call.name == "WarmupCosineLR" else _ROWS[call.name][0]


def _built(call: Call, given: Mapping[str, Any], supplied: Mapping[str, Any]) -> Any:
    plain = Call(call.name, kwargs=given, prefix=call.prefix, source=call.source, spots=call.spots)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        scheduler = SCHEDULERS.build(plain, supplied=supplied)
    if not isinstance(scheduler, lr_scheduler.LRScheduler):
        raise call.error(
            f"{call.name} is not a schedule: it must be an LRScheduler of torch that takes the"
            " optimizer"
        )
    # The shadow never steps; without this mark torch warns of a missing step.
    supplied["optimizer"]._opt_called = True
    if call.prefix:
        _check_state(call, _plain(scheduler.state_dict()))
    return scheduler


def _check_state(call: Call, value: Any) -> None:
    """Refuse a state that a checkpoint cannot hold, before the run that could not resume."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _check_state(call, item)
    elif not isinstance(value, int | float | str | torch.Tensor | None):
        raise call.error(
            f"the state of {call.name} holds a {type(value).__name__}, which a checkpoint cannot"
            " hold"
        )


def _plain(value: Any) -> Any:
    """Return containers of plain values, without the functions in a scheduler's state."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
