"""What finetuning starts from: a checkpoint, bare weights, or torchvision's pretrained ones."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models import torchvision_models
from ptkit.core.models.checkpoints import read_weights
from ptkit.core.models.torchvision_models import is_torchvision_model, pretrained_weights
from ptkit.core.parts.calls import parse
from ptkit.core.parts.catalogue import refuse_user_code
from ptkit.core.wording import nearest


@dataclass(frozen=True)
class StartingWeights:
    """Weights and what came with them; call, size, mean, std and class_names are None where nothing
    did.

    is_whitened: whether they were trained on whitened images.
    """

    state_dict: dict[str, Tensor]
    source: str
    call: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    is_whitened: bool = False


def find_weights(text: str, *, model: str | None) -> StartingWeights:
    """Return the weights that `text` names: a file, a run folder, or a torchvision model.

    model: the call the user gave; needed for bare weights.

    Raises:
        CheckpointError: no such thing, or nothing that can be read.
        UsageError: bare weights without a model.
        StorageError: the download failed.
    """
    if os.path.lexists(text):
        return _from_file(Path(text), model)
    looks_like_path = os.sep in text or text.endswith((".pkl", ".pt", ".pth", ".safetensors"))
    if looks_like_path or not is_torchvision_model(text):
        hint = "" if looks_like_path else nearest(text, torchvision_models.names())
        raise CheckpointError(
            f"no weights {text}: neither a file or run folder here nor a torchvision model{hint}"
        )
    found = pretrained_weights(text)
    return StartingWeights(
        found.state_dict,
        found.source,
        call=found.call,
        size=found.size,
        mean=found.mean,
        std=found.std,
        class_names=found.class_names,
    )


def _from_file(path: Path, model: str | None) -> StartingWeights:
    weights = read_weights(path)
    if weights.checkpoint is None:
        if model is None:
            raise UsageError(
                f"{path} holds bare weights: say which model they are for with --model NAME"
            )
        return StartingWeights(weights.state_dict, str(path), notes=weights.notes)
    checkpoint = weights.checkpoint
    if model is None:
        refuse_user_code(
            parse(checkpoint["model"]["call"]),
            where="the checkpoint's model",
            remedy="name it again with --model",
        )
    pipeline = checkpoint["pipeline"]
    return StartingWeights(
        weights.state_dict,
        str(path),
        call=checkpoint["model"]["call"],
        size=pipeline.get("size"),
        mean=tuple(pipeline["mean"]) if pipeline.get("mean") else None,
        std=tuple(pipeline["std"]) if pipeline.get("std") else None,
        class_names=tuple(checkpoint["classes"]),
        is_whitened=any(parse(text).name == "LinearTransformation" for text in pipeline["calls"]),
    )
