"""What was chosen for a run, in words: a line each."""

import torch

from ptkit.core.config import OptimizerSettings, Settings
from ptkit.core.device import precision_of
from ptkit.core.training.optimization.optimizers import OptimizerSetup, notes_of
from ptkit.core.training.optimization.schedules import Schedule
from ptkit.core.training.setup_data import PreparedData
from ptkit.core.training.tasks.loss import Loss
from ptkit.core.training.tasks.losses import counting_notes
from ptkit.core.wording import counted


def choices(
    settings: Settings,
    optimizer: OptimizerSetup,
    schedule: Schedule,
    loss: Loss,
    data: PreparedData,
    *,
    place: str,
) -> list[str]:
    """Say what was chosen, a line each."""
    rates = f"schedule: {settings.scheduler.call}, {schedule.warmup_text}"
    how = f"optimizer: {optimizer.described}; {rates}"
    if settings.train.method == "probe":
        how = "head fitted to features of the rest, which stays as it is"
    return [
        f"{how}; loss: {loss.described}; {place}",
        *counting_notes(loss, data.train.images, data.valid.images),
        *notes_of(optimizer.call),
        *_group_notes(settings.optimizer, optimizer),
    ]


def place_note(device: torch.device, threads: int, dtype: torch.dtype | None) -> str:
    """Say where the model runs, and in which precision."""
    place = f"{device.type}, {threads} threads" if device.type == "cpu" else device.type
    return f"{place}, {precision_of(dtype)}"


def _group_notes(asked: OptimizerSettings, optimizer: OptimizerSetup) -> list[str]:
    """Return what became of the parameter groups, where the user asked for any."""
    if not asked.groups and asked.head_lr == 1.0 and asked.layer_decay is None:
        return []
    notes = [
        f"group {group['name']}: {counted(len(group['params']), 'tensor')}, lr {group['lr']:g}"
        for group in optimizer.param_groups
    ]
    untrained = {"frozen": optimizer.always_frozen, "excluded": optimizer.excluded}
    return notes + [
        f"{word}: {counted(len(names), 'tensor')}, {names[0]} to {names[-1]}"
        for word, names in untrained.items()
        if names
    ]
