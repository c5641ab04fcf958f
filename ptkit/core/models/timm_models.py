"""timm's models, where timm is installed."""

import inspect
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ptkit.core.parts.calls import Call
from ptkit.core.parts.catalogue import REFUSALS, STUMBLES
from ptkit.core.sizes import Sides
from ptkit.core.wording import first_of, nearest, reason_of

INSTALL = "pip install 'ptkit[timm]'"
# Arguments that name weights; a model here always starts fresh.
WEIGHT_ARGUMENTS = ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def is_installed() -> bool:
    """Return whether timm can be imported."""
    try:
        import timm  # noqa: F401
    except ImportError:
        return False
    return True


def names() -> list[str]:
    """Return the names of timm's models."""
    import timm

    return list(timm.list_models())


def tagged_names() -> list[str]:
    """Return `NAME.TAG` of all pretrained weights that timm knows."""
    import timm

    return list(timm.list_pretrained())


def check_name(call: Call) -> None:
    """Refuse a model that timm does not have, or a tag that this model does not have.

    Raises:
        UsageError: timm is missing, or has no such model or tag; the message has the nearest one.
    """
    try:
        import timm
    except ImportError as error:
        raise call.error(f"timm's models need timm ({error}): {INSTALL}") from error
    if not timm.is_model(call.name):
        raise call.error(f"timm has no model {call.name}{nearest(call.name, names())}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(call.name)]
    if call.tag and call.tag not in tags:
        known = first_of(tags, 8) or "none"
        hint = nearest(call.tag, tags) or f"; it has: {known}"
        raise call.error(f"timm has no weights {call.tag} of {call.name}{hint}")


def config_of(call: Call) -> Any:
    """Return what timm says of a model's weights, those of its tag or else the usual ones, and of
    the images that they take: its PretrainedCfg.
    """
    import timm

    return timm.get_pretrained_cfg(replace(call, prefix="").full_name)


def usual_size(call: Call) -> int:
    """Return the side in pixels that timm describes a model with."""
    return int(config_of(call).input_size[-1])


def settled(call: Call, size: int | Sides | None, channels: int | None) -> Mapping[str, Any]:
    """Return what the call leaves open: `img_size` of a model of one size that is to be built for
    another, `in_chans` where the images have not three channels.
    """
    # Without its tag: so it is when the model is built.
    config = config_of(replace(call, tag=""))
    wanted: dict[str, Any] = {"in_chans": channels} if channels not in (None, 3) else {}
    if config.fixed_input_size and size not in (None, config.input_size[-1]):
        wanted["img_size"] = size
    return {key: value for key, value in wanted.items() if key not in call.kwargs}


def create(call: Call, *, num_classes: int) -> Any:
    """Build a model with fresh weights.

    Raises:
        UsageError: an argument that this model does not take, or a value that it refuses.
    """
    import timm

    parameters = check_arguments(call)
    try:
        return timm.create_model(
            call.name, pretrained=False, num_classes=num_classes, **call.kwargs
        )
    # timm passes arguments on unchecked, so a wrong one may raise anything.
    except (*REFUSALS, *STUMBLES) as error:
        # Python 3.13 adds a hint of its own.
        reason = reason_of(error).partition(". Did you mean")[0]
        wrong = next((key for key in call.kwargs if f"'{key}'" in reason), "")
        hint = nearest(wrong, parameters) if "unexpected keyword" in reason else ""
        raise call.error(f"timm: {reason}{hint}", wrong) from error


def check_arguments(call: Call) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a model's class, as far as timm says which class it is.

    Raises:
        UsageError: text for a number, or a number for True or False, as timm notices neither; an
            argument without its name.
    """
    from timm.models import model_entrypoint

    if call.args:
        raise call.error("timm's models take their arguments by name only", 0)
    model_class = typing.get_type_hints(model_entrypoint(call.name)).get("return")
    parameters = {} if model_class is None else inspect.signature(model_class).parameters
    for key, value in call.kwargs.items():
        default = parameters[key].default if key in parameters else None
        if isinstance(default, bool) and not isinstance(value, bool | None):
            raise call.error(f"{call.name}: {key} must be True or False, found {value!r}", key)
        if isinstance(default, int | float) and isinstance(value, str):
            raise call.error(f"{call.name}: {key} must be a number, found {value!r}", key)
    return parameters
