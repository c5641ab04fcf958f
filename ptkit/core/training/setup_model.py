"""The model of a run, with fresh, initialised or transferred weights, and its optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ptkit.core.config import ModelSettings, OptimizerSettings
from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import initialize
from ptkit.core.models.transfer import TransferReport, transfer
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, default_model, find_head
from ptkit.core.parts.calls import Call
from ptkit.core.training.optimization.optimizers import (
    OptimizerSetup,
    build_optimizer,
    split_rate,
    usual_lr,
)

# Finetuning moves the body at a tenth of the usual rate, the head (times head_lr) at the usual one.
_FINETUNE_RATE = 0.1


@dataclass(frozen=True)
class PreparedModel:
    """call: the text that builds the same model again. report: what was taken from old weights."""

    module: nn.Module
    call: str
    num_outputs: int
    report: TransferReport | None
    notes: tuple[str, ...]


def prepare_model(
    asked: ModelSettings,
    *,
    class_names: Sequence[str],
    num_outputs: int,
    size: int,
    seed: int,
    start: Weights | None = None,
) -> PreparedModel:
    """Build the model, initialise it and take over old weights, on the CPU.

    num_outputs: one per class, one per number, or the size of an embedding.

    Raises:
        UsageError: unknown model or initialisation, or a size that the model does not take.
        CheckpointError: none of the weights fit.
    """
    chosen = asked.call or (start.call if start else None) or default_model(size)
    module, call = build_model(chosen, num_classes=num_outputs, size=size, seed=seed)
    check_forward(module, size, num_classes=num_outputs)
    if asked.init:
        initialize(module, asked.init, seed=seed)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    notes = [f"model: {call}, {num_parameters:,} parameters"]
    if asked.init:
        notes.append(f"init: {'; '.join(asked.init)}")
    report = None
    if start is not None:
        is_same_task = start.class_names is None or start.class_names == tuple(class_names)
        # A head trained on other classes is of no use, even where its shape fits.
        leave_out = "" if is_same_task else find_head(module, num_outputs)
        report = transfer(module, start.state_dict, leave_out=leave_out)
        words = (*start.notes, *report.notes, report.summary())
        notes += [f"weights of {start.source}: {text}" for text in words]
    return PreparedModel(module, call, num_outputs, report, tuple(notes))


def prepare_optimizer(
    asked: OptimizerSettings,
    model: PreparedModel,
    *,
    call: Call,
    batch_size: int,
    epochs: int,
    is_finetuned: bool,
) -> OptimizerSetup:
    """Return the optimizer with its groups; the user's own lines override the rate of the head.

    batch_size: images per optimizer step.

    Raises:
        UsageError: unknown names, selectors that match nothing, or options that do not fit.
    """
    call, lr = split_rate(call, lr=asked.lr)
    if lr is None:
        lr = usual_lr(call, model.module, batch_size=batch_size)
        lr *= _FINETUNE_RATE if is_finetuned else 1.0
    lines = list(asked.groups)
    # LBFGS takes no groups, so the head moves as the body does.
    if asked.head_lr != 1.0 and call.name != "LBFGS":
        lines.insert(0, f"{_head(model.module, model.num_outputs)}: lr={asked.head_lr:g}x")
    return build_optimizer(
        call,
        model.module,
        lr=lr,
        groups=lines,
        decay_all=asked.decay_all,
        layer_decay=asked.layer_decay,
        epochs=epochs,
    )


def _head(model: nn.Module, num_outputs: int) -> str:
    name = find_head(model, num_outputs)
    if not name:
        raise UsageError(
            "the model is one layer and has no separate head: use --set optimizer.head_lr=1"
        )
    return name
