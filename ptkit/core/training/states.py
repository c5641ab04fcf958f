"""What the checkpoints of a run hold."""

import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ptkit import __version__
from ptkit.core.config.layers import to_layer
from ptkit.core.device import precision_of
from ptkit.core.models.channels import input_channels
from ptkit.core.ranks import here
from ptkit.core.sharding import whole
from ptkit.core.training.loop import Position
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.task import Task

if TYPE_CHECKING:
    # It writes them.
    from ptkit.core.training.run_folder import Run

# Checkpoints carry 8 bytes for each.
_MOST_REMEMBERED = 1_000_000


def checkpoint_of(run: "Run", *, task: Task, kind: str) -> dict[str, Any]:
    """Return a checkpoint of the weights that are evaluated now, with all that their use needs; of
    a model that is divided, all ranks call it, and the first one gets it.

    task: of these weights. kind: "best" or "last".
    """
    training, data, settings = run.training, run.data, run.settings
    # That of evaluation: whoever uses the model prepares images as validation did.
    pipeline, (height, width) = training.valid.pipeline, data.sides
    return {
        "kind": kind,
        "model": {"call": run.model.call, "num_classes": run.model.num_outputs},
        "classes": list(data.class_names),
        "task": task.as_dict(),
        "pipeline": {
            "calls": [str(call) for call in pipeline.calls],
            "tensors": pipeline.tensors,
            # Of a square one number, as all checkpoints have had.
            "size": height if height == width else [height, width],
            "alpha": pipeline.alpha,
            # A model that is named anew for these weights is built for so many.
            "channels": pipeline.channels or input_channels(training.model),
            "mean": list(data.settings.mean),
            "std": list(data.settings.std),
        },
        "state_dict": whole(training.model.state_dict()),
        # None before the first epoch has ended.
        "metrics": {**(run.rows[-1] if run.rows else {}), "best": dict(run.best or {})},
        "data": {
            "seed": settings.train.seed,
            "list_sha256": training.train.images.sha256,
            "valid_sha256": training.valid.images.sha256,
            "num_images": len(training.train.images),
            **_image_hashes(run, is_whole=bool(run.rows)),
        },
        "env": environment(run),
        "config": to_layer(settings),
    }


def _image_hashes(run: "Run", *, is_whole: bool) -> dict[str, torch.Tensor]:
    """Return hashes of all images that the weights have seen: those of the list in its order, then
    those from before, if they are wanted and not too many.

    is_whole: whether a pass has ended; before that files which it has not come to are not read.
    """
    train, earlier = run.training.train, run.data.earlier_images
    if not run.data.settings.remember_images or len(train.images) > _MOST_REMEMBERED:
        return {}
    if not here().is_main:
        return {}
    hashes = train.image_hashes() if is_whole else train.known_hashes()
    if earlier is not None:
        hashes = np.concatenate([hashes, np.setdiff1d(earlier, hashes)])
    return {"image_hashes": torch.from_numpy(hashes)} if len(hashes) <= _MOST_REMEMBERED else {}


def last_checkpoint(run: "Run", position: Position) -> dict[str, Any]:
    """Return the contents of last.pkl: a checkpoint, and what training needs to continue.

    The averaged weights, if there are any, are in the model.
    """
    training = run.training
    # The class means of an embedding belong to the best weights, so they are not in this task.
    contents = checkpoint_of(run, task=training.loss.task, kind="last")
    raw: dict[str, Any] = {}
    if training.average is not None:
        # While the average is in the model, the weights that the optimizer steps are in its place.
        state = training.average.state_dict()
        raw = {
            "raw_state_dict": contents["state_dict"] | whole(state["averages"]),
            "num_averaged": state["num_updates"],
        }
    return contents | {
        "train": {
            **raw,
            "epoch": position.epochs,
            "step": training.schedule.num_steps,
            "step_in_epoch": position.steps,
            "seconds": position.seconds,
            "sums": dict(position.sums),
            "layers": training.gauge.state_dict(),
            "gradients": _gradients(run, position),
            "optimizer": whole(training.optimizer.state_dict()),
            "scheduler": training.schedule.state_dict(),
            "scaler": training.scaler.state_dict(),
            "best": dict(run.best or {}),
            "epochs_without_better": run.history.epochs_without_better,
            # Each step seeds its own device's; code of the user's may draw from this one as well.
            "generator": torch.get_rng_state(),
        },
    }


def _gradients(run: "Run", position: Position) -> dict[str, torch.Tensor]:
    """Return the gradients of an epoch's last step where its histograms are still to be written."""
    training = run.training
    if position.steps * training.settings.accumulate < len(training.train):
        return {}
    if not run.settings.log.histograms:
        return {}
    gradients = {name: parameter.grad for name, parameter in training.model.named_parameters()}
    return {k: grad for k, grad in gradients.items() if grad is not None and not grad.is_sparse}


def environment(setup: Setup) -> dict[str, Any]:
    """Return what the numbers of a run depend on besides its settings."""
    # images.py has imported it before, with the settings that it needs.
    import cv2
    import torchvision

    return {
        "ptkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "opencv": str(cv2.__version__),
        "device": setup.training.train.device.type,
        "processor": platform.machine(),
        # Which of torch's kernels run: those for AVX2 and AVX-512 round differently.
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "precision": precision_of(setup.training.dtype),
        # Sums are divided among threads: with another number of them they round differently.
        "threads": torch.get_num_threads(),
        "world_size": here().num_ranks,
        "memory_format": "channels_last" if setup.settings.train.channels_last else "contiguous",
        "compiled": int(setup.training.compiled is not None),
    }
