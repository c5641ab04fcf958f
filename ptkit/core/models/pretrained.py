"""torchvision's pretrained weights by the model's name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from ptkit.core.calls import Call, nearest
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import unwrap

# DenseNet's published weights are older than its layer names; torchvision renames them like this.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


@dataclass(frozen=True)
class Pretrained:
    """Weights with what they were trained for.

    call: the model that they fit exactly, apart from the head.
    mean, std: of the normalisation, three values of 0..1.
    size: pixels of a side.
    """

    state_dict: dict[str, Tensor]
    call: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    class_names: tuple[str, ...]
    source: str


def is_torchvision_model(name: str) -> bool:
    """Tell whether torchvision has a classification model of this name."""
    from ptkit.core.models import torchvision_models

    return name in torchvision_models.names()


def pretrained_weights(name: str) -> Pretrained:
    """Return the weights that torchvision recommends for a model, downloaded unless they are in
    torch's cache.

    Raises:
        UsageError: torchvision has no such model.
        StorageError: the download failed.
        CheckpointError: the file in the cache is damaged.
    """
    import torchvision

    from ptkit.core.models import torchvision_models

    if not is_torchvision_model(name):
        hint = nearest(name, torchvision_models.names())
        raise UsageError(
            f"{name} is neither a file nor a model that torchvision has weights for{hint}"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file = _downloaded(name, weights.url)
    state_dict, _ = unwrap(read_weight_file(file), file)
    preset = weights.transforms()
    return Pretrained(
        {_OLD_DENSENET_NAME.sub(r"\1", key): tensor for key, tensor in state_dict.items()},
        _call(name, weights),
        tuple(preset.mean),
        tuple(preset.std),
        preset.crop_size[0],
        tuple(weights.meta["categories"]),
        str(weights),
    )


def _call(name: str, weights: Any) -> str:
    """Return the model that the weights fit: what torchvision's builders settle when they are given
    weights.
    """
    from ptkit.core.models import torchvision_models

    takes = torchvision_models.__getattr__(name).__signature__.parameters  # type: ignore[attr-defined]
    min_size = weights.meta["min_size"]
    settled = {
        "stem": "standard",
        "transform_input": True,
        "image_size": min_size[0],
        "input_size": min_size,
    }
    return str(
        Call(
            name, kwargs={k: v for k, v in settled.items() if k in takes and v != takes[k].default}
        )
    )


def _downloaded(name: str, url: str) -> Path:
    """Return the file in torch's cache, downloaded and checked against the hash in its name if it
    was not there.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / os.path.basename(urlparse(url).path)
    if file.exists():
        return file
    make_folder(folder)
    digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        # Not get_state_dict: that prints, and loads with weights_only=False.
        torch.hub.download_url_to_file(
            url, str(file), digest[1] if digest else None, progress=False
        )
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise StorageError(
            f"cannot download the weights of {name} ({reason}): put {url} at {file} by hand, or"
            " give a file of weights"
        ) from error
    return file
