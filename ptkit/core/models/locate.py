"""What a text names: a file of weights, a run folder, or a model; and its weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models import packaged_weights
from ptkit.core.models.checkpoints import file_of, is_checkpoint, own_call, size_of, validated
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import Weights, unwrap
from ptkit.core.parts.calls import parse
from ptkit.core.parts.catalogue import names_code
from ptkit.core.wording import nearest

_WEIGHT_FILES = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors")


def weights_path(text: str) -> Path | None:
    """Return the file of weights or the run folder that a text names; None where it names a model.

    A folder counts if it holds a checkpoint: a model may share its name with a folder here.
    """
    is_file = os.path.lexists(text) and not os.path.isdir(text)
    looks_like_path = os.sep in text and not any(character in text for character in ":(")
    is_named = is_file or looks_like_path or text.endswith(_WEIGHT_FILES)
    return Path(text) if is_named or os.path.lexists(os.path.join(text, "ckpt.pkl")) else None


def read_weights(path: Path) -> Weights:
    """Return the weights in a file: a checkpoint or run folder, a state dict of any nesting,
    .safetensors.

    Raises:
        CheckpointError: no such file, damaged, no weights in it, or it asks for code; nothing of it
            was run.
    """
    file = file_of(path)
    contents = read_weight_file(file)
    if is_checkpoint(contents):
        return _of_checkpoint(validated(contents, path), file, source=str(path))
    state_dict, notes = unwrap(contents, path)
    return Weights(state_dict=state_dict, path=file, source=str(path), notes=notes)


def find_weights(text: str) -> Weights:
    """Return the weights that a text names: a file, a run folder, or a model that has some, of ours
    or of torchvision's.

    Raises:
        CheckpointError: no such thing, or nothing that can be read.
        StorageError: the download failed.
    """
    path = weights_path(text)
    if path is None and text in packaged_weights.NAMES:
        return packaged_weights.packaged_weights(text)
    if path is None:
        # Imports torchvision, three seconds.
        from ptkit.core.models import torchvision_models

        names = torchvision_models.names()
        if text in names:
            return torchvision_models.pretrained_weights(text)
        if not os.path.isdir(text):
            raise CheckpointError(
                f"no weights {text}: not a file, a run folder, {packaged_weights.NAMES[0]} or a"
                f" torchvision model{nearest(text, [*packaged_weights.NAMES, *names])}"
            )
    return read_weights(path or Path(text))


def model_of(text: str) -> str | None:
    """Return the call of the model that the weights which a text names are for; None for bare
    weights, and for user code, which must be named again.

    Raises:
        CheckpointError, StorageError: see `find_weights`.
    """
    call = find_weights(text).call
    return None if call is None or names_code(parse(call)) else call


def weights_to_start_from(text: str, *, model: str | None) -> Weights:
    """Return the weights that a text names, see `find_weights`.

    model: the call the user gave; needed for bare weights.

    Raises:
        CheckpointError, StorageError: see `find_weights`.
        UsageError: bare weights without a model.
    """
    weights = find_weights(text)
    if model is None:
        if weights.call is None:
            raise UsageError(
                f"{text} holds bare weights: say which model they are for with --model NAME"
            )
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
        size=size_of(pipeline),
        mean=tuple(pipeline["mean"]) if pipeline.get("mean") else None,
        std=tuple(pipeline["std"]) if pipeline.get("std") else None,
        epoch=int(epoch) if isinstance(epoch, int | float) else None,
    )
