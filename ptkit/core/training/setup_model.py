"""The model of a run, with fresh, initialised or transferred weights, and the groups of its
parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ptkit.core.config import Settings
from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import initialize
from ptkit.core.models.transfer import TransferReport, transfer
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, default_model, find_head
from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import (
    Prepared,
    build_optimizer,
    split_rate,
    usual_lr,
)

# Finetuning moves the body at a tenth of the usual rate, the head (times head_lr) at the usual one.
_FINETUNE_RATE = 0.1


@dataclass(frozen=True)
class PreparedModel:
    """module: on its device. call: the resolved call that builds it. report: what was taken from
    old weights.
    """

    module: nn.Module
    call: str
    num_outputs: int
    report: TransferReport | None
    notes: tuple[str, ...]


def prepare_model(
    settings: Settings,
    *,
    class_names: Sequence[str],
    num_outputs: int,
    size: int,
    device: torch.device,
    start: Weights | None = None,
) -> PreparedModel:
    """Build the model, initialise it, take over old weights, and put it on the device.

    num_outputs: one a class, one a number, or the size of an embedding.

    Raises:
        UsageError: unknown model or initialisation, or a size that the model does not take.
        CheckpointError: none of the weights fit.
    """
    wanted = settings.model.call or (start.call if start else None) or default_model(size)
    module, call = build_model(wanted, num_classes=num_outputs, size=size, seed=settings.train.seed)
    check_forward(module, size, num_classes=num_outputs)
    if settings.model.init:
        initialize(module, settings.model.init, seed=settings.train.seed)
    report = None
    if start is not None:
        is_same_task = start.class_names is None or start.class_names == tuple(class_names)
        leave_out = "" if is_same_task else find_head(module, num_outputs)
        report = transfer(module, start.state_dict, leave_out=leave_out)
    memory_format = torch.channels_last if settings.train.channels_last else torch.contiguous_format
    module = module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    return PreparedModel(
        module, call, num_outputs, report, _notes(module, call, settings, report, start)
    )


def prepare_optimizer(
    settings: Settings, model: nn.Module, *, num_outputs: int, batch_size: int
) -> Prepared:
    """Return the optimizer with its groups; the head's rate comes before the user's own lines.

    Raises:
        UsageError: unknown names, selectors that match nothing, or options that do not fit.
    """
    optimizer = settings.optimizer
    assert optimizer.call is not None
    call, lr = split_rate(optimizer.call, lr=optimizer.lr)
    if lr is None:
        lr = usual_lr(call, model, batch_size=batch_size * settings.train.accumulate)
        lr *= _FINETUNE_RATE if settings.model.weights else 1.0
    lines = list(optimizer.groups)
    # LBFGS takes no groups, so the head moves as the body does.
    if optimizer.head_lr != 1.0 and parse(call).name != "LBFGS":
        lines.insert(0, f"{_head(model, num_outputs)}: lr={optimizer.head_lr:g}x")
    return build_optimizer(
        call,
        model,
        lr=lr,
        groups=lines,
        decay_all=optimizer.decay_all,
        layer_decay=optimizer.layer_decay,
        epochs=settings.train.epochs,
    )


def _head(model: nn.Module, num_outputs: int) -> str:
    name = find_head(model, num_outputs)
    if not name:
        raise UsageError(
            "the model is one layer: it has no head apart; use --set optimizer.head_lr=1"
        )
    return name


def _notes(
    module: nn.Module,
    call: str,
    settings: Settings,
    report: TransferReport | None,
    start: Weights | None,
) -> tuple[str, ...]:
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    notes = [f"model: {call}, {num_parameters:,} parameters"]
    if settings.model.init:
        notes.append(f"init: {'; '.join(settings.model.init)}")
    if start is not None and report is not None:
        notes += [f"weights of {start.source}: {note}" for note in (*start.notes, *report.notes)]
        notes.append(f"weights of {start.source}: {report.summary()}")
    return tuple(notes)
