"""The model of a run: built, initialised, and with the weights that it starts from."""

from dataclasses import dataclass, replace

from torch import nn

from ptkit.core.config.settings import Settings
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.fitting import with_stem
from ptkit.core.models.initialization import initialize
from ptkit.core.models.locate import weights_to_start_from
from ptkit.core.models.transfer import TransferReport, transfer
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, default_model, find_head
from ptkit.core.parts.calls import parse
from ptkit.core.training.setup_data import PreparedData
from ptkit.core.training.tasks.loss import Loss

# Outputs of a model whose images are compared with each other.
_EMBEDDING = 64


@dataclass(frozen=True)
class PreparedModel:
    """call: the text that builds the same model again. report: what was taken from old weights, the
    file of which has the weights_sha256. fitted: names of the parameters that were set from images.
    """

    module: nn.Module
    call: str
    num_outputs: int
    report: TransferReport | None
    notes: tuple[str, ...]
    weights_sha256: str | None = None
    fitted: tuple[str, ...] = ()


def weights_of(settings: Settings) -> Weights | None:
    """Return the weights that a run starts from, if any.

    Raises:
        CheckpointError: not found, damaged, or another file than the settings say.
        UsageError: the settings say something of weights, and name none.
    """
    asked = settings.model
    if asked.weights is None:
        if asked.weights_sha256 is not None:
            raise UsageError("model.weights_sha256 is for model.weights, which is not given")
        call = parse(asked.call or "none")
        if call.tag:
            raise call.error(
                f".{call.tag} names pretrained weights: ptkit finetune {call.full_name} starts from"
                " them; leave it out to train from scratch"
            )
        return None
    start = weights_to_start_from(asked.weights, model=asked.call, size=settings.data.size)
    if asked.weights_sha256 not in (None, start.sha256):
        raise CheckpointError(
            f"{start.path} is another file than that of the settings: found sha256 {start.sha256},"
            f" model.weights_sha256 is {asked.weights_sha256}; get that file, or pass --set"
            " model.weights_sha256=none"
        )
    return start


def prepare_model(
    settings: Settings, data: PreparedData, loss: Loss, *, start: Weights | None, channels: int
) -> PreparedModel:
    """Build the model, initialise it and take over old weights, on the CPU.

    channels: of the images that it gets.

    Raises:
        UsageError: unknown model or initialisation, or a size that the model does not take.
        CheckpointError: none of the weights fit.
    """
    asked, seed, size = settings.model, settings.train.seed, data.sides
    num_outputs = loss.facts.num_classes
    if loss.compares:
        num_outputs = settings.loss.embedding or _EMBEDDING
    chosen = parse(asked.call or (start.call if start else None) or default_model(min(size)))
    stem_notes: tuple[str, ...] = ()
    if start is not None:
        chosen, stem_notes = with_stem(chosen, start.state_dict)
    module, call = build_model(
        chosen, num_classes=num_outputs, size=size, channels=channels, seed=seed
    )
    check_forward(module, size, num_classes=num_outputs, channels=channels)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    notes = [f"model: {call}, {num_parameters:,} parameters"]
    # Before old weights are taken over: those that fit replace it.
    if asked.init:
        initialize(module, asked.init, seed=seed)
        notes.append(f"init: {'; '.join(asked.init)}")
    report = None
    if start is not None:
        is_same_task = start.class_names in (None, data.class_names)
        # A head trained on other classes is of no use, even where its shape fits.
        leave_out = "" if is_same_task else find_head(module, num_outputs)
        report = transfer(module, start.state_dict, leave_out=leave_out)
        taken = f"{report.summary()}; sha256 {start.sha256[:12]}"
        words = (*start.notes, *stem_notes, *report.notes, taken)
        notes += replace(start, notes=words).lines
    sha256 = start.sha256 if start else None
    return PreparedModel(module, call, num_outputs, report, tuple(notes), sha256)
