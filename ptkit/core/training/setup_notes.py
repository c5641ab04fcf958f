"""What was chosen for a run, in words: a line each."""

import torch

from ptkit.core.config.dependents import has_max_lr
from ptkit.core.config.settings import OptimizerSettings, Settings
from ptkit.core.device import precision_of
from ptkit.core.parts.calls import parse
from ptkit.core.training.loop import Training
from ptkit.core.training.optimization.optimizers import OptimizerSetup, notes_of
from ptkit.core.training.setup_data import PreparedData
from ptkit.core.training.tasks.losses import counting_notes
from ptkit.core.wording import counted


def choices(settings: Settings, training: Training, data: PreparedData, *, place: str) -> list[str]:
    """Say what was chosen, a line each."""
    optimizer, schedule, loss = training.optimizer_setup, training.schedule, training.loss
    rates = f"schedule: {settings.scheduler.call}, {schedule.warmup_text}"
    how = f"optimizer: {optimizer.described}; {rates}"
    if settings.train.method == "probe":
        how = "head fitted to features of the rest, which stays as it is"
    return [
        f"{how}; loss: {loss.described}; {place}",
        *counting_notes(loss, data.train.images, data.valid.images),
        *notes_of(optimizer.call),
        *_unused_rate(settings, optimizer),
        *_group_notes(settings.optimizer, optimizer),
    ]


def _unused_rate(settings: Settings, optimizer: OptimizerSetup) -> list[str]:
    """Say that OneCycleLR's max_lr stands in for a rate of a file, or of the optimizer's call."""
    asked = settings.optimizer
    lr = parse(asked.call or "none").kwargs.get("lr") if asked.lr is None else asked.lr
    if lr in (None, optimizer.lr) or not has_max_lr(settings.scheduler.call):
        return []
    return [f"lr {lr:g} has no effect beside the max_lr of {settings.scheduler.call}"]


def rate_note(asked: OptimizerSettings, training: Training) -> str:
    """Say what became of the learning rate with a batch size that was measured."""
    optimizer = training.optimizer_setup
    is_given = asked.lr is not None or "lr" in parse(asked.call or "none").kwargs
    if asked.lr_per is not None:
        how = "in proportion" if optimizer.call.name == "SGD" else "by the square root"
        why = f"scaled {how} from that for {asked.lr_per} images"
    elif is_given:
        why = "as given"
    elif optimizer.call.name == "SGD":
        why = "in proportion to it"
    else:
        why = f"usual for {optimizer.call.name} at any batch size"
    return f"lr {optimizer.lr:g}, {why}"


def place_note(device: torch.device, threads: int, dtype: torch.dtype | None) -> str:
    """Say where the model runs, and in which precision."""
    place = f"{device.type}, {threads} threads" if device.type == "cpu" else device.type
    return f"{place}, {precision_of(dtype)}"


def _group_notes(asked: OptimizerSettings, optimizer: OptimizerSetup) -> list[str]:
    """Return what became of the parameter groups, where the user asked for any."""
    if not asked.groups and asked.head_lr == 1.0 and asked.layer_decay is None:
        return []
    if asked.layer_decay is not None and not asked.groups:
        # A line for each of dozens of layers says less.
        rates = [group["lr"] for group in optimizer.param_groups]
        return [
            f"rates by layer: {min(rates):.3g} at the input to {max(rates):.3g} at the head, each"
            f" {asked.layer_decay:g} of the next one's"
        ]
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
