"""What changes where several processes train one model."""

from dataclasses import replace

import torch
from torch import nn

from ptkit.core.config import AUTO, Settings, TrainSettings
from ptkit.core.distributed import Replica, has_unused
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.ranks import here
from ptkit.core.training.loop import Training


def check_ranks(settings: Settings) -> None:
    """Refuse what several processes cannot do together: what needs the images of a whole batch, or
    what each would choose for itself.

    Raises:
        UsageError: see above.
    """
    if here().is_alone:
        return
    if settings.train.batch_size == AUTO:
        raise UsageError("--batch-size auto is measured by one process: give several a number")
    if settings.train.compile is True:
        raise UsageError("train.compile=true is for one process: leave it out with several")


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


def in_ranks(training: Training, images: torch.Tensor) -> Training:
    """Let a training step together with the other ranks, if there are any.

    Raises:
        UsageError: what is compared or mixed would depend on the number of ranks.
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
    needs_whole = "MixUp and CutMix mix" if training.train.pipeline.mix is not None else ""
    if training.loss.compares:
        needs_whole = f"{training.loss.call.name} compares"
    if needs_whole:
        raise UsageError(
            f"{needs_whole} the images of a whole batch, of which each of {rank.num_ranks}"
            " processes has a part: train in one process"
        )
    if asked.method == "probe":
        return training
    with keeping_buffers(training.model), torch.random.fork_rng([]):
        finds_unused = has_unused(training.model, training.forward, images)
    return replace(training, replica=Replica(training.model, finds_unused=finds_unused))
