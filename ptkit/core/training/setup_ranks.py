"""What changes where several processes train one model."""

from dataclasses import replace

import torch
from torch import nn

from ptkit.core.config.settings import AUTO, Settings, TrainSettings
from ptkit.core.device import autocast, passing_look
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.parts.calls import Call
from ptkit.core.ranks import here
from ptkit.core.replica import Replica, has_unused
from ptkit.core.sharding import Sharded
from ptkit.core.training.loop import Training

# Whose steps change each number of a weight by itself, so that each rank can step its part.
_STEPS_PARTS = frozenset(
    {"SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "Adamax", "AdamW", "NAdam"}
    | {"RAdam"}
)


def in_parts(settings: Settings) -> bool:
    """Whether each process is to have a part of the model."""
    return settings.train.shard and not here().is_alone


def shard_notes(settings: Settings) -> list[str]:
    """Say what train.shard does here, if it is asked for."""
    if not settings.train.shard:
        return []
    if here().is_alone:
        return ["train.shard: one process has the whole model"]
    return [
        f"each of {here().num_ranks} processes has a part of the model: without layers.jsonl,"
        " histograms, graph and pictures of weights, which are of the whole one"
    ]


def for_ranks(settings: Settings) -> Settings:
    """Return the settings with what several processes do not record; refuse what cannot be done
    with a model in parts.

    Raises:
        UsageError: see above.
    """
    if not here().is_alone and settings.train.sync_batchnorm and settings.train.batch_size == AUTO:
        raise UsageError(
            "--batch-size auto is measured by one process, and train.sync_batchnorm waits for all:"
            " give a number"
        )
    if not in_parts(settings):
        return settings
    if settings.train.batch_size == AUTO:
        raise UsageError(
            "--batch-size auto is measured with the whole model, of which train.shard gives each"
            " process a part: give a number"
        )
    if settings.train.compile is True:
        raise UsageError(
            "train.compile is for a whole model, of which train.shard gives each process a part:"
            " leave one of them out"
        )
    if settings.train.method != "steps":
        raise UsageError("train.shard is for train.method=steps: leave it out")
    if settings.train.precision == "fp16":
        raise UsageError("train.shard is for --precision fp32 and bf16, whose range needs no scale")
    log = replace(settings.log, layers=False, histograms=False, graph=False, pictures=False)
    return replace(settings, log=log)


def placed(
    model: nn.Module, settings: Settings, call: Call, *, device: torch.device, channels_last: bool
) -> tuple[nn.Module, Sharded | None]:
    """Return the model on its device, with what steps it where it is divided among ranks.

    call: of the optimizer.

    Raises:
        UsageError: it cannot be divided, or not with this optimizer.
    """
    if not in_parts(settings):
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        return with_own_norms(model, settings.train, device), None
    if call.prefix or call.name not in _STEPS_PARTS:
        raise UsageError(
            f"train.shard is for optimizers that step each number by itself, and {call.name} does"
            " not: use SGD or AdamW"
        )
    if callable(getattr(model, "fit_inputs", None)):
        raise UsageError(f"{type(model).__name__} is fitted whole: leave train.shard out")
    model = with_own_norms(model, settings.train, device)
    return model, Sharded(model, device)


def with_own_norms(model: nn.Module, asked: TrainSettings, device: torch.device) -> nn.Module:
    """Return the model with BatchNorm over all ranks, where that is asked for; the parameters are
    the same.

    Raises:
        UsageError: not on CUDA, for which alone torch has it.
    """
    if here().is_alone or not asked.sync_batchnorm:
        return model
    if device.type != "cuda":
        raise UsageError(
            "train.sync_batchnorm is for processes on GPUs, and these are on the CPU: leave it out"
        )
    synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synced


def in_ranks(training: Training, images: torch.Tensor, parts: Sharded | None) -> Training:
    """Let a training step together with the other ranks, if there are any.

    parts: steps the model if it is divided.

    Raises:
        UsageError: a step has fewer images than there are ranks.
    """
    rank, asked = here(), training.settings
    if rank.is_alone:
        return training
    batch_size = training.train.sampling.batch_size
    if batch_size < rank.num_ranks:
        raise UsageError(
            f"train.batch_size is {batch_size}, the images of a step in all {rank.num_ranks}"
            " processes: raise --batch-size, or start fewer"
        )
    if asked.method == "probe":
        return training
    if parts is not None:
        return replace(training, replica=parts)
    with (
        keeping_buffers(training.model),
        torch.random.fork_rng([]),
        # As the steps of the run; and it chooses no kernels for them.
        autocast(images.device, training.dtype),
        passing_look(),
    ):
        finds_unused = has_unused(training.model, training.forward, images)
    replica = Replica(training.model, training.forward, finds_unused=finds_unused)
    return replace(training, replica=replica)
