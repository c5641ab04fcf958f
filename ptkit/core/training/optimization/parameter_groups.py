"""Parameter groups: from `--group` lines and rates by layer to what an optimizer takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models.selectors import matching_parameters
from ptkit.core.parts.argument_rules import AT_LEAST_0
from ptkit.core.parts.calls import parse, split_selector
from ptkit.core.wording import nearest

Group = dict[str, Any]

# Entries of a group that are not options of the optimizer. A family is what the user calls one
# group: norms and biases, which get no weight decay, and the parameters of a companion optimizer
# belong to the family of the others.
NOT_OPTIONS = frozenset({"params", "name", "family"})


@dataclass(frozen=True)
class GroupLine:
    """One `SELECTOR: ...` line: options for the parameters that match, or when they train.

    unfreeze: the first epoch in which they train, counted from 1; None where the line does not say.
    """

    selector: str
    options: dict[str, Any] = field(default_factory=dict)
    lr_factor: float | None = None
    is_frozen: bool = False
    is_excluded: bool = False
    unfreeze: int | None = None


@dataclass
class ParameterPlan:
    """The settings of one parameter.

    options: its own, over those of the optimizer's call. first_epoch: when it starts to train; None
    for never. layer: its place and rate in words, where the rate comes from the layer.
    """

    options: dict[str, Any] = field(default_factory=dict)
    first_epoch: int | None = 1
    is_excluded: bool = False
    layer: str = ""

    def follow(self, line: GroupLine, *, lr: float) -> None:
        """Apply a line; lr: of the run."""
        if line.is_frozen or line.is_excluded:
            self.first_epoch, self.is_excluded = None if line.is_frozen else 1, line.is_excluded
            return
        gives_rate = line.lr_factor is not None or "lr" in line.options
        if line.unfreeze is not None:
            self.first_epoch, self.is_excluded = line.unfreeze, False
        # A rate implies training; other options leave a frozen parameter frozen.
        elif gives_rate:
            self.first_epoch, self.is_excluded = self.first_epoch or 1, False
        if gives_rate:
            self.layer = ""
        self.options |= line.options
        if line.lr_factor is not None:
            self.options["lr"] = lr * line.lr_factor


def parse_group(line: str) -> GroupLine:
    """Read `SELECTOR: lr=10x, weight_decay=0`, `SELECTOR: unfreeze=5` or `SELECTOR: frozen`.

    `excluded` takes the place of `frozen`.

    Raises:
        UsageError: not of that form.
    """
    selector, rest = split_selector(line, ":")
    if rest in ("frozen", "excluded"):
        return GroupLine(selector, is_frozen=rest == "frozen", is_excluded=rest == "excluded")
    if "=" not in rest:
        raise UsageError(
            f"--group {line!r}: expected lr=..., weight_decay=..., unfreeze=..., frozen or"
            f" excluded, found {rest!r}{nearest(rest, ['frozen', 'excluded', 'unfreeze'])}"
        )
    factor, plain = None, []
    # At commas outside brackets, so that betas=(0.9, 0.99) stays whole.
    for item in re.split(r",(?![^(\[]*[)\]])", rest):
        key, _, value = (part.strip() for part in item.partition("="))
        if key != "lr" or not value.endswith("x"):
            plain.append(item)
            continue
        try:
            factor = float(value[:-1])
        except ValueError:
            raise UsageError(
                f"--group {line!r}: expected a rate such as lr=0.01 or lr=10x, found lr={value}"
            ) from None
    try:
        call = parse(f"group({', '.join(filter(str.strip, plain))})")
    except UsageError:
        raise UsageError(
            f"--group {line!r}: expected options such as lr=0.01, lr=10x, weight_decay=0,"
            f" unfreeze=5, or frozen or excluded alone, found {rest!r}"
        ) from None
    if call.args:
        raise UsageError(f"--group {line!r}: expected key=value, found {call.args[0]}")
    options = dict(call.kwargs)
    unfreeze = options.pop("unfreeze", None)
    _check_values(line, options, factor=factor, unfreeze=unfreeze)
    return GroupLine(selector, options, factor, unfreeze=unfreeze)


def plan_parameters(
    model: nn.Module, lines: Sequence[str], *, lr: float, layer_decay: float | None = None
) -> dict[str, ParameterPlan]:
    """Merge the rates by layer and all lines that match each parameter; later lines win by key.

    layer_decay: rate of a layer as a multiple of the next one's; the last layer has the run's rate.

    Raises:
        UsageError: a line that cannot be read or that matches nothing.
    """
    plans = {name: ParameterPlan() for name, _ in model.named_parameters()}
    if layer_decay is not None and layer_decay != 1:
        _set_rates_by_layer(plans, model, lr=lr, decay=layer_decay)
    for line in map(parse_group, lines):
        for name in matching_parameters(model, line.selector):
            plans[name].follow(line, lr=lr)
    return plans


def make_groups(
    model: nn.Module, plans: dict[str, ParameterPlan], *, spares_1d: bool
) -> dict[int, list[Group]]:
    """Put parameters with the same options into one group, named after these options.

    Returns the groups by the first epoch in which they train, in order; "params" are (name,
    parameter) pairs.
    spares_1d: parameters of at most one dimension get no weight decay unless a line gives them one.
    """
    groups: dict[str, Group] = {}
    epochs: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        plan = plans[name]
        if plan.first_epoch is None or plan.is_excluded:
            continue
        own = dict(plan.options)
        if spares_1d and parameter.ndim <= 1:
            own.setdefault("weight_decay", 0.0)
        group_name, family = _name(plan, own), _name(plan, plan.options)
        groups.setdefault(group_name, {**own, "params": [], "name": group_name, "family": family})
        groups[group_name]["params"].append((name, parameter))
        epochs[group_name] = plan.first_epoch
    return {
        epoch: [groups[name] for name in groups if epochs[name] == epoch]
        for epoch in sorted({*epochs.values()})
    }


def _set_rates_by_layer(
    plans: dict[str, ParameterPlan], model: nn.Module, *, lr: float, decay: float
) -> None:
    """Decay the rate from the head down (Howard and Ruder 2018, "discriminative fine-tuning")."""
    from ptkit.core.models.layers import parameters_by_layer

    layers = parameters_by_layer(model)
    for number, names in enumerate(layers, start=1):
        factor = decay ** (len(layers) - number)
        for name in names:
            plans[name].options["lr"] = lr * factor
            plans[name].layer = f"layer {number} of {len(layers)}, lr={factor:.3g}x"


def _name(plan: ParameterPlan, options: dict[str, Any]) -> str:
    """Return a name that no group with other options has."""
    words = [f"from epoch {plan.first_epoch}"] if plan.first_epoch != 1 else []
    words += [plan.layer] if plan.layer else []
    for key, value in sorted(options.items()):
        # A rate by layer is in the layer's words.
        if not (plan.layer and key == "lr"):
            words.append(
                f"{key}={value:.12g}" if isinstance(value, int | float) else f"{key}={value}"
            )
    return ", ".join(words) or "all"


def _check_values(line: str, options: Group, *, factor: float | None, unfreeze: Any) -> None:
    if refused := NOT_OPTIONS & options.keys():
        raise UsageError(f"--group {line!r}: no optimizer has an option {min(refused)}")
    for key in ("lr", "weight_decay"):
        value = options.get(key, 1.0)
        if not AT_LEAST_0.check(value):
            raise UsageError(
                f"--group {line!r}: {key} must be a number of at least 0, found {value!r}"
            )
    if factor is not None and not 0 <= factor < float("inf"):
        raise UsageError(f"--group {line!r}: lr must be at least 0, found {factor:g}x")
    if unfreeze is not None and (type(unfreeze) is not int or unfreeze < 1):
        raise UsageError(
            f"--group {line!r}: unfreeze must be an epoch, counted from 1, found {unfreeze!r}"
        )
