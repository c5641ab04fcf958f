"""Statistics of the layers' outputs, seen while a model runs as it always does."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptkit.core.memory_order import in_memory_order
from ptkit.core.models.hooks import hooked
from ptkit.core.training.recording.series import Seconds

# Where these give 0 they pass no gradient on: a unit that never gives more has stopped learning.
_RELUS = {
    *(F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    F.threshold,
}


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return convolutions and linear layers by name, and whatever else has a `weight` like them."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(w := getattr(module, "weight", None), Tensor) and w.ndim > 1
    }


class Activations:
    """Spreads and signs of what the layers with weights give, over all batches seen.

    Numbers stay on the device until they are `taken`. seconds: what this costs is added to it.
    """

    def __init__(self, model: nn.Module, seconds: Seconds) -> None:
        self._model, self._layers, self._seconds = model, weighted_layers(model), seconds
        # By layer: for each call how many numbers, and their variance and mean.
        self._moments: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        self._units: dict[str, int] = {}
        # By layer: whether each unit has fired, bool (units,).
        self._has_fired: dict[str, Tensor] = {}
        self._last: str | None = None

    @contextmanager
    def seen(
        self, rows: slice = slice(None), *, spread: slice | None = slice(None)
    ) -> Iterator[None]:
        """See what the model gives for some rows of each batch that it runs on.

        spread: the rows whose spread is measured, None for none.
        """

        def see(name: str, _inputs: Any, output: Any) -> None:
            self._last = name
            if isinstance(output, Tensor):
                with self._seconds:
                    self._see_output(name, output.detach(), spread)

        def see_relu(output: Tensor, lowest_is_0: bool) -> None:
            with self._seconds:
                self._see_relu(output.detach(), rows, lowest_is_0=lowest_is_0)

        seeing_relus = _Relus(see_relu)
        with hooked(self._model, self._layers, see), seeing_relus:
            yield

    def knows_all_alive(self) -> bool:
        """Return whether no unit can be found dead any more, whatever further images give.

        So it is once every unit with a ReLU has fired, and from the first batch on where no layer
        has a ReLU. False where asking would wait for the device.
        """
        fired = self._has_fired.values()
        return bool(self._units) and all(each.is_cpu and bool(each.all()) for each in fired)

    def _see_output(self, name: str, output: Tensor, spread: slice | None) -> None:
        self._units[name] = output.shape[_unit_axis(self._layers[name])]
        if spread is None:
            return
        values = output[spread].float()
        # On a CPU torch.var_mean is much slower than a mean and one dot product.
        mean = values.mean()
        from_mean = in_memory_order(values - mean)
        variance = torch.dot(from_mean, from_mean) / from_mean.numel()
        self._moments.setdefault(name, []).append((from_mean.numel(), variance, mean))

    def _see_relu(self, output: Tensor, rows: slice, *, lowest_is_0: bool) -> None:
        """See the output of a ReLU: of the layer that ran last, unless a ReLU was seen after it."""
        name, self._last = self._last, None
        # Without rows it is not the output of a batch.
        if name is None or name not in self._units or output.ndim < 2:
            return
        axis = _unit_axis(self._layers[name]) % output.ndim
        if output.shape[axis] != self._units[name]:
            return
        fired = self._has_fired.get(name)
        for part in _parts(output[rows]):
            # Asking costs nothing on a CPU, and most units fire at the first image.
            if part.is_cpu and fired is not None and bool(fired.all()):
                break
            found = _units_that_fire(part, axis, lowest_is_0=lowest_is_0)
            fired = found if fired is None else fired | found
        if fired is not None:
            self._has_fired[name] = fired

    def taken(self) -> dict[str, dict[str, Any]]:
        """Return by layer, in forward order: `units`, channels or features; `dead`, how
        many of them gave nothing above 0 after the ReLU that follows, None without one; `std`
        of all outputs.

        They are forgotten; waits for the device.
        """
        found = {
            name: {
                "units": self._units[name],
                "dead": int((~self._has_fired[name]).sum()) if name in self._has_fired else None,
                "std": _std(moments),
            }
            for name, moments in self._moments.items()
        }
        for seen in (self._moments, self._units, self._has_fired):
            seen.clear()
        return found


class _Relus(TorchFunctionMode):
    """Sees the output of every ReLU, be it a module or a function, and whether 0 is its lowest."""

    def __init__(self, see: Callable[[Tensor, bool], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _RELUS or (func is F.hardtanh and _begins_at_0(*args, **(kwargs or {}))):
            self._see(output, func is not F.threshold)
        return output


def _begins_at_0(_input: Tensor, min_val: float = -1.0, *_others: Any, **_named: Any) -> bool:
    """Say of the arguments of `hardtanh` whether they make it a ReLU, as nn.ReLU6 does."""
    return min_val == 0


def _parts(output: Tensor) -> Iterable[Tensor]:
    """Return maps on a CPU in two parts, the first image and the others, and all else in one."""
    is_divided = output.is_cpu and output.ndim > 2 and len(output) > 1
    return (output[:1], output[1:]) if is_divided else (output,)


def _units_that_fire(output: Tensor, axis: int, *, lowest_is_0: bool) -> Tensor:
    """Return for each unit whether it gives anything above 0, bool (units,)."""
    others = [k for k in range(output.ndim) if k != axis]
    # On a CPU a maximum over channels-last maps can be much slower than a sum.
    return (output.sum(others) if lowest_is_0 else output.amax(others)) > 0


def _unit_axis(layer: nn.Module) -> int:
    # Linear layers have their features last, whatever is before.
    return 1 if "Conv" in type(layer).__name__ else -1


def _std(moments: list[tuple[int, Tensor, Tensor]]) -> float:
    """Return the spread of several parts together (Chan et al. 1979)."""
    counts = [count for count, _, _ in moments]
    variances = torch.stack([variance for _, variance, _ in moments]).tolist()
    means = torch.stack([mean for _, _, mean in moments]).tolist()
    total = sum(counts)
    mean = sum(c * m for c, m in zip(counts, means, strict=True)) / total
    inside = sum(c * v for c, v in zip(counts, variances, strict=True))
    between = sum(c * (m - mean) ** 2 for c, m in zip(counts, means, strict=True))
    return math.sqrt((inside + between) / total) if math.isfinite(inside) else math.nan
