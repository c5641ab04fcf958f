"""Features of images: what stands before the layer of a network that classifies."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import hooked
from ptkit.core.models.onnx_model import OnnxModel
from ptkit.core.models.zoo import find_head


def features(model: nn.Module, *, num_classes: int | None = None) -> Callable[[Tensor], Tensor]:
    """Return a function from images (n, C, H, W) to their features (n, D), float32.

    num_classes: outputs of the head, the last layer that has so many; by default as many as
    `model.class_names`, which `ptkit.load` gives. Of maps and tokens the mean over the places is
    taken. The function runs the model as it is: its mode, gradients and precision are the caller's.

    >>> import torch
    >>> model = ptkit.load("ckpt.pkl")
    >>> ptkit.features(model)(torch.zeros(2, 3, 16, 16)).shape[0]
    2

    Raises:
        UsageError: there is no such layer; or not a model, or one whose classes are not known.
    """
    if not isinstance(model, nn.Module):
        hint = f": ptkit.features(ptkit.load({os.fspath(model)!r}))" if _is_path(model) else ""
        raise UsageError(f"features takes a model, found {type(model).__name__}{hint}")
    count = num_classes
    if count is None:
        if not hasattr(model, "class_names"):
            text = "has no class_names: pass num_classes, the number of outputs of its head"
            raise UsageError(f"{type(model).__name__} {text}")
        count = len(model.class_names)  # type: ignore[arg-type]
    find_head(model, count)

    def of(images: Tensor) -> Tensor:
        with seeing_features(model, num_classes=count) as seen:
            model(images)
            return seen()

    return of


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


@contextmanager
def seeing_features(model: nn.Module, *, num_classes: int) -> Iterator[Callable[[], Tensor]]:
    """Watch a model while it runs: give a function that returns the features (n, D), float32, of
    the images that this thread ran last. Of an ONNX file these are how strange it says they are,
    (n, 1).

    Raises:
        UsageError: no layer has so many outputs.
    """
    if isinstance(model, OnnxModel):
        yield model.strangeness
        return
    own = threading.get_ident()
    caught: list[Tensor] = []

    def see(_name: str, inputs: Any, _output: Any) -> None:
        # Other threads may run the same model meanwhile.
        if threading.get_ident() == own:
            caught[:] = inputs[:1]

    with hooked(model, [find_head(model, num_classes)], see):
        # In float32: under autocast a mean would lose digits.
        yield lambda: mean_over_places(caught[0].float())


def mean_over_places(found: Tensor) -> Tensor:
    """Return (n, D) of maps (n, D, H, W), of tokens (n, T, D), or of (n, D) as it is."""
    if found.ndim == 4:
        return found.flatten(2).mean(dim=2)
    return found.mean(dim=1) if found.ndim == 3 else found
