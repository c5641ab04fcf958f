"""What functions make of the outputs of layers: `F.relu(self.conv1(x))` has no module to hook."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import evaluating, first_tensor, hooked, taking, trace_layers
from ptkit.core.wording import first_of

# nn.ReLU6 calls hardtanh.
_ALSO_CALLED = {"relu6": ("hardtanh",)}


def record_following(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, function: str
) -> dict[str, np.ndarray]:
    """Return what a function, such as relu, makes of the outputs of layers: float32 (n, C, H, W).

    The function may be called by a module or by the model's own code, in place or not. Between the
    layer and its call there may be others (BatchNorm, pooling, the sum of a residual block), but no
    further layer with a weight matrix or kernels. A layer that ends in the function is shown as it
    is. Of a layer that is called several times, the last output. The model is left as it was.

    Raises:
        UsageError: the function does not follow a layer, or images of a size the model does not
            take.
    """
    layouts = {layer.name: layer.layout for layer in trace_layers(model, images)}
    watch = _Following(function)

    def begin(name: str, _inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            watch.begin(name, tensor)

    with (
        taking(model, images),
        hooked(model, layers, begin),
        evaluating(model),
        torch.inference_mode(),
        watch,
    ):
        model(images)
    for name in layers:
        if name not in watch.found:
            seen = first_of(list(watch.passed.get(name, {})), 6)
            hint = f"what follows is {seen}" if seen else "nothing follows"
            raise UsageError(f"--after {function}: no {function} follows {name}; {hint}")
    return {name: layouts[name].drawn(watch.found[name]).float().cpu().numpy() for name in layers}


class _Following(TorchFunctionMode):
    """Follows the outputs of layers from call to call, until the function takes them.

    found: by layer, what the function gave. passed: by layer, the names of the calls before that.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.names = {function, *_ALSO_CALLED.get(function, ())}
        self.found: dict[str, Tensor] = {}
        self.passed: dict[str, dict[str, None]] = {}
        # Tensor -> the layers whose outputs are in it; and those that the function gave. By
        # identity: `==` compares the values of tensors.
        self._layers: Any = WeakIdKeyDictionary()
        self._given: Any = WeakIdKeyDictionary()

    def begin(self, layer: str, output: Tensor) -> None:
        """Follow the output of a layer."""
        self.found.pop(layer, None)
        self.passed[layer] = {}
        if output in self._given:
            self.found[layer] = output.detach().clone()
            return
        self._layers[output] = {*self._layers.get(output, ()), layer}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [value for value in _flat((args, kwargs)) if isinstance(value, Tensor)]
        layers = {layer for tensor in inputs for layer in self._layers.get(tensor, ())}
        result = func(*args, **kwargs)
        output = first_tensor(result) if not isinstance(result, str | dict) else None
        if output is None:
            return result
        # In-place functions end in an underscore.
        name = getattr(func, "__name__", "").strip("_")
        self._given.pop(output, None)
        self._layers.pop(output, None)
        if name in self.names:
            # A copy: what follows may change it in place.
            self.found.update(dict.fromkeys(layers, output.detach().clone()))
            self._given[output] = True
            return result
        for layer in layers:
            self.passed[layer].setdefault(name)
        if not any(isinstance(tensor, nn.Parameter) and tensor.ndim > 1 for tensor in inputs):
            self._layers[output] = layers
        return result


def _flat(values: Any) -> Iterable[Any]:
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, tuple | list):
        return [values]
    return [leaf for value in values for leaf in _flat(value)]
