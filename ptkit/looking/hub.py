"""A checkpoint as a folder for the Hugging Face Hub."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ptkit.core.errors import UsageError
from ptkit.core.exporting.hub_folder import (
    HubModel,
    hub_config,
    timm_geometry,
    write_hub_folder,
)
from ptkit.core.training.tasks.task import EMBEDDING
from ptkit.looking.converting import checkpoint_of_subject
from ptkit.looking.model_card import default_name, model_card
from ptkit.looking.output_folders import default_folder
from ptkit.looking.subject import Subject


@dataclass(frozen=True)
class HubFolder:
    """Files for the Hub; is_timm: whether timm loads them by the folder's name."""

    folder: Path
    files: tuple[Path, ...]
    is_timm: bool
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
            "files": [str(file) for file in self.files],
            "is_timm": self.is_timm,
            "to": HUB,
        }


# What `--to` calls it.
HUB = "hf"
# Takes the reason.
NO_CHECK = (
    "the check for strangers stays in the checkpoint, as {}: what is exported answers images unlike"
    " those of training too"
)


def write_for_hub(subject: Subject, folder: Path | None = None) -> HubFolder:
    """Write model.safetensors, config.json and a model card; and, where timm has no such model, a
    checkpoint.

    folder: by default RUN/export/hf.

    Raises:
        UsageError: timm is missing; a model that compares images, or steps without a size; a file
            that is there already.
        StorageError: the disk refused.
    """
    weights, task = subject.weights, subject.task
    if folder is None:
        folder = default_folder("export", weights.run) / HUB
    pipeline = subject.parse_pipeline()
    if task.kind == EMBEDDING:
        raise UsageError(
            f"{weights.source} compares images with the means of its classes, for which a folder"
            " of the Hub has no place"
        )
    if pipeline.size is None or pipeline.channels is None or weights.tensors:
        raise UsageError(
            f"the pipeline of {weights.source} cannot be described in a folder of the Hub: it has"
            " whitening, or no fixed size"
        )
    # The check for strangers stays in the checkpoint: timm's model has no place for it.
    told = replace(task, strangers=None).as_dict()
    values = {name: _plain(value) for name, value in told.items()}
    model = HubModel(
        module=subject.model.cpu(),
        call=weights.call or "",
        class_names=subject.class_names,
        pipeline=weights.pipeline,
        size=(pipeline.channels, *pipeline.size),
        mean=weights.mean or (0.0,) * pipeline.channels,
        std=weights.std or (1.0,) * pipeline.channels,
        task={name: value for name, value in values.items() if value is not None},
    )
    config, is_timm = hub_config(model)
    card = model_card(
        subject,
        name=default_name(subject),
        is_timm=is_timm,
        geometry=timm_geometry(weights.pipeline) is not None,
    )
    own = None if is_timm else checkpoint_of_subject(subject)
    files = write_hub_folder(folder, model, config, card=card, checkpoint=own)
    is_left_out = is_timm and task.strangers is not None
    left_out = (NO_CHECK.format("timm's models have no place for it"),) if is_left_out else ()
    return HubFolder(folder, tuple(files), is_timm, (*weights.lines, *left_out))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
