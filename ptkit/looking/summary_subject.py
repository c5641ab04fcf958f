"""What a text means that names a model, and the summary of it; `ptkit summary`."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

from ptkit.core.errors import UsageError
from ptkit.core.models.checkpoints import rebuild
from ptkit.core.models.fitting import fit_bare_weights
from ptkit.core.models.locate import find_weights, weights_path
from ptkit.core.models.weightless import without_weights
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, usual_size
from ptkit.core.parts.calls import Call, parse
from ptkit.core.sizes import Sides, sides_of
from ptkit.core.training.optimization.parameter_groups import plan_parameters
from ptkit.looking.summary import ModelSummary, summarize

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
