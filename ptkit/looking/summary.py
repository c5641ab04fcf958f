"""What a model is made of, layer by layer: shapes, parameters, multiply-adds and memory, seen in
one pass of one image.

Nothing is computed by formulas of our own: torch's flop counter watches the pass, and autograd says
what it keeps.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ptkit.core.models.channels import input_channels
from ptkit.core.models.hooks import evaluating
from ptkit.core.models.zoo import check_forward
from ptkit.core.sizes import Sides, sides_of


@dataclass(frozen=True)
class Row:
    """One layer, or all layers of a module where the table is not that deep.

    name: empty for the model itself. kind: its class. shape: of its output for one image, of the
    last call; None if it never ran. num_calls: in one pass. parameters: what is shared counts where
    it is listed first.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    num_calls: int
    parameters: int
    trainable: int
    multiply_adds: int


@dataclass(frozen=True)
class ModelSummary:
    """The rows in the order in which the layers run, and sums over all of them.

    multiply_adds: for one image; torch counts two floating-point operations each. weight_bytes:
    parameters and buffers. activation_bytes: what autograd keeps of one image until the backward
    pass, the image included. training_bytes: weights, a gradient and two moments (Adam) for each
    trainable parameter, and one image's activations.
    """

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int
    weight_bytes: int
    activation_bytes: int
    training_bytes: int


@dataclass
class _Seen:
    """What one module did in the pass, without what the modules inside it did."""

    shape: tuple[int, ...] | None = None
    num_calls: int = 0
    flops: int = 0


def summarize(
    model: nn.Module, size: int | Sides, *, num_classes: int | None = None, depth: int | None = None
) -> ModelSummary:
    """Run one image through the model and add up what happens; the model stays as it was.

    size: pixels of a side, or height and width. depth: how many levels of modules the rows show;
    None goes down to the layers. A module with layers inside has a row of its own only for what no
    layer of it has: a class token, a product of two activations. num_classes: the number of scores
    an image must give, if known.

    Raises:
        UsageError: the model does not take this size.
    """
    check_forward(model, size, num_classes=num_classes, channels=input_channels(model))
    seen, activation_bytes = _watch(model, size)
    rows = _rows(model, seen, levels=depth if depth is not None else len(seen))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weight_bytes = _num_bytes([*model.parameters(), *model.buffers()])
    return ModelSummary(
        rows=tuple(rows),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in trained),
        multiply_adds=sum(row.multiply_adds for row in rows),
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        training_bytes=weight_bytes + 3 * _num_bytes(trained) + activation_bytes,
    )


def _watch(model: nn.Module, size: int | Sides) -> tuple[dict[nn.Module, _Seen], int]:
    """Return what each module did, in the order in which they began, and how many bytes autograd
    kept.
    """
    like = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(
        1, input_channels(model), *sides_of(size), dtype=like.dtype, device=like.device
    )
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Alive until the end, so that no two storages get one identity.
        kept[storage._cdata] = storage
        return tensor

    with evaluating(model), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        seen = _count_flops(model, image)
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage()._cdata, None)
    return seen, sum(storage.nbytes() for storage in kept.values())


def _count_flops(model: nn.Module, image: Tensor) -> dict[nn.Module, _Seen]:
    """Give the operations between two events (a module begins or ends) to the module that runs
    between them.
    """
    seen: dict[nn.Module, _Seen] = {}
    running: list[_Seen] = []
    counter = FlopCounterMode(display=False)
    counted = 0

    def settle() -> None:
        nonlocal counted
        total = counter.get_total_flops()
        if running:
            running[-1].flops += total - counted
        counted = total

    def begin(module: nn.Module, _: Any) -> None:
        settle()
        running.append(seen.setdefault(module, _Seen()))

    def end(module: nn.Module, _: Any, output: Any) -> None:
        settle()
        record = running.pop()
        record.num_calls += 1
        record.shape = _shape(output)

    with ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(module.register_forward_pre_hook(begin))
            stack.enter_context(module.register_forward_hook(end))
        # Attention in plain steps, the same on any device.
        stack.callback(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
        mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            model(image)
    return seen


def _rows(model: nn.Module, seen: Mapping[nn.Module, _Seen], *, levels: int) -> list[Row]:
    """Return the rows in the order in which their modules began; what never ran comes last."""
    order = {module: position for position, module in enumerate(seen)}
    # What is shared is listed once, under its first name.
    modules = dict(model.named_modules())
    parameters: dict[str, list[nn.Parameter]] = {name: [] for name in modules}
    for name, parameter in model.named_parameters():
        parameters[name.rpartition(".")[0]].append(parameter)

    def below(name: str, levels: int) -> Iterator[tuple[int, Row]]:
        """Yield rows for a module and all inside it, each with its place in the order."""
        module, own = modules[name], seen.get(modules[name], _Seen())
        inside = [inner for inner, _ in module.named_modules(prefix=name) if inner in modules]
        is_taken_apart = levels > 0 and any(modules[inner] in seen for inner in inside[1:])
        summed = [name] if is_taken_apart else inside
        held = [parameter for inner in summed for parameter in parameters[inner]]
        ran = [modules[inner] for inner in summed if modules[inner] in seen]
        row = Row(
            name=name,
            kind=type(module).__name__,
            shape=own.shape,
            num_calls=own.num_calls,
            parameters=sum(parameter.numel() for parameter in held),
            trainable=sum(parameter.numel() for parameter in held if parameter.requires_grad),
            multiply_adds=sum(seen[inner].flops for inner in ran) // 2,
        )
        if row.parameters or row.multiply_adds or (row.num_calls and not is_taken_apart):
            yield min((order[inner] for inner in ran), default=len(order)), row
        for child, _ in module.named_children() if is_taken_apart else ():
            inner = f"{name}.{child}" if name else child
            if inner in modules:
                yield from below(inner, levels - 1)

    return [row for _, row in sorted(below("", levels), key=lambda found: found[0])]


def _shape(output: Any) -> tuple[int, ...] | None:
    """Return the shape of a module's first tensor without the one image in front."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((shape for shape in map(_shape, output) if shape is not None), None)
    if not isinstance(output, Tensor):
        return None
    shape = tuple(output.shape)
    return shape[1:] if shape[:1] == (1,) else shape


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
