"""What `ptkit summary` looks at: a model by its call, or the model of a checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ptkit.core.analysis.model_summary import ModelSummary, summarize, without_weights
from ptkit.core.calls import Call, parse
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.checkpoints import read_weights, rebuild
from ptkit.core.models.zoo import build_model, usual_size
from ptkit.core.training.optimization.parameter_groups import plan_parameters

_NUM_CLASSES = 10
_WEIGHT_FILES = (".pkl", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Summarized:
    """A summary with what it is of: the call that builds the model, its classes, and pixels of a
    side.
    """

    call: str
    num_classes: int
    size: int
    summary: ModelSummary


def summarize_subject(
    text: str,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    size: int | None = None,
    depth: int | None = None,
) -> Summarized:
    """Summarize the model that a call, a checkpoint or a run folder means.

    num_classes: 10 where it is not given. size: by default what the model is made for, or was
    trained on.
    model: the user's own call, for a checkpoint that names user code.

    Raises:
        UsageError: unknown model or argument, a size that it does not take, or what the checkpoint
            says itself.
        CheckpointError: no such file, damaged, or it needs `model`.
    """
    if is_checkpoint(text):
        if num_classes is not None:
            raise UsageError(
                f"{text} is a checkpoint and says this itself: leave out --num-classes"
            )
        return _of_checkpoint(Path(text), model=model, size=size, depth=depth)
    if model is not None:
        raise UsageError(
            f"--model is for a checkpoint of a model of your own, and {text} is a model: leave"
            " it out"
        )
    call = parse(text)
    if num_classes is not None and "num_classes" in call.kwargs:
        raise call.error("num_classes is given twice: here and by --num-classes", "num_classes")
    num_classes = _given_classes(call) if num_classes is None else num_classes
    return _of_call(call, num_classes=num_classes, size=size or usual_size(call), depth=depth)


def is_checkpoint(text: str) -> bool:
    """Tell whether a text means a file of weights or a run folder, rather than a model.

    A folder counts if a checkpoint lies in it: a model may share its name with a folder that stands
    here.

    Raises:
        UsageError: a Python file without the name of a model in it.
    """
    if text.endswith(".py") and ":" not in text:
        raise UsageError(f"{text} is a Python file: name the model in it, {text}:NAME")
    if os.path.isfile(text) or os.path.lexists(os.path.join(text, "ckpt.pkl")):
        return True
    is_path = os.sep in text and not any(character in text for character in ":(")
    return is_path or text.endswith(_WEIGHT_FILES)


def _of_checkpoint(
    path: Path, *, model: str | None, size: int | None, depth: int | None
) -> Summarized:
    checkpoint = read_weights(path).checkpoint
    if checkpoint is None:
        raise CheckpointError(
            f"{path} holds bare weights: name their model instead, as in ptkit summary resnet18"
        )
    module = rebuild(checkpoint, model=model)
    size = size or checkpoint["pipeline"].get("size")
    if not isinstance(size, int):
        raise UsageError(f"{path} does not say the size of its images: give --size")
    call, num_classes = model or checkpoint["model"]["call"], checkpoint["model"]["num_classes"]
    _freeze(module, checkpoint)
    # Only a user's own model may hold tensors that cannot leave their device.
    if not parse(call).prefix:
        module = module.to("meta")
    return Summarized(
        str(parse(call)),
        num_classes,
        size,
        summarize(module, size, num_classes=num_classes, depth=depth),
    )


def _freeze(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Mark as fixed, in place, what the checkpoint's run never trained."""
    groups = checkpoint.get("config", {}).get("optimizer", {}).get("groups", [])
    plans = plan_parameters(module, groups, lr=1.0)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(
            plans[name].first_epoch is not None and not plans[name].is_excluded
        )


def _given_classes(call: Call) -> int:
    """Return the number of classes in a call, or the default one."""
    given = call.kwargs.get("num_classes", _NUM_CLASSES)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise call.error(
            f"num_classes must be a whole number of at least 1, found {given!r}", "num_classes"
        )
    return given


def _of_call(call: Call, *, num_classes: int, size: int, depth: int | None) -> Summarized:
    if call.prefix in ("", "timm"):
        try:
            return _without_values(call, num_classes=num_classes, size=size, depth=depth)
        except UsageError:
            # Some of timm's models compute with their weights while they are built.
            if not call.prefix:
                raise
    module, text = build_model(call, num_classes=num_classes, size=size, seed=0)
    return Summarized(
        text, num_classes, size, summarize(module, size, num_classes=num_classes, depth=depth)
    )


def _without_values(call: Call, *, num_classes: int, size: int, depth: int | None) -> Summarized:
    with without_weights():
        module, text = build_model(call, num_classes=num_classes, size=size, seed=0)
    summary = summarize(module.to("meta"), size, num_classes=num_classes, depth=depth)
    return Summarized(text, num_classes, size, summary)
