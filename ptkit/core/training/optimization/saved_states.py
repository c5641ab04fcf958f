"""A saved state of an optimizer or a schedule against that of the run it is put into: checked
before any of it is loaded, as kernels that step several tensors at once trust their shapes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ptkit.core.sharding import part_like

# What states hold beside tensors.
_PLAIN = (int, float, str, list, type(None))
# Options of a group that say by which kernels it is stepped, and where: the run has its own.
_KERNELS = frozenset({"fused", "foreach", "capturable"})


def fault_of_optimizer(
    saved: Mapping[str, Any], optimizer: Any, *, is_own: bool = False
) -> str | None:
    """Say what of a saved optimizer's state does not fit its parameters, if anything.

    A state's tensors have the shape of their parameter, or 1 in the place of some sides
    (Adafactor), or are one number (a step), or all parameters in one piece (L-BFGS).
    is_own: the optimizer is the user's, whose states may have any shape.
    """
    parts, own_parts = saved.get("parts", []), getattr(optimizer, "parts", [])
    if len(parts) != len(own_parts):
        return f"it has {len(parts)} optimizers, the run {len(own_parts)}"
    if parts:
        return next(filter(None, map(fault_of_optimizer, parts, own_parts)), None)
    groups, own_groups = saved.get("param_groups", []), optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own_groups]:
        return "its groups have other parameters"
    if is_own:
        return None
    parameters = [parameter for group in own_groups for parameter in group["params"]]
    names = [number for group in groups for number in group["params"]]
    total = sum(parameter.numel() for parameter in parameters)
    for number, state in saved.get("state", {}).items():
        if number not in names:
            return f"its state is of a parameter {number}, which there is not"
        shape = tuple(parameters[names.index(number)].shape)
        for key, value in state.items():
            if fault := _fault_of_state(value, shape, total):
                return f"the {key[:40]} of its parameter {number} {fault}"
    return next(filter(None, map(_fault_of_group, groups, own_groups)), None)


def state_for(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state as this optimizer loads it: with this rank's part of each tensor, and
    its own choice of kernels.
    """
    if "state" not in state:
        return state
    own = optimizer.param_groups
    parameters = [each for group in own for each in group["params"]]
    groups = [
        saved | {key: group[key] for key in _KERNELS & group.keys()}
        for saved, group in zip(state["param_groups"], own, strict=True)
    ]
    return {"state": _parts(state["state"], parameters), "param_groups": groups}


def _parts(state: Mapping[int, Any], parameters: Sequence[Tensor]) -> dict[int, Any]:
    return {
        number: {
            # Others are counts of steps.
            key: part_like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for key, value in of_one.items()
        }
        for number, of_one in state.items()
    }


def fault_unlike(saved: Any, own: Any, name: str) -> str | None:
    """Say where a saved value is of another kind than the run's own, if anywhere."""
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping):
            return f"{name} is a {type(saved).__name__}"
        both = [key for key in own if key in saved]
        faults = (fault_unlike(saved[key], own[key], f"{name}.{key}") for key in both)
        return next(filter(None, faults), None)
    if isinstance(own, Sequence) and not isinstance(own, str):
        if not isinstance(saved, Sequence) or len(saved) != len(own):
            return f"{name} is not a list of {len(own)}"
        pairs = enumerate(zip(saved, own, strict=True))
        faults = (fault_unlike(*pair, f"{name}[{k}]") for k, pair in pairs)
        return next(filter(None, faults), None)
    if isinstance(own, bool | str):
        return None if type(saved) is type(own) else f"{name} is a {type(saved).__name__}"
    if isinstance(own, int | float):
        is_number = type(saved) in (int, float) and not math.isnan(saved)
        return None if is_number else f"{name} is {str(saved)[:40]}, not a number"
    return None


def _fault_of_state(value: Any, shape: tuple[int, ...], total: int) -> str | None:
    if not isinstance(value, Tensor):
        return None if isinstance(value, _PLAIN) else f"is a {type(value).__name__}"
    if value.is_complex():
        return "is complex"
    of_sides = value.ndim == len(shape) and all(
        found in (1, side) for found, side in zip(value.shape, shape, strict=True)
    )
    if of_sides or value.numel() == 1 or (value.ndim == 1 and value.numel() == total):
        return None
    return f"has the shape {tuple(value.shape)}, the parameter {shape}"


def _fault_of_group(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    left_out = _KERNELS | {"params", "name"}
    plain = {key: value for key, value in own.items() if key not in left_out}
    return fault_unlike(saved, plain, "a group")
