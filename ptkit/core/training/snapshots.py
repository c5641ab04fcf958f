"""What goes into a checkpoint: the keys that every later command reads."""

import platform
from typing import Any

import torch

from ptkit import __version__
from ptkit.core.config import to_layer
from ptkit.core.training.live_run import Run
from ptkit.core.training.tasks.readings import Reading


def checkpoint_of(run: Run, reading: Reading, *, kind: str) -> dict[str, Any]:
    """Return the contents of ckpt.pkl: the weights that are evaluated now, and all that is needed
    to use them.

    reading: of these weights. kind: "best" or "last".
    """
    training, data, settings = run.training, run.data, run.settings
    pipeline = training.valid.pipeline
    return {
        "kind": kind,
        "model": {"call": run.model.call, "num_classes": run.model.num_outputs},
        "classes": list(data.class_names),
        "task": reading.as_task(),
        "pipeline": {
            "calls": list(pipeline.calls),
            "tensors": pipeline.tensors,
            "size": data.size,
            "mean": list(data.settings.mean),
            "std": list(data.settings.std),
        },
        "state_dict": training.model.state_dict(),
        "metrics": {**run.rows[-1], "best": dict(run.best or {})},
        "data": {
            "seed": settings.train.seed,
            "list_sha256": training.train.images.sha256,
            "valid_sha256": training.valid.images.sha256,
            "num_images": len(training.train.images),
        },
        "env": environment(run),
        "config": to_layer(settings),
    }


def last_checkpoint(run: Run) -> dict[str, Any]:
    """Return the contents of last.pkl: the same after the last epoch, and what training needs to go
    on.
    """
    training = run.training
    # An embedding's places of the classes belong to the best weights.
    contents = checkpoint_of(run, training.loss.reading, kind="last")
    raw: dict[str, Any] = {}
    if training.average is not None:
        # While the average stands in the model, the weights that the optimizer steps stand in its
        # place.
        state = training.average.state_dict()
        raw = {
            "raw_state_dict": contents["state_dict"] | state["averages"],
            "num_averaged": state["num_updates"],
        }
    return contents | {
        "train": {
            **raw,
            "epoch": int(run.rows[-1]["epoch"]),
            "step": training.schedule.num_steps,
            "optimizer": training.optimizer.state_dict(),
            "scheduler": training.schedule.state_dict(),
            "best": dict(run.best or {}),
            "epochs_without_better": run.epochs_without_better,
        },
    }


def environment(run: Run) -> dict[str, Any]:
    """Return what the numbers of a run depend on beside its settings."""
    import cv2
    import torchvision

    return {
        "ptkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "opencv": str(cv2.__version__),
        "device": run.training.train.device.type,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if run.settings.train.channels_last else "contiguous",
    }
