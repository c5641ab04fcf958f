"""timm's pretrained weights: where their files are, and what timm says of the images they take."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptkit.core.errors import CheckpointError
from ptkit.core.models import downloads, timm_models
from ptkit.core.models.packaged_weights import imagenet_classes
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import Weights, unwrap
from ptkit.core.parts.calls import Call
from ptkit.core.parts.catalogue import REFUSALS, STUMBLES
from ptkit.core.wording import reason_of

# As timm looks for them in a repository of the Hub.
_FILES = ("model.safetensors", "pytorch_model.bin")
# Six models of two thousand are padded instead; they get our own evaluation.
_CROPPED = ("center", "squash")


def pretrained_weights(call: Call, *, size: int | None = None) -> Weights:
    """Return the pretrained weights of a model of timm's: those of its tag, or else the usual ones.

    They are downloaded unless they are here already. size: of the images, if not the usual one; a
    transformer's positions are resampled for it, by timm.

    Raises:
        UsageError: timm is missing, or has no such model, tag or pretrained weights.
        CheckpointError: their licence must be accepted, or the file is damaged.
        StorageError: the download failed.
    """
    timm_models.check_name(call)
    config = timm_models.config_of(call)
    if config is None or not (config.hf_hub_id or config.url):
        raise call.error(f"timm has no pretrained weights of {call.name}")
    tagged = replace(call, tag=config.tag or "")
    file = _file_of(tagged, config)
    state_dict, notes = unwrap(read_weight_file(file), file)
    found = Weights(state_dict=state_dict, path=file, source=tagged.full_name, notes=notes)
    return as_tagged(found, tagged, size=size)


def file_here(call: Call, config: Any) -> Path | None:
    """Return the file of the weights that timm describes, if no network is needed for it.

    call: with the tag. config: timm's description.
    """
    if config.hf_hub_id:
        return downloads.in_cache(config.hf_hub_id, _filenames(config), name=call.full_name)
    file = downloads.file_of_url(config.url)
    return file if file.exists() else None


def _file_of(call: Call, config: Any) -> Path:
    if config.hf_hub_id:
        return downloads.from_hub(config.hf_hub_id, _filenames(config), name=call.full_name)
    return downloads.from_url(config.url, name=call.full_name)


def _filenames(config: Any) -> tuple[str, ...]:
    return (config.hf_hub_filename,) if config.hf_hub_filename else _FILES


def as_tagged(weights: Weights, call: Call, *, size: int | None = None) -> Weights:
    """Return weights that are those of a tag as timm itself takes them over, names of the authors'
    own changed, with what timm says of them.

    call: with the tag. size: see `pretrained_weights`.

    Raises:
        UsageError: timm is missing, or has no such model or tag.
        CheckpointError: they are not those of the tag.
    """
    timm_models.check_name(call)
    config = timm_models.config_of(call)
    built = call.updated(timm_models.settled(call, size, None))
    height, width = config.input_size[1:]
    side = (size or width) if height == width else size
    is_known = config.crop_mode in _CROPPED
    return replace(
        weights,
        state_dict=_adapted(built, weights),
        call=str(replace(built, tag="")),
        class_names=_class_names(config.num_classes),
        pipeline=_pipeline(config, side) if side and is_known else (),
        size=side,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def _adapted(call: Call, weights: Weights) -> dict[str, Tensor]:
    import timm

    timm_models.check_arguments(call)
    name = replace(call, prefix="").full_name
    overlay = {"state_dict": dict(weights.state_dict)}
    given: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    # A model begins with random weights.
    with torch.random.fork_rng(devices=[]):
        try:
            model = timm.create_model(name, **given, **call.kwargs)
        except TypeError as error:
            raise call.error(f"timm: {reason_of(error)}") from error
        # timm's filters look for names, and compute with what they find.
        except (*REFUSALS, *STUMBLES) as error:
            raise CheckpointError(
                f"{weights.path} does not hold the weights {name} ({reason_of(error)[:160]}): leave"
                f" .{call.tag} out to take what fits"
            ) from error
    return dict(model.state_dict())


def _class_names(num_classes: int) -> tuple[str, ...] | None:
    """Return the names of ImageNet's classes where there are as many as one of its sets has."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if num_classes == 1000:
        # torchvision's are shorter.
        return imagenet_classes()
    subset = infer_imagenet_subset({"num_classes": num_classes})
    return None if subset is None else tuple(ImageNetInfo(subset).label_descriptions())


def _pipeline(config: Any, side: int) -> tuple[str, ...]:
    """Return the calls of timm's own evaluation (timm.data.transforms_imagenet_eval)."""
    resized = math.floor(side / config.crop_pct)
    # Squashed to a square, or the shorter side.
    to = (resized, resized) if config.crop_mode == "squash" else resized
    return (
        f"Resize({to}, InterpolationMode.{config.interpolation.upper()})",
        f"CenterCrop({side})",
        "ToTensor()",
        f"Normalize({list(config.mean)}, {list(config.std)})",
    )
