"""What each key of a checkpoint holds: compared before anything of it is used."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse

# A value fits a type; one of several; a list whose items fit; a dictionary of which all values fit
# (`str: ...`) or each named key does (`name?` may be absent, and others may be there); a test.
Schema = Any

# Newest images are smaller, and so are all models' inputs.
_LARGEST_SIDE = 1 << 16
# Of all whole numbers in the calls of a pipeline: an image of 8,192 by 8,192 floats is 805 MB.
LARGEST_SUM = 8192
_LONGEST_CALL = 4096
# Whole numbers of a model's call are about its widths and its depth, or small.
_SPARE = 4096
_LARGEST_FACTOR = 1000.0
_HOTTEST = 1000.0
# How many directions of features, and how many features, are looked at one by one.
_MOST_DIRECTIONS, _MOST_FEATURES = 1024, 1 << 16


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _finite(value: Any) -> bool:
    return _number(value) and math.isfinite(value)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _side(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_SIDE


def _positive(value: Any) -> bool:
    return _finite(value) and value > 0


def _heat(value: Any) -> bool:
    return _positive(value) and value <= _HOTTEST


def _threshold(value: Any) -> bool:
    # The float32 after 1, which no probability reaches, is the threshold of what is never answered.
    return _finite(value) and 0 <= value <= 1 + 2**-23


_EXPECTED: dict[Any, str] = {
    _number: "a number",
    _finite: "a finite number",
    _count: "a whole number, 0 or more",
    _side: f"a number of pixels up to {_LARGEST_SIDE:,}",
    _positive: "a number above 0",
    _heat: "a number above 0 and up to 1,000",
    _threshold: "a number of 0..1, or the next one above",
    Tensor: "a tensor",
    None: "nothing",
}
_ANY_DICT: Schema = {str: object}
_WEIGHTS: Schema = {str: Tensor}
_OPTIMIZER: Schema = {"state": {int: _ANY_DICT}, "param_groups": [{"params": [int]}]}
_SCHEDULE: Schema = {
    "num_steps?": _count,
    "scheduler?": (_ANY_DICT, None),
    "groups?": [_ANY_DICT],
}
# See core/calibration/strangers.py.
_UNKNOWN: Schema = {
    **dict.fromkeys(("mean", "basis", "class_means", "whitening", "variances"), Tensor),
    **dict.fromkeys(("limit", "distance_mean", "entropy_mean", "far_limit"), _finite),
    **dict.fromkeys(
        ("within_rest", "total_rest", "distance_std", "entropy_std", "far_spread"), _positive
    ),
}
SCHEMA: Schema = {
    "ptkit_version": str,
    "kind": str,
    "model": {"call": str, "num_classes": int},
    "classes": [str],
    "task": {
        "kind?": str,
        "activation": str,
        **dict.fromkeys(("scale?", "shift?", "class_means?", "counted?"), (Tensor, None)),
        "thresholds?": (Tensor, [_threshold], None),
        "temperature?": (_heat, None),
        "unknown?": (_UNKNOWN, None),
    },
    "pipeline": {
        "calls": [str],
        "tensors?": (_WEIGHTS, None),
        "alpha?": str,
        "size?": (_side, [_side], None),
        "channels?": (_side, None),
        "mean?": ([_finite], None),
        "std?": ([_positive], None),
    },
    "state_dict": _WEIGHTS,
    "metrics?": {"epoch?": (_finite, None), "best?": {str: (_number, str, None)}},
    "train?": {
        "epoch?": _count,
        "step?": _count,
        "step_in_epoch?": _count,
        "seconds?": _finite,
        "sums?": {str: _finite},
        "raw_state_dict?": _WEIGHTS,
        "num_averaged?": _count,
        # Of two optimizers side by side, one for each.
        "optimizer?": (_OPTIMIZER, {"parts": [_OPTIMIZER]}),
        "scheduler?": _SCHEDULE,
        "scaler?": _ANY_DICT,
        "best?": {str: (_number, str, None)},
        "epochs_without_better?": _count,
    },
    "data?": {
        "seed?": int,
        "list_sha256?": str,
        "valid_sha256?": str,
        "num_images?": _count,
        "image_hashes?": Tensor,
    },
    "env?": {str: (str, int, float, None)},
    "config?": {str: _ANY_DICT},
    # What `ptkit calibrate` has changed in the task, and what was there before.
    "calibration?": {"thresholds?": (Tensor, [_threshold], None)},
}  # fmt: skip
# What `ptkit export` writes into an ONNX file; its pipeline has no tensors.
ONNX_SCHEMA: Schema = {
    "format": _count,
    "kind": str,
    "class_names": [str],
    "thresholds?": ({str: _finite}, None),
    "temperature?": (_positive, None),
    "unknown_limit?": (_finite, None),
    "preprocessing": bool,
    "pipeline": SCHEMA["pipeline"],
}


def fault_of_keys(contents: Mapping[str, Any]) -> str | None:
    """Say which key of a checkpoint is missing or holds something else than it should, if any."""
    for key in SCHEMA:
        if not key.endswith("?") and key not in contents:
            return f"it has no {key}"
    if fault := fault_in(contents, SCHEMA, ""):
        return fault
    if not contents["classes"]:
        return "classes is empty"
    most = max(
        (len(tensor) for tensor in contents["state_dict"].values() if tensor.ndim), default=0
    )
    outputs = contents["model"]["num_classes"]
    if isinstance(outputs, bool) or not 1 <= outputs <= most:
        return f"model.num_classes is {outputs}, and its weights have at most {most} outputs"
    return None


def fault_of_values(contents: Mapping[str, Any]) -> str | None:
    """Say what of a checkpoint's values would fill the machine's memory or does not go together, if
    anything.
    """
    return fault_of_pipeline(contents["pipeline"]["calls"]) or _fault_of_task(contents)


def fault_of_pipeline(pipeline: Sequence[str]) -> str | None:
    """Say whether calls would make images that fill the machine's memory."""
    numbers = [number for text in pipeline for number in _numbers_in(text)]
    whole = sum(abs(number) for number in numbers if isinstance(number, int))
    if whole > LARGEST_SUM or max(map(len, pipeline), default=0) > _LONGEST_CALL:
        return "its pipeline makes larger images than any model takes"
    return None


def _fault_of_task(contents: Mapping[str, Any]) -> str | None:
    """Say which of the numbers that outputs are read with do not fit the classes, if any."""
    task, num_classes = contents["task"], len(contents["classes"])
    if fault := _fault_of_outputs(task, contents["model"]["num_classes"], num_classes):
        return fault
    before = contents.get("calibration", {}).get("thresholds")
    for name, values in (("task", task.get("thresholds")), ("calibration", before)):
        shape = tuple(values.shape) if isinstance(values, Tensor) else (len(values or ()),)
        if values is not None and shape != (num_classes,):
            return f"{name}.thresholds is for {shape} classes, expected ({num_classes},)"
    unknown = task.get("unknown")
    if unknown is None:
        return None
    wanted = {"mean": "D", "basis": "DR", "class_means": "KR", "whitening": "RR", "variances": "R"}
    sizes = {"D": _MOST_FEATURES, "R": _MOST_DIRECTIONS, "K": num_classes}
    found: dict[str, int] = {}
    for name, letters in wanted.items():
        tensor = unknown[name]
        if tensor.ndim != len(letters) or not tensor.is_floating_point():
            return f"task.unknown.{name} is not numbers of the shape ({', '.join(letters)})"
        for letter, size in zip(letters, tensor.shape, strict=True):
            if not 0 < size <= sizes[letter] or size != found.setdefault(letter, size):
                return f"task.unknown.{name} has {size:,} for {letter}, which does not fit"
        if not bool(tensor.isfinite().all()):
            return f"task.unknown.{name} is not finite"
    return (
        None if bool((unknown["variances"] > 0).all()) else "task.unknown.variances has no spread"
    )


def _fault_of_outputs(task: Mapping[str, Any], num_outputs: int, num_classes: int) -> str | None:
    # A point has as many numbers as one likes.
    if task.get("kind") != "embedding" and num_classes != num_outputs:
        return f"it has {num_classes} classes, and its model {num_outputs} outputs"
    shapes = {"scale": (num_outputs,), "shift": (num_outputs,), "counted": (num_classes,)}
    for name, shape in {**shapes, "class_means": (num_classes, num_outputs)}.items():
        if (tensor := task.get(name)) is None:
            continue
        is_of_kind = tensor.dtype == torch.bool if name == "counted" else tensor.is_floating_point()
        if not is_of_kind or tuple(tensor.shape) != shape:
            found = f"{tensor.dtype} of the shape {tuple(tensor.shape)}".removeprefix("torch.")
            return f"task.{name} is {found}, which does not fit: expected the shape {shape}"
    return None


def fault_of_call(call: Call, state_dict: Mapping[str, Tensor]) -> str | None:
    """Say why a call is not of the model that these weights are of, by its numbers alone: a few
    letters can ask for a million layers.
    """
    widest = max((max(tensor.shape, default=0) for tensor in state_dict.values()), default=0)
    numbers = list(_numbers_of(call))
    whole = sum(abs(number) for number in numbers if isinstance(number, int))
    factor = max((abs(number) for number in numbers if isinstance(number, float)), default=0.0)
    if whole > 4 * (widest + len(state_dict)) + _SPARE or not factor <= _LARGEST_FACTOR:
        return "has larger numbers than its weights have parameters to go with"
    return None


def _numbers_in(text: str) -> Iterator[int | float]:
    try:
        yield from _numbers_of(parse(text[: _LONGEST_CALL + 1]))
    except UsageError:
        # What cannot be read is refused where it is used.
        return


def _numbers_of(value: Any) -> Iterator[int | float]:
    if isinstance(value, Call):
        yield from _numbers_of([*value.args, *value.kwargs.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers_of(part)
    elif _number(value):
        yield value


def fault_in(value: Any, schema: Schema, name: str = "") -> str | None:
    """Say where a value is something else than its schema has it, if anywhere."""
    if isinstance(schema, tuple):
        faults = [fault_in(value, one, name) for one in schema]
        return None if None in faults else faults[0]
    if isinstance(schema, dict):
        return _fault_of_dict(value, schema, name)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return _wrong(value, list, name)
        parts = enumerate(value)
        return next(filter(None, (fault_in(v, schema[0], f"{name}[{k}]") for k, v in parts)), None)
    return None if _fits(value, schema) else _wrong(value, schema, name)


def _fault_of_dict(value: Any, schema: dict[Any, Schema], name: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, dict, name)
    before = f"{name}." if name else ""
    for key, inner in schema.items():
        if isinstance(key, type):
            for found, part in value.items():
                if type(found) is not key:
                    return f"{name} has the key {str(found)[:80]!r}, expected {key.__name__}"
                if fault := fault_in(part, inner, f"{before}{str(found)[:80]}"):
                    return fault
            continue
        plain = key.removesuffix("?")
        is_there = plain in value or plain == key
        if is_there and (fault := fault_in(value.get(plain), inner, before + plain)):
            return fault
    return None


def _fits(value: Any, schema: type | Callable[[Any], bool] | None) -> bool:
    if schema is None:
        return value is None
    # True is an int to Python.
    return (
        isinstance(value, schema) and not (schema is int and isinstance(value, bool))
        if isinstance(schema, type)
        else schema(value)
    )


def _wrong(value: Any, schema: Any, name: str) -> str:
    expected = _EXPECTED.get(schema) or schema.__name__
    found = f"{value!r}"[:60] if _number(value) else f"a {type(value).__name__}"
    return f"{name} is {found}, expected {expected}"
