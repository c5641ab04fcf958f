"""A model as a folder of the Hugging Face Hub: what timm reads, where timm has the architecture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptkit import __version__
from ptkit.core.errors import UsageError
from ptkit.core.exporting.torch_files import safetensors_of
from ptkit.core.files import make_folder, write_atomically
from ptkit.core.models import timm_models
from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.parts.calls import Call, Symbol, parse, parse_all

# Their names are the Hub's.
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# Ours, with all that its use needs.
CHECKPOINT = "ckpt.pkl"
_TOLERANCE = 1e-4
# What timm calls the arguments of torchvision's models.
_TIMM_NAMES = {"in_channels": "in_chans"}


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """What the folder is about.

    call: of the model. pipeline: what turns an image into its input. task: how its outputs are
    read, plain values. size: (channels, height, width) of the input.
    """

    module: nn.Module
    call: str
    class_names: Sequence[str]
    pipeline: Sequence[str]
    size: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    task: Mapping[str, Any]


def hub_config(model: HubModel) -> tuple[dict[str, Any], bool]:
    """Return config.json, and whether timm builds the same model of it.

    timm's model of the name is built and run on noise: names alone do not tell.

    Raises:
        UsageError: timm is not installed.
    """
    if not timm_models.is_installed():
        raise UsageError(f"config.json is that of timm, which is missing: {timm_models.INSTALL}")
    own = {
        "call": model.call,
        "pipeline": list(model.pipeline),
        "task": dict(model.task),
        "ptkit_version": __version__,
    }
    labels = {"num_classes": len(model.class_names), "label_names": list(model.class_names)}
    call = parse(model.call)
    arguments = _timm_arguments(call)
    if arguments is None or not _is_alike(model, call.name, arguments):
        plain = {"input_size": list(model.size), "mean": list(model.mean), "std": list(model.std)}
        return {**labels, **plain, "ptkit": own}, False
    config = {
        "architecture": call.name,
        **labels,
        "model_args": arguments,
        "pretrained_cfg": _images_of(model, call.name),
        "ptkit": own,
    }
    return config, True


def write_hub_folder(
    folder: Path,
    model: HubModel,
    config: Mapping[str, Any],
    *,
    card: str,
    checkpoint: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the files of a Hub's repository into a folder and return them; other files stay.

    checkpoint: the contents of a ckpt.pkl beside them, for models that timm does not have.

    Raises:
        UsageError: a file that is there already.
        StorageError: the disk refused.
    """
    contents = {
        WEIGHTS: safetensors_of(model.module.state_dict()),
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        CARD: card.encode(),
    }
    files = [folder / name for name in contents]
    if checkpoint is not None:
        files.append(folder / CHECKPOINT)
    if there := [file for file in files if file.exists()]:
        raise UsageError(f"{there[0]} is there already, and is not replaced: name a new folder")
    make_folder(folder)
    for name, data in contents.items():
        write_atomically(folder / name, data)
    if checkpoint is not None:
        save_checkpoint(folder / CHECKPOINT, checkpoint)
    return files


def _timm_arguments(call: Call) -> dict[str, Any] | None:
    """Return the arguments of timm's model of this name; None where timm has none."""
    import timm

    if call.prefix not in ("", "timm") or call.args or not timm.is_model(call.name):
        return None
    # torchvision's usual stem is timm's.
    given = {key: value for key, value in call.kwargs.items() if (key, value) != _USUAL_STEM}
    return {_TIMM_NAMES.get(key, key): value for key, value in given.items()}


_USUAL_STEM = ("stem", "standard")


def _is_alike(model: HubModel, name: str, arguments: Mapping[str, Any]) -> bool:
    """Say whether timm's model takes the weights and gives the same outputs."""
    import timm

    noise = torch.rand((2, *model.size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.module.eval()(noise)
        try:
            theirs = timm.create_model(name, num_classes=len(model.class_names), **arguments)
            theirs.load_state_dict(model.module.state_dict())
            found = theirs.eval()(noise)
        except (TypeError, ValueError, RuntimeError, AssertionError):
            # Other arguments, layers of another name or shape, or images too small for it.
            return False
    return bool(torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE))


def _images_of(model: HubModel, name: str) -> dict[str, Any]:
    """Return timm's description of the images."""
    usual = timm_models.config_of(Call(name))
    found = {
        "num_classes": len(model.class_names),
        "input_size": list(model.size),
        "fixed_input_size": bool(usual.fixed_input_size),
        "mean": list(model.mean),
        "std": list(model.std),
        "first_conv": usual.first_conv,
        "classifier": usual.classifier,
        "pool_size": None,
    }
    return found | (timm_geometry(model.pipeline) or {})


def timm_geometry(pipeline: Sequence[str]) -> dict[str, Any] | None:
    """Return how timm resizes and crops as a pipeline does; None where it cannot."""
    calls = parse_all(pipeline)
    names = [call.name for call in calls]
    rest = names[names.index("ToTensor") :] if "ToTensor" in names else []
    # timm makes no grey of colours.
    geometry = calls[: len(calls) - len(rest)]
    if rest != ["ToTensor", "Normalize"] or not geometry or geometry[0].name != "Resize":
        return None
    resize = geometry[0]
    size, kind = resize.argument(0, "size"), resize.argument(1, "interpolation")
    more = resize.args[2:] or {*resize.kwargs} - {"size", "interpolation"}
    named = kind.member.lower() if isinstance(kind, Symbol) else "bilinear"
    if more or named not in ("bilinear", "bicubic", "nearest", "lanczos"):
        return None
    if [call.name for call in geometry] == ["Resize"] and isinstance(size, list | tuple):
        return {"interpolation": named, "crop_pct": 1.0, "crop_mode": "squash"}
    if [call.name for call in geometry] != ["Resize", "CenterCrop"] or not isinstance(size, int):
        return None
    crop = geometry[1].argument(0, "size")
    # timm resizes to the crop over this share, rounded down.
    share = crop / size if isinstance(crop, int) else 0
    if not isinstance(crop, int) or int(crop / share) != size:
        return None
    return {"interpolation": named, "crop_pct": share, "crop_mode": "center"}
