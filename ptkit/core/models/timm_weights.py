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
    found = weights_in(file_of(tagged, config), tagged, size=size)
    return replace(found, source=tagged.full_name)


def file_of(call: Call, config: Any) -> Path:
    """Return the file that timm's description of weights names, downloaded where it must be."""
    if config.hf_hub_id:
        return downloads.from_hub(config.hf_hub_id, filenames(config), name=call.full_name)
    return downloads.from_url(config.url, name=call.full_name)


def filenames(config: Any) -> tuple[str, ...]:
    """Return the names that the file of weights may have in its repository, the best first."""
    return (config.hf_hub_filename,) if config.hf_hub_filename else _FILES


def weights_in(file: Path, call: Call, *, size: int | None = None) -> Weights:
    """Return the weights in a file that is that of a tag: as timm itself takes them over, with
    names of the authors' own changed.

    call: with the tag. size: see `pretrained_weights`.

    Raises:
        UsageError: timm is missing, or has no such model or tag.
        CheckpointError: the file is not weights, or not those of the tag.
    """
    timm_models.check_name(call)
    config = timm_models.config_of(call)
    built = call.updated(timm_models.settled(call, size, None))
    state_dict, notes = unwrap(read_weight_file(file), file)
    height, width = config.input_size[1:]
    side = (size or width) if height == width else size
    is_known = config.crop_mode in _CROPPED
    return Weights(
        state_dict=_as_timm_takes_them(built, state_dict, file),
        path=file,
        source=str(file),
        notes=notes,
        call=str(replace(built, tag="")),
        class_names=_class_names(config.num_classes),
        pipeline=_pipeline(config, side) if side and is_known else (),
        size=side,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def _as_timm_takes_them(call: Call, state_dict: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    import timm

    timm_models.check_arguments(call)
    name = replace(call, prefix="").full_name
    given: dict[str, Any] = {
        "pretrained": True,
        "pretrained_cfg_overlay": {"state_dict": state_dict},
    }
    # A model begins with random weights.
    with torch.random.fork_rng(devices=[]):
        try:
            model = timm.create_model(name, **given, **call.kwargs)
        except TypeError as error:
            raise call.error(f"timm: {reason_of(error)}") from error
        # timm's filters look for names, and compute with what they find.
        except (*REFUSALS, *STUMBLES) as error:
            reason = reason_of(error)
            raise CheckpointError(
                f"{file} does not hold the weights {name} ({reason[:160]}): leave .{call.tag} out"
                " to take what fits"
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
