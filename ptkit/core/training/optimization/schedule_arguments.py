"""Arguments of a schedule that only the run knows, or that have one value for each group."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call
from ptkit.core.parts.catalogue import load_function
from ptkit.core.training.optimization.expressions import Expression
from ptkit.core.training.optimization.parameter_groups import Group

# Arguments that may be lists with one item a parameter group.
PER_GROUP = {
    "LambdaLR": ("lr_lambda",),
    "ReduceLROnPlateau": ("min_lr",),
    "OneCycleLR": ("max_lr", "base_momentum", "max_momentum"),
    "WarmupCosineLR": ("delay_epochs",),
}


def arguments_of_run(
    call: Call,
    given: Mapping[str, Any],
    groups: Sequence[Group],
    *,
    epochs: int,
    ticks_per_epoch: int,
) -> dict[str, Any]:
    """Return what the run fills in where the call leaves it out.

    given: the arguments of the call by name.
    """
    ticks = epochs * ticks_per_epoch
    found: dict[str, Any] = {
        "T_max": ticks,
        "total_iters": ticks,
        "max_lr": [group["lr"] for group in groups],
    }
    # OneCycleLR takes its length in either form.
    if "epochs" in given:
        found["steps_per_epoch"] = ticks_per_epoch
    elif "steps_per_epoch" in given or call.name == "WarmupCosineLR":
        found |= {"epochs": epochs, "ticks_per_epoch": ticks_per_epoch}
    else:
        found["total_steps"] = ticks
    if not any(key in group for group in groups for key in ("momentum", "betas")):
        found["cycle_momentum"] = False
    return found


def arguments_by_group(
    call: Call,
    given: Mapping[str, Any],
    groups: Sequence[Group],
    *,
    epochs: int,
    ticks_per_epoch: int,
) -> dict[str, Any]:
    """Return the arguments that are lists, with one value a group, and LambdaLR's functions.

    A list may also have one value for each group that the user made: parameters split off from it
    (norms and biases without weight decay, those of a companion optimizer) get the same value.

    Raises:
        UsageError: a list of another length, or a text that is not a function.
    """
    if call.name == "LambdaLR" and "lr_lambda" not in given:
        raise call.error(
            'LambdaLR needs a function: LambdaLR("0.95 ** epoch") or LambdaLR("module:function")'
        )
    if call.name == "OneCycleLR":
        _check_one_rate(call, given, groups)
    found: dict[str, Any] = {}
    for key in PER_GROUP.get(call.name, ()):
        value = given.get(key)
        if isinstance(value, list | tuple):
            found[key] = _for_each(call, key, values=value, groups=groups)
        elif key == "lr_lambda":
            found[key] = value
    if "lr_lambda" in found:
        texts = found["lr_lambda"]
        spot = "lr_lambda" if "lr_lambda" in call.spots else 0
        build = partial(
            _function, call=call, spot=spot, epochs=epochs, ticks_per_epoch=ticks_per_epoch
        )
        found["lr_lambda"] = list(map(build, texts)) if isinstance(texts, list) else build(texts)
    return found


def _for_each(call: Call, key: str, *, values: Sequence[Any], groups: Sequence[Group]) -> list[Any]:
    families = list(dict.fromkeys(_family(group) for group in groups))
    if len(values) == len(groups):
        return list(values)
    if len(values) == len(families):
        return [values[families.index(_family(group))] for group in groups]
    raise call.error(
        f"{key} has {len(values)} values for {len(families)} parameter groups:"
        f" {'; '.join(families)}",
        key if key in call.spots else 0,
    )


def _family(group: Group) -> str:
    return str(group.get("family", group.get("name")))


def _check_one_rate(call: Call, given: Mapping[str, Any], groups: Sequence[Group]) -> None:
    if isinstance(given.get("max_lr"), int | float) and len({group["lr"] for group in groups}) > 1:
        raise call.error(
            "max_lr would give all groups one rate, though they have different ones: leave it out,"
            " or give a list",
            "max_lr" if "max_lr" in call.spots else 0,
        )


def _function(
    text: Any, *, call: Call, spot: str | int, epochs: int, ticks_per_epoch: int
) -> Callable[[int], float]:
    if not isinstance(text, str):
        raise call.error(
            f"expected an expression in `epoch` or module:function, found {text!r}", spot
        )
    if ":" in text:
        function = load_function(text, call=call)
        if not callable(function):
            raise call.error(f"{text} is a {type(function).__name__}, not a function", spot)
        # A plain function: LambdaLR saves the attributes of callable objects in its state.
        return lambda tick: _checked_factor(function, tick, call=call, spot=spot)
    expression = Expression(text, call=call, spot=spot)
    for epoch in range(epochs):
        expression(epoch)
    return lambda tick: expression(tick / ticks_per_epoch)


def _checked_factor(
    function: Callable[[int], Any], tick: int, *, call: Call, spot: str | int
) -> float:
    try:
        return float(function(tick))
    except Exception as error:  # the user's function may raise anything
        raise call.error(
            f"the function failed at {tick}: {type(error).__name__}: {error}", spot
        ) from error


def check_length(call: Call, scheduler: Any, *, ticks: int) -> None:
    """Refuse a schedule that ends before the run, which PyTorch notices only at its end.

    Raises:
        UsageError: it has fewer steps than the run.
    """
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < ticks:
        raise UsageError(
            f"{call.name} is {total} steps long, but the run has {ticks}: leave its length out"
        )
