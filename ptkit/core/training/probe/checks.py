"""What a probe is refused for, before anything is computed."""

from dataclasses import fields
from typing import cast

import torch
from torch import Tensor, nn

from ptkit.core.config.settings import AUTO, Settings
from ptkit.core.data.labels import SINGLE
from ptkit.core.device import exact_products
from ptkit.core.errors import UsageError
from ptkit.core.models.features import features
from ptkit.core.models.hooks import evaluating
from ptkit.core.models.zoo import find_head
from ptkit.core.training.tasks.loss import Loss

# Settings beside those of optimizer and schedule that have no effect without steps.
_OF_STEPS = (
    ("model", "init"),
    *(("data", key) for key in ("sampler", "shuffle", "drop_last")),
    *(("train", key) for key in ("accumulate", "clip_grad", "clip_value", "patience", "ema")),
    ("train", "profile"),
)


def check_method(settings: Settings) -> None:
    """Refuse settings that have no effect on a probe, and those of a probe without one.

    Raises:
        UsageError: there are some; the message names them.
    """
    method = settings.train.method
    if method != "probe" and settings.train.knn is not None:
        raise UsageError("train.knn is for a probe: use `ptkit probe --knn`")
    if method == "steps":
        return
    if settings.model.weights is None:
        raise UsageError(f"train.method={method} needs trained weights: see `ptkit probe --help`")
    if method == "probe":
        _check_without_steps(settings)


def _check_without_steps(settings: Settings) -> None:
    usual = Settings()
    sections = ("optimizer", "scheduler")
    keys = [(name, field.name) for name in sections for field in fields(getattr(usual, name))]
    changed = [
        f"{section}.{key}"
        for section, key in (*keys, *_OF_STEPS)
        if getattr(getattr(settings, section), key) != getattr(getattr(usual, section), key)
    ]
    # Written out, a run says compile=false.
    changed += ["train.compile"] if settings.train.compile is True else []
    changed += ["train.batch_size=auto"] if settings.train.batch_size == AUTO else []
    if changed:
        raise UsageError(f"train.method=probe makes no steps: leave out {', '.join(changed)}")
    if settings.train.epochs != 1:
        raise UsageError("train.method=probe is one epoch: use --epochs 1")
    if settings.loss.call not in (None, "CrossEntropyLoss()"):
        raise UsageError("train.method=probe minimises CrossEntropyLoss(): leave another loss out")


def head_of(model: nn.Module, num_classes: int) -> nn.Linear:
    """Return the head of a model that `check_head` let pass."""
    return cast(nn.Linear, model.get_submodule(find_head(model, num_classes)))


def check_head(model: nn.Module, loss: Loss, images: Tensor) -> None:
    """Refuse what no head can be fitted for.

    images: some that the model takes, (n, C, H, W).

    Raises:
        UsageError: labels other than one class an image, or outputs that are not those of a linear
            head on what stands before it.
    """
    if loss.task.kind != SINGLE:
        raise UsageError(
            "a probe fits a head for one class per image; for other labels and losses train with"
            " --set train.method=steps"
        )
    name = find_head(model, loss.facts.num_classes)
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UsageError(f"a probe needs a linear head with a bias, and {name} is {head}")
    # Whatever follows the head would be missing from what is fitted.
    with evaluating(model), torch.inference_mode(), exact_products(images.device):
        found = features(model, num_classes=loss.facts.num_classes)(images[:1])
        if found.shape[1] != head.in_features or not torch.allclose(
            head(found), model(images[:1]).float(), rtol=1e-3, atol=1e-4
        ):
            raise UsageError(f"a probe needs a model that ends with its head, {name}")
