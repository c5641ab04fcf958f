"""What the layers of any model give for some images, by forward hooks: nothing is replayed by hand."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.wording import nearest

MAX_DEFAULT_LAYERS = 6


@dataclass(frozen=True)
class Layer:
    """One module that ran.

    kind: its class. shape: of its output for one image; channels first where it is a map.
    num_calls: in one pass; a module that is called several times (one ReLU used twice) stands where
    it was called last, with that output.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    num_calls: int

    @property
    def resolution(self) -> tuple[int, int] | None:
        """Height and width, or None where the output is not a map."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else None


def trace_layers(model: nn.Module, images: Tensor) -> list[Layer]:
    """Run the model once and return its layers in the order in which they finished (for the last
    time).

    images: (n, 3, H, W); the first one is used. The model is left as it was.

    Raises:
        UsageError: the model does not take images of this size.
    """
    found: dict[str, Layer] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        calls = found.pop(name).num_calls if name in found else 0
        found[name] = Layer(
            name, type(module).__name__, tuple(as_maps(output).shape[1:]), calls + 1
        )

    names = [name for name, _ in model.named_modules() if name]
    _run(model, images[:1], names, note)
    return list(found.values())


def record_activations(
    model: nn.Module, images: Tensor, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what the named layers give for the images: float32 (n, C, H, W), or (n, C, 1, 1) for
    plain vectors.

    Of a module that is called several times, the last output. The model is left as it was.

    Raises:
        UsageError: a layer that the model never calls, or images of a size it does not take.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, output: Tensor) -> None:
        # A copy: an in-place ReLU that follows would overwrite what is seen here.
        found[name] = as_maps(output).detach().clone()

    _run(model, images, layers, keep)
    missing = [name for name in layers if name not in found]
    if missing:
        raise UsageError(
            f"the model never calls {', '.join(missing)}, so there is nothing to draw; see --list"
        )
    return {name: _four_dimensional(found[name]).float().cpu().numpy() for name in layers}


def default_layers(layers: Sequence[Layer]) -> list[str]:
    """Return the last layer of each spatial resolution in the order of the pass, at most six of
    them.

    Where there are more, six are spread evenly from the first to the last. Without any map above
    1×1: the last layers.
    """
    last = {
        layer.resolution: layer.name for layer in layers if layer.resolution not in (None, (1, 1))
    }
    names = [layer.name for layer in layers if layer.name in last.values()] or [
        layer.name for layer in layers[-1:]
    ]
    if len(names) <= MAX_DEFAULT_LAYERS:
        return names
    return [names[round(k)] for k in np.linspace(0, len(names) - 1, MAX_DEFAULT_LAYERS)]


def match_layers(layers: Sequence[Layer], patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers that the names or globs mean, in the order of the pass.

    Raises:
        UsageError: a pattern that matches nothing; the message has the nearest name.
    """
    names = [layer.name for layer in layers]
    return match_names(names, patterns, what="layer")


def as_maps(output: Tensor) -> Tensor:
    """Return a layer's output (n, ...) with channels first.

    Tokens (n, T, C) become (n, C, H, W) where T, or T less one class token, is a square;
    channels-last maps
    (n, H, W, C) with H = W are turned; anything else stays as it is.
    """
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        return output.permute(0, 3, 1, 2)
    if output.ndim != 3:
        return output
    for skipped in (0, 1):
        side = round((output.shape[1] - skipped) ** 0.5)
        if side > 1 and side * side == output.shape[1] - skipped:
            return output[:, skipped:].transpose(1, 2).reshape(len(output), -1, side, side)
    return output


def _four_dimensional(maps: Tensor) -> Tensor:
    if maps.ndim == 4:
        return maps
    if maps.ndim == 3:  # tokens that form no square: a strip
        return maps.transpose(1, 2).unsqueeze(2)
    return maps.reshape(len(maps), -1, 1, 1)


def _run(
    model: nn.Module,
    images: Tensor,
    names: Sequence[str],
    see: Callable[[str, nn.Module, Tensor], None],
) -> None:
    modules = dict(model.named_modules())
    handles = []

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is not None and tensor.ndim > 1 and len(tensor) == len(images):
                see(name, module, tensor)

        return hook

    try:
        handles += [
            modules[name].register_forward_hook(hook_of(name)) for name in names if name in modules
        ]
        with _evaluating(model), torch.inference_mode():
            model(images)
    except (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError) as error:
        size = "×".join(map(str, images.shape[2:]))
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{type(model).__name__} does not take {size} images ({reason})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a module gave, the first one where it gave several."""
    if isinstance(output, Tensor):
        return output
    values = (
        output.values()
        if isinstance(output, dict)
        else output
        if isinstance(output, list | tuple)
        else ()
    )
    return next((value for value in values if isinstance(value, Tensor)), None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation and back to what it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


def match_names(names: Sequence[str], patterns: Sequence[str], *, what: str) -> list[str]:
    """Return the names that equal one of the patterns or match it as a glob, in their own order.

    Raises:
        UsageError: a pattern that matches nothing; the message has the nearest name.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            hint = (
                nearest(pattern, names)
                or f"; there are {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
            )
            raise UsageError(f"--layers {pattern} matches no {what}{hint}")
        chosen |= matched
    return [name for name in names if name in chosen]
