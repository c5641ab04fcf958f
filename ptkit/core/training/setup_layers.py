"""What log.layers adds to a training: its gauge, and the first line of layers.jsonl."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.loading.batches import Batch, Batches
from ptkit.core.device import precision_of
from ptkit.core.errors import UsageError
from ptkit.core.models.zoo import find_head
from ptkit.core.training.loop import Training
from ptkit.core.training.optimization.optimizers import OptimizerSetup
from ptkit.core.training.optimization.paired import groups_by_parameter
from ptkit.core.training.optimization.parameter_groups import Group
from ptkit.core.training.recording.initial import Initial, initial_of
from ptkit.core.training.recording.layers import LayerGauge
from ptkit.core.training.recording.outputs import MOST_OUTPUTS, Margins, ValidOutputs
from ptkit.core.training.setup_model import PreparedModel
from ptkit.core.training.tasks.guessing import guessing_loss


def with_gauge(
    training: Training, batch: Batch, *, model: PreparedModel
) -> tuple[Training, dict[str, Any]]:
    """Return the training with a gauge, and the first line of layers.jsonl; the model stays as it
    was.

    batch: of training, full. model: that of the training.
    """
    training.to_training_mode()
    settings, loss = training.settings, training.loss
    initial = initial_of(training.model, batch, loss, dtype=training.dtype)
    weights, head = _weights(training.model, initial), _head(training.model, model.num_outputs)
    # Outputs that are compared with each other are no scores of classes.
    is_single = loss.task.kind == SINGLE and not loss.compares
    is_balanced = training.train.sampling.sampler == "balanced"
    has_margins = is_single and training.counts_right_answers
    keeps_outputs = is_single and len(training.valid.images) * model.num_outputs <= MOST_OUTPUTS
    gauge = LayerGauge(
        training.model,
        weights=weights,
        trained=training.optimizer_setup.trained,
        head=None if head is None else training.model.get_submodule(head),
        clips=settings.clip_grad is not None and settings.clip_value is None,
        margins=Margins(len(training.train.images)) if has_margins else None,
        outputs=ValidOutputs(len(training.valid.images)) if keeps_outputs else None,
    )
    start = {
        "kind": "start",
        "version": 1,
        "num_classes": loss.facts.num_classes,
        "class_names": list(training.train.images.class_names),
        "class_counts": _counts(training.train, loss.facts.num_classes),
        "valid_counts": _counts(training.valid, loss.facts.num_classes),
        "guessing": guessing_loss(
            loss, is_balanced=is_balanced, is_mixed=training.train.pipeline.mix is not None
        ),
        "images_kept": training.train.kept is not None,
        "precision": precision_of(training.dtype),
        "clip_grad": settings.clip_grad,
        "weights": _described(weights, training.optimizer_setup),
        "fitted": list(model.fitted),
        "head": None if head is None else f"{head}.weight",
        "initial": _as_dict(initial),
    }
    return replace(training, gauge=gauge), start


def _weights(model: nn.Module, initial: Initial) -> dict[str, nn.Parameter]:
    """Return parameters with at least two dimensions, in the order in which their layers run."""
    place = {name: number for number, name in enumerate(initial.order)}

    def first_run(name: str) -> int:
        # A layer whose weights another one uses never runs by itself.
        while name and name not in place:
            name = name.rpartition(".")[0]
        return place.get(name, 0)

    found = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return {k: found[k] for k in sorted(found, key=lambda k: first_run(k.rpartition(".")[0]))}


def _head(model: nn.Module, num_outputs: int) -> str | None:
    try:
        return find_head(model, num_outputs)
    except UsageError:
        return None


def _counts(batches: Batches, num_classes: int) -> list[int] | None:
    """Return the images of each class; None where images have numbers."""
    images = batches.images
    if images.label_kind == REGRESSION:
        return None
    is_single = images.label_kind == SINGLE
    counts = (
        np.bincount(images.labels, minlength=num_classes) if is_single else images.labels.sum(0)
    )
    return [int(count) for count in counts]


def _described(
    weights: Mapping[str, nn.Parameter], setup: OptimizerSetup
) -> dict[str, dict[str, Any]]:
    """Return each weight's shape and what the optimizer does with it; see docs/files.md."""
    optimizers = (setup.optimizer, *(waiting.optimizer for waiting in setup.waiting))
    groups = groups_by_parameter(optimizers)
    later = {
        id(parameter): waiting.epoch
        for waiting in setup.waiting
        for _, parameter in waiting.parameters
    }
    untrained: tuple[Group, float] = ({"lr": 0.0}, setup.lr)
    found: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        group, rate = groups.get(id(weight), untrained)
        found[name] = {
            "shape": list(weight.shape),
            "trained": id(weight) in groups,
            "from_epoch": later.get(id(weight), 1),
            "lr_scale": (group.get("initial_lr") or group["lr"]) / rate,
            "weight_decay": group.get("weight_decay", 0.0),
        }
    return found


def _as_dict(initial: Initial) -> dict[str, Any]:
    return {
        "loss": initial.loss,
        "layer_std": dict(initial.layer_std),
        "input": {"mean": initial.mean, "std": initial.std, "max": initial.largest},
        "outputs_are_probabilities": initial.outputs_are_probabilities,
    }
