"""What a text names: a file of weights, a run folder, or a model; and its weights."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models import packaged_weights
from ptkit.core.models.checkpoints import file_of, is_checkpoint, own_call, size_of, validated
from ptkit.core.models.module_files import read_weights_alone
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import Weights, unwrap
from ptkit.core.parts.calls import Call, names_code, parse
from ptkit.core.wording import nearest

_WEIGHT_FILES = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx")


def weights_path(text: str) -> Path | None:
    """Return the file of weights or the run folder that a text names; None where it names a model.

    A folder counts if it holds a checkpoint: a model may share its name with a folder here.
    """
    is_file = os.path.lexists(text) and not os.path.isdir(text)
    looks_like_path = os.sep in text and not any(character in text for character in ":(")
    is_named = is_file or looks_like_path or text.endswith(_WEIGHT_FILES)
    return Path(text) if is_named or os.path.lexists(os.path.join(text, "ckpt.pkl")) else None


def read_weights(path: Path, *, takes_apart: bool = False) -> Weights:
    """Return the weights in a file: a checkpoint or run folder, a state dict of any nesting,
    .safetensors.

    takes_apart: also of a pickle that asks for code, from which the tensors alone are taken.

    Raises:
        CheckpointError: no such file, damaged, no weights in it, or it asks for code; nothing of it
            was run.
    """
    file = file_of(path)
    done: tuple[str, ...] = ()
    if takes_apart:
        contents, done = read_weights_alone(file)
    else:
        contents = read_weight_file(file)
    if is_checkpoint(contents):
        return _of_checkpoint(validated(contents, path), file, source=str(path))
    state_dict, notes = unwrap(contents, path)
    return Weights(state_dict=state_dict, path=file, source=str(path), notes=(*done, *notes))


def find_weights(
    text: str, *, model: str | None = None, size: int | None = None, takes_apart: bool = False
) -> Weights:
    """Return the weights that a text names: a file, a run folder, or a model that has some, of
    ours, torchvision's or timm's.

    model: the call the user gave; with a tag (`timm:NAME.TAG`) it says which of timm's pretrained
    weights a file holds. size: of the images, for models of timm's that are made for one size.
    takes_apart: see `read_weights`.

    Raises:
        CheckpointError: no such thing, or nothing that can be read.
        StorageError: the download failed.
        UsageError: timm is missing, or has no such model, tag or argument.
    """
    path = weights_path(text)
    if path is None and not os.path.isdir(text):
        return _of_model(text, size)
    found = read_weights(path or Path(text), takes_apart=takes_apart)
    call = parse(model or "none")
    # A checkpoint says itself what it holds.
    if not call.tag or found.checkpoint is not None:
        return found
    from ptkit.core.models import timm_weights

    return timm_weights.as_tagged(found, call, size=size)


def _of_model(text: str, size: int | None) -> Weights:
    """Return the pretrained weights of a model; its arguments go into the call."""
    # Both import torchvision, three seconds.
    from ptkit.core.models import timm_weights, torchvision_models

    try:
        call = parse(text)
    except UsageError:
        call = Call(text)
    if call.prefix == "timm":
        return timm_weights.pretrained_weights(call, size=size)
    is_ours, names = call.name in packaged_weights.NAMES, torchvision_models.names()
    if call.prefix or not (is_ours or call.name in names):
        known = (*packaged_weights.NAMES, *names)
        raise CheckpointError(
            f"no weights {text}: not a file, a run folder, {packaged_weights.NAMES[0]}, timm:NAME"
            f" or a torchvision model{nearest(call.name, known)}"
        )
    own = packaged_weights.packaged_weights if is_ours else torchvision_models.pretrained_weights
    found = own(call.name)
    settled = parse(found.call).kwargs if found.call else {}
    return replace(found, call=str(replace(call, kwargs={**settled, **call.kwargs})))


def model_of(text: str) -> str | None:
    """Return the call of the model that the weights which a text names are for; None for bare
    weights, and for user code in a checkpoint, which must be named again.

    Raises:
        CheckpointError, StorageError, UsageError: see `find_weights`.
    """
    found = find_weights(text)
    is_strange = found.checkpoint is not None and names_code(parse(found.call or ""))
    return None if is_strange else found.call


def weights_to_start_from(text: str, *, model: str | None, size: int | None = None) -> Weights:
    """Return the weights that a text names, see `find_weights`.

    model: the call the user gave; needed for bare weights.

    Raises:
        CheckpointError, StorageError: see `find_weights`.
        UsageError: bare weights without a model, or see `find_weights`.
    """
    weights = find_weights(text, model=model, size=size)
    if model is None:
        if weights.call is None:
            raise UsageError(
                f"{text} holds bare weights: say which model they are for with --model NAME"
            )
        if weights.checkpoint is not None:
            own_call(weights.call)
    return weights


def _of_checkpoint(checkpoint: Mapping[str, Any], file: Path, *, source: str) -> Weights:
    pipeline, epoch = checkpoint["pipeline"], checkpoint.get("metrics", {}).get("epoch")
    return Weights(
        state_dict=checkpoint["state_dict"],
        path=file,
        source=source,
        checkpoint=checkpoint,
        call=checkpoint["model"]["call"],
        class_names=tuple(checkpoint["classes"]),
        pipeline=tuple(pipeline["calls"]),
        tensors=pipeline.get("tensors") or {},
        alpha=pipeline.get("alpha", "drop"),
        size=size_of(pipeline),
        mean=tuple(pipeline["mean"]) if pipeline.get("mean") else None,
        std=tuple(pipeline["std"]) if pipeline.get("std") else None,
        epoch=int(epoch) if isinstance(epoch, int | float) else None,
    )
