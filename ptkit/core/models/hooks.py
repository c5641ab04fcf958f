"""Outputs of the layers of any model, by forward hooks: nothing is replayed by hand."""

import fnmatch
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.device import is_of_device, is_out_of_memory
from ptkit.core.errors import UsageError
from ptkit.core.models.layouts import Flow, Layout
from ptkit.core.wording import first_of, nearest, reason_of

MAX_DEFAULT_LAYERS = 6
# What a model's code raises on images of a size that it does not take.
_REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError)
# Models in evaluation for a while: the modes to go back to, and how many asked for it.
_evaluated: dict[nn.Module, tuple[dict[nn.Module, bool], int]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Layer:
    """One module that ran.

    kind: its class. shape: of its output for one image; channels first where it is a map. layout:
    how other outputs of it become maps.
    num_calls: in one pass; a module that is called several times (one ReLU used twice) is listed
    where it was called last, with that output.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    num_calls: int
    layout: Layout

    @property
    def resolution(self) -> tuple[int, int] | None:
        """Height and width, or None where the output is not a map."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else None

    @property
    def is_map(self) -> bool:
        """Whether the output has more than one place."""
        return self.resolution not in (None, (1, 1))


def trace_layers(model: nn.Module, images: Tensor) -> list[Layer]:
    """Run the model once and return its layers in the order in which they finished last.

    images: (n, C, H, W); the first one is used. The model is left as it was.

    Raises:
        UsageError: the model does not take images of this size.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    flow = Flow((images.shape[1], images.shape[2], images.shape[3]))
    # By name: the number in the flow, the output's shape, and how often the module ran.
    found: dict[str, tuple[int, torch.Size, int]] = {}

    def note(name: str, inputs: Sequence[Any], output: Tensor) -> None:
        calls = found.pop(name)[2] if name in found else 0
        found[name] = flow.note(modules[name], inputs, output), output.shape, calls + 1

    _run(model, images[:1], modules, note)
    layers = []
    # Only now: what a module gave may be known from the one that took it.
    for name, (number, shape, calls) in found.items():
        layout = flow.layout(number)
        maps = layout.maps(torch.empty(shape, device="meta"))
        kind = type(modules[name]).__name__
        layers.append(Layer(name, kind, tuple(maps.shape[1:]), calls, layout))
    return layers


def record_activations(
    model: nn.Module, images: Tensor, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the outputs of some layers: float32 (n, C, H, W), or (n, C, 1, 1) for plain vectors.

    Of a module that is called several times, the last output. The model is left as it was.

    Raises:
        UsageError: a layer that the model never calls, or images of a size it does not take.
    """
    layouts = {layer.name: layer.layout for layer in trace_layers(model, images)}
    found: dict[str, Tensor] = {}

    def keep(name: str, _inputs: Sequence[Any], output: Tensor) -> None:
        # A copy: an in-place ReLU that follows would overwrite what is seen here.
        found[name] = layouts[name].drawn(output).detach().clone()

    _run(model, images, [name for name in layers if name in layouts], keep)
    missing = [name for name in layers if name not in found]
    if missing:
        raise UsageError(
            f"the model never calls {', '.join(missing)}, so there is nothing to draw; see --list"
        )
    return {name: found[name].float().cpu().numpy() for name in layers}


def default_layers(layers: Sequence[Layer], *, limit: int = MAX_DEFAULT_LAYERS) -> list[str]:
    """Return the last layer of each spatial resolution, in the order of the pass.

    Where there are more than `limit`, so many are spread evenly from the first to the last. Without
    any map above 1×1: the last layer.
    """
    last = {layer.resolution: layer.name for layer in layers if layer.is_map}
    names = [layer.name for layer in layers if layer.name in last.values()]
    names = names or [layer.name for layer in layers[-1:]]
    if len(names) <= limit:
        return names
    return [names[round(k)] for k in np.linspace(0, len(names) - 1, limit)]


def match_layers(layers: Sequence[Layer], patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers that names or globs match, in the order of the pass.

    Raises:
        UsageError: a pattern that matches nothing; the message has the nearest name.
    """
    return match_names([layer.name for layer in layers], patterns, what="layer")


def match_names(names: Sequence[str], patterns: Sequence[str], *, what: str) -> list[str]:
    """Return the names that equal one of the patterns or match it as a glob, in their own order.

    Raises:
        UsageError: a pattern that matches nothing; the message has the nearest name.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            hint = nearest(pattern, names) or f"; there are {first_of(names, 6)}"
            if "," in pattern:
                hint = ": give each name its own --layers"
            raise UsageError(f"--layers {pattern} matches no {what}{hint}")
        chosen |= matched
    return [name for name in names if name in chosen]


@contextmanager
def evaluating(model: nn.Module, *, keeps_random_state: bool = False) -> Iterator[None]:
    """Switch every module to evaluation, and at the end back to the mode it was in.

    Several threads may be in it with one model: the last to leave switches back.

    keeps_random_state: also give back the random state of the CPU and of the model's GPUs.
    """
    gpus = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with _lock:
        modes = {module: module.training for module in model.modules()}
        # Those that the first one found: the others find evaluation.
        modes, num_inside = _evaluated.get(model, (modes, 0))
        _evaluated[model] = modes, num_inside + 1
        model.eval()
    try:
        with torch.random.fork_rng(gpus, enabled=keeps_random_state):
            yield
    finally:
        with _lock:
            modes, num_inside = _evaluated.pop(model)
            if num_inside > 1:
                _evaluated[model] = modes, num_inside - 1
            else:
                for module, is_training in modes.items():
                    module.training = is_training


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Give BatchNorm's statistics, and all other buffers, back as they were."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])


@contextmanager
def taking(
    model: nn.Module, images: Tensor, *, in_training: bool = False, remedy: str = ""
) -> Iterator[None]:
    """Turn an error of the model's code into one that names the size of the images.

    Raises:
        UsageError: the model does not take images (n, C, H, W) of this size, or not so many.
    """
    try:
        yield
    except _REFUSALS as error:
        # No matter of size or batch alone, or of earlier work.
        if is_out_of_memory(error) or is_of_device(error):
            raise
        what = f"{'×'.join(map(str, images.shape[2:]))} images"
        if in_training:
            what = f"a training batch of {len(images)} ({what})"
        raise UsageError(
            f"{type(model).__name__} does not take {what} ({reason_of(error)}){remedy}"
        ) from error


@contextmanager
def hooked(
    model: nn.Module, names: Iterable[str], see: Callable[[str, Any, Any], Tensor | None]
) -> Iterator[None]:
    """Call `see` with name, inputs and output each time one of the named modules has run.

    The model continues with what `see` returns, where that is not None.
    """
    with ExitStack() as stack:
        for name in names:
            # The default argument binds this name; the loop's own changes.
            hook = model.get_submodule(name).register_forward_hook(
                lambda _module, inputs, output, name=name: see(name, inputs, output)
            )
            stack.callback(hook.remove)
        yield


def _run(
    model: nn.Module,
    images: Tensor,
    names: Iterable[str],
    see: Callable[[str, Sequence[Any], Tensor], None],
) -> None:
    known = dict(model.named_modules())

    def see_tensor(name: str, inputs: Sequence[Any], output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.ndim > 1 and len(tensor) == len(images):
            see(name, inputs, tensor)

    watched = hooked(model, [name for name in names if name in known], see_tensor)
    with taking(model, images), watched, evaluating(model), torch.inference_mode():
        model(images)


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a module gave, the first one where it gave several."""
    values = output.values() if isinstance(output, dict) else output
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, Iterable):
        return None
    return next((value for value in values if isinstance(value, Tensor)), None)
