"""Every setting of a run: its default, meaning, unit and range. Free of torch.

Settings come from layers, later ones winning: defaults, a recipe or TOML file, flags. A layer is a
mapping
{section: {key: value}}.
"""

import dataclasses
import json
import math
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptkit.core.errors import UsageError
from ptkit.core.wording import nearest

Layer = Mapping[str, Mapping[str, Any]]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def _setting(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    is_path: bool = False,
) -> Any:
    """Declare a setting; low and high are inclusive, above is exclusive."""
    metadata = {
        "meaning": meaning,
        "choices": choices,
        "low": low,
        "high": high,
        "above": above,
        "is_path": is_path,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataSettings:
    train: str = _setting("train.txt", "list file of the training images", is_path=True)
    valid: str = _setting("valid.txt", "list file of the validation images", is_path=True)
    classes: str | None = _setting(
        None, "file with one class name a line; beside the training list", is_path=True
    )
    size: int | None = _setting(None, "input size in pixels; chosen from the images", low=1)
    augment: str = _setting(
        "auto", "ready list of transforms", choices=("auto", "none", "safe", "natural")
    )
    transforms: tuple[str, ...] = _setting((), "training transforms; replace the ready list")
    eval_transforms: tuple[str, ...] = _setting((), "evaluation transforms; replace the resize")
    mean: tuple[float, ...] = _setting(
        (), "R,G,B in 0..1 for Normalize; measured from the training list", low=0, high=1
    )
    std: tuple[float, ...] = _setting(
        (), "R,G,B in 0..1 for Normalize; measured from the training list", above=0
    )
    cache: str = _setting(
        "auto", "keep decoded images in memory or on disk", choices=("auto", "ram", "disk", "off")
    )
    reduced_decode: bool = _setting(
        False,
        "decode JPEGs at half, quarter or eighth size where the crop still is larger than what it"
        " is resized to; for large photographs; not quite the same pixels",
    )
    on_bad: str = _setting(
        "stop", "an image that cannot be read: stop, or leave it out", choices=("stop", "skip")
    )
    allow_leak: bool = _setting(False, "go on when a file stands in both lists")
    sampler: str = _setting(
        "none", "balanced draws every class equally often", choices=("none", "balanced")
    )
    shuffle: bool = _setting(True, "a new order of the training images every epoch")
    drop_last: bool = _setting(
        False, "leave out a last batch that is not full; one of a single image always is"
    )
    workers: int = _setting(0, "decoding threads; 0 chooses", low=0)


@dataclass(frozen=True)
class ModelSettings:
    call: str | None = _setting(None, "the model; chosen from the image size")
    init: tuple[str, ...] = _setting((), "lines SELECTOR=method(...), or tutorial")
    weights: str | None = _setting(
        None, "weights to start from: a file, a run, a torchvision model", is_path=True
    )


@dataclass(frozen=True)
class LossSettings:
    call: str | None = _setting(None, "the loss; chosen from the labels")
    pairs: bool = _setting(
        False, "compare images with each other: for HingeEmbeddingLoss, which also does without"
    )
    threshold: float | None = _setting(
        None, "of several labels, the probability above which one is there; 0.5", low=0, high=1
    )
    embedding: int | None = _setting(
        None, "outputs of the model where images are compared; 64", low=2
    )


@dataclass(frozen=True)
class OptimizerSettings:
    call: str | None = _setting(None, "the optimizer; chosen to suit the loss")
    lr: float | None = _setting(
        None, "learning rate; the optimizer's usual one for this batch size", above=0
    )
    groups: tuple[str, ...] = _setting(
        (), "lines SELECTOR: lr=10x, weight_decay=0|unfreeze=5|frozen|excluded"
    )
    decay_all: bool = _setting(False, "weight decay on norms and biases too")
    layer_decay: float | None = _setting(
        None, "rate of each layer, as a multiple of the next one's", above=0, high=1
    )
    head_lr: float = _setting(1.0, "rate of the head, as a multiple; finetune uses 10", above=0)


@dataclass(frozen=True)
class SchedulerSettings:
    call: str = _setting("CosineAnnealingLR()", "the schedule, or none")
    per: str = _setting("auto", "stepped per step or per epoch", choices=("auto", "step", "epoch"))
    warmup: float = _setting(
        0.1, "share of the run over which the rate rises linearly", low=0, high=1
    )
    metric: str = _setting(
        "loss", "what ReduceLROnPlateau watches: loss, or a metric of the labels"
    )


@dataclass(frozen=True)
class TrainSettings:
    epochs: int = _setting(15, "passes over the training images", low=1)
    batch_size: int | None = _setting(
        None, "images per step; 64, or all where there are fewer", low=1
    )
    seed: int = _setting(0, "same seed, same result", low=0, high=2**63 - 1)
    device: str = _setting("auto", "where the model runs", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = _setting(
        "auto", "bf16 on CUDA, fp32 elsewhere", choices=("auto", "fp32", "bf16")
    )
    accumulate: int = _setting(1, "batches whose gradients are added before a step", low=1)
    clip_grad: float | None = _setting(None, "largest total gradient norm", above=0)
    patience: int | None = _setting(None, "stop after this many epochs without a better one", low=1)
    metric: str = _setting(
        "auto", "what the best epoch is chosen by: loss, or a metric of the labels"
    )
    ema: float | None = _setting(
        None, "decay of the average of the weights, which is then evaluated", above=0, high=1
    )
    save_every: int = _setting(1, "epochs between two saved states to resume from", low=1)
    channels_last: bool = _setting(True, "memory format of the model")
    deterministic: bool = _setting(False, "deterministic kernels on CUDA; slower")
    compile: bool = _setting(
        False, "train with the model compiled (torch.compile); pays on GPUs and in long runs"
    )
    profile: bool = _setting(
        False, "measure where the time of a step goes, and print it at the end"
    )


@dataclass(frozen=True)
class LogSettings:
    tensorboard: bool = _setting(True, "write TensorBoard events")
    histograms: bool = _setting(True, "weights and gradients of every layer, once an epoch")
    graph: bool = _setting(True, "the model's graph")
    pictures: bool = _setting(
        True, "kernels over the epochs, embedding, PR curves and deciding regions"
    )
    folder: str | None = _setting(None, "parent folder of the events; the run folder", is_path=True)
    comment: str = _setting("", "appended to the folder name of the events")
    filename_suffix: str = _setting("", "appended to the name of the event file")
    wandb: bool = _setting(
        False, "the same numbers and pictures to Weights & Biases; needs ptkit[wandb]"
    )


@dataclass(frozen=True)
class Settings:
    """One frozen record of everything that decides a run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    train: TrainSettings = TrainSettings()
    log: LogSettings = LogSettings()


def resolve(*layers: Layer) -> Settings:
    """Lay the layers over the defaults and check every value.

    Raises:
        UsageError: an unknown section or key, or a value of the wrong type or out of range.
    """
    sections: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Settings)}
    for layer in layers:
        for section, values in layer.items():
            if section not in sections:
                raise UsageError(
                    f"no section [{section}]{nearest(section, sections)}; sections:"
                    f" {', '.join(sections)}"
                )
            if not isinstance(values, Mapping):
                raise UsageError(
                    f"{section} must be a section, as in [{section}], found {values!r}"
                )
            sections[section] = _replaced(section, sections[section], values)
    return Settings(**sections)


def read_toml(file: Path) -> Layer:
    """Return the settings of a TOML file; paths in it are relative to its folder.

    Raises:
        UsageError: no such file, or not TOML.
    """
    try:
        layer = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    return _with_paths(layer, lambda path: os.path.normpath(os.path.join(file.parent, path)))


def parse_assignment(text: str) -> Layer:
    """Read `section.key=value`; the value is TOML, or plain text where it is not.

    Raises:
        UsageError: not of that form.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise UsageError(
            f"--set expects section.key=value, found {text!r}{_full_name(name.strip())}"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {section: {key: parsed}}


def _full_name(key: str) -> str:
    """Return `; did you mean train.epochs?` for a setting named without its section, or a section
    without a key.
    """
    sections = dataclasses.fields(Settings)
    known = [
        f"{section.name}.{f.name}"
        for section in sections
        for f in dataclasses.fields(section.default)  # type: ignore[arg-type]
    ]
    meant = [name for name in known if name.partition(".")[2] == key or name == f"{key}.call"]
    return f"; did you mean {' or '.join(meant)}?" if meant else nearest(key, known)


def to_toml(settings: Settings, *, folder: Path) -> str:
    """Return the settings as TOML; paths are written relative to `folder`, unset settings are left
    out.
    """
    layer = {section: {k: v for k, v in dataclasses.asdict(getattr(settings, section)).items() if v is not None}
             for section in (f.name for f in dataclasses.fields(Settings))}  # fmt: skip
    layer = _with_paths(layer, lambda path: os.path.relpath(path, folder))
    blocks = (
        f"[{section}]\n"
        + "".join(f"{key} = {_toml_value(value)}\n" for key, value in values.items())
        for section, values in layer.items()
    )
    return "\n".join(blocks)


def to_layer(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as plain containers."""
    return dataclasses.asdict(settings)


def _replaced(section: str, current: Any, values: Mapping[str, Any]) -> Any:
    fields = {f.name: f for f in dataclasses.fields(current)}
    types_of = typing.get_type_hints(type(current))
    checked = {}
    for key, value in values.items():
        if key not in fields:
            hint = nearest(key, fields) or f"; it has: {', '.join(fields)}"
            raise UsageError(f"[{section}] has no setting {key}{hint}")
        checked[key] = _checked(f"{section}.{key}", value, types_of[key], fields[key].metadata)
    return dataclasses.replace(current, **checked)


def _checked(name: str, value: Any, wanted: Any, rules: Mapping[str, Any]) -> Any:
    value = _converted(name, value, wanted)
    choices = rules["choices"]
    if choices and value not in choices:
        hint = nearest(str(value), choices)
        raise UsageError(f"{name} must be one of {', '.join(choices)}, found {value!r}{hint}")
    if rules["is_path"] and value is not None and (not value or "\0" in value):
        raise UsageError(f"{name} must name a file, found {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_range(name, number, rules)
    return value


def _check_range(name: str, number: float, rules: Mapping[str, Any]) -> None:
    low, high, above = rules["low"], rules["high"], rules["above"]
    if isinstance(number, float) and not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, found {number}")
    if above is not None and number <= above:
        raise UsageError(f"{name} must be above {above}, found {number}")
    if low is not None and number < low:
        raise UsageError(f"{name} must be at least {low}, found {number}")
    if high is not None and number > high:
        raise UsageError(f"{name} must be at most {high}, found {number}")


def _converted(name: str, value: Any, wanted: Any) -> Any:
    """Return the value as the type of its field, which is T, T | None or a tuple of T; "none"
    stands for None.
    """
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if type(None) in options and value in (None, "none"):
        return None
    kind = options[0]
    if typing.get_origin(kind) is tuple:
        if value == "none":
            return ()
        item_kind = typing.get_args(kind)[0]
        return tuple(_converted(name, item, item_kind) for item in _items(value, item_kind))
    if kind is float and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise UsageError(f"{name} must be {words[kind]}, found {value!r}")
    if isinstance(value, str):
        _check_text(name, value)
    return value


def _items(value: Any, kind: type) -> list[Any] | tuple[Any, ...]:
    """Return what stands for a list: a list, or one value; `0.1,0.2,0.3` is a list of numbers."""
    if isinstance(value, list | tuple):
        return value
    if kind is float and isinstance(value, str):
        return [
            float(part) if _NUMBER.fullmatch(part.strip()) else part for part in value.split(",")
        ]
    return [value]


def _check_text(name: str, value: str) -> None:
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(
            f"{name} must be UTF-8 text, found {value!a}: config.toml cannot hold it; rename it"
        )


def _with_paths(layer: Layer, change: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Return the layer with every path that names a file changed."""
    sections: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(Settings)}
    changed: dict[str, dict[str, Any]] = {}
    for section, values in layer.items():
        if section not in sections or not isinstance(values, Mapping):
            changed[section] = values  # type: ignore[assignment]
            continue
        paths = {f.name for f in dataclasses.fields(sections[section]) if f.metadata["is_path"]}
        changed[section] = {k: _moved(k, v, change) if k in paths else v for k, v in values.items()}
    return changed


def _moved(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if not isinstance(value, str):
        return value
    moved = change(value)
    # Weights may be the name of a torchvision model instead of a file.
    if key == "weights" and not os.path.exists(value) and not os.path.exists(moved):
        return value
    return moved


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        _check_text("a path or text", value)
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
