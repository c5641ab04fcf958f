"""What a model is made of, layer by layer: shapes, parameters, multiply-adds and memory, seen in
one pass of one image.

Nothing is computed by formulas of our own: torch's flop counter watches the pass, and autograd says
what it keeps.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ptkit.core.errors import UsageError
from ptkit.core.models.channels import input_channels
from ptkit.core.models.checkpoints import rebuild
from ptkit.core.models.fitting import fit_bare_weights
from ptkit.core.models.hooks import evaluating
from ptkit.core.models.locate import find_weights, weights_path
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, usual_size
from ptkit.core.parts.calls import Call, parse
from ptkit.core.sizes import Sides, sides_of
from ptkit.core.training.optimization.parameter_groups import plan_parameters


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


@contextmanager
def without_weights() -> Iterator[None]:
    """Let every parameter that is made inside have a shape and no values, so that the largest model
    costs nothing.

    Only parameters: code that computes with other tensors while it builds a model finds them as
    they are.
    """

    def emptied(_: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or nn.parameter.is_lazy(parameter):
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch's annotation says that the hook returns nothing; its text says what it may return.
    # The handle removes the hook at the end of `with`.
    with nn.modules.module.register_module_parameter_registration_hook(emptied):  # type: ignore[arg-type]
        yield


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


_NUM_CLASSES = 10


@dataclass(frozen=True)
class Summarized:
    """A summary with what it is of: the call that builds the model, its classes, and pixels of a
    side, or height and width. notes: what was done to get bare weights, a line each.
    """

    call: str
    num_classes: int
    size: int | Sides
    summary: ModelSummary
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        height, width = sides_of(self.size)
        return f"{self.call}: {self.num_classes:,} classes, {height}×{width} pixels"


def summarize_subject(
    text: str,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    size: int | Sides | None = None,
    depth: int | None = None,
) -> Summarized:
    """Summarize the model that a call, a checkpoint, a run folder or bare weights mean.

    num_classes: 10 where it is not given. size: by default what the model is made for, or was
    trained on. model: the call of bare weights, or the user's own, for a checkpoint that names user
    code.

    Raises:
        UsageError: unknown model or argument, a size that it does not take, a Python file without
            the name of a model in it, or what the checkpoint already stores.
        CheckpointError: no such file, damaged, weights that do not fit, or it needs `model`.
    """
    if text.endswith(".py") and ":" not in text:
        raise UsageError(f"{text} is a Python file: name the model in it, {text}:NAME")
    path = weights_path(text)
    if path is not None:
        if num_classes is not None:
            raise UsageError(
                f"{text} is a checkpoint and already stores this: leave out --num-classes"
            )
        return _of_weights(find_weights(text, model=model), model=model, size=size, depth=depth)
    if model is not None:
        raise UsageError(
            f"--model is for a checkpoint of a model of your own, and {text} is a model: leave"
            " it out"
        )
    call = parse(text)
    if num_classes is None:
        num_classes = call.kwargs.get("num_classes", _NUM_CLASSES)
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
            message = f"num_classes must be a whole number of at least 1, found {num_classes!r}"
            raise call.error(message, "num_classes")
    elif "num_classes" in call.kwargs:
        raise call.error("num_classes is given twice: here and by --num-classes", "num_classes")
    size = size or usual_size(call)
    is_light = call.prefix in ("", "timm")
    try:
        return _of_call(call, num_classes, size, depth=depth, is_light=is_light)
    except UsageError:
        if call.prefix != "timm":
            raise
    # Some of timm's models compute with their weights while they are built.
    return _of_call(call, num_classes, size, depth=depth, is_light=False)


def _of_weights(
    weights: Weights, *, model: str | None, size: int | Sides | None, depth: int | None
) -> Summarized:
    checkpoint = weights.checkpoint
    notes: tuple[str, ...] = ()
    if checkpoint is None:
        if model is None:
            raise UsageError(f"{weights.source} holds bare weights: add --model NAME")
        size = size or usual_size(parse(model))
        fitted = fit_bare_weights(weights, model=model, size=size)
        module, call, num_classes = fitted.module, fitted.call, fitted.num_classes
        notes = replace(weights, notes=fitted.notes).lines
    else:
        module, done = rebuild(checkpoint, model=model)
        notes = replace(weights, notes=done).lines
        call, num_classes = model or checkpoint["model"]["call"], checkpoint["model"]["num_classes"]
        # What the run never trained is fixed.
        groups = checkpoint.get("config", {}).get("optimizer", {}).get("groups", [])
        plans = plan_parameters(module, groups, lr=1.0)
        for name, parameter in module.named_parameters():
            plan = plans[name]
            parameter.requires_grad_(plan.first_epoch is not None and not plan.is_excluded)
    size = size or weights.size
    if size is None:
        raise UsageError(f"{weights.source} does not store the size of its images: give --size")
    # Only a user's own model may hold tensors that cannot leave their device.
    if not parse(call).prefix:
        module = module.to("meta")
    summary = summarize(module, size, num_classes=num_classes, depth=depth)
    return Summarized(str(parse(call)), num_classes, size, summary, notes)


def _of_call(
    call: Call, num_classes: int, size: int | Sides, *, depth: int | None, is_light: bool
) -> Summarized:
    """Build a model and summarize it; is_light: without values in its weights."""
    with without_weights() if is_light else nullcontext():
        module, text = build_model(call, num_classes=num_classes, size=size, seed=0)
    module = module.to("meta") if is_light else module
    summary = summarize(module, size, num_classes=num_classes, depth=depth)
    return Summarized(text, num_classes, size, summary)
