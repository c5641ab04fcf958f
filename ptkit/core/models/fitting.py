"""The model that weights were trained in: its stem and its number of classes as the file shows
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ptkit.core.errors import CheckpointError
from ptkit.core.models.matching import fit_names, load_whole
from ptkit.core.models.recognition import recognised
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, check_forward, takes, usual_size
from ptkit.core.parts.calls import Call, parse
from ptkit.core.sizes import Sides

# A number of outputs that no layer but the head has.
_UNUSUAL = 1013
# The stem of a ResNet by the side of its first kernels.
_STEMS = {7: "standard", 3: "small"}


@dataclass(frozen=True)
class Fitted:
    """A model with weights from a file, in evaluation mode.

    call: builds the same model again. notes: what was done to get the weights, a sentence each.
    """

    module: nn.Module
    call: str
    num_classes: int
    notes: tuple[str, ...]


def fit_bare_weights(
    weights: Weights, *, model: str, size: int | Sides | None, channels: int | None = None
) -> Fitted:
    """Build the model of bare weights and load all of them.

    model: the user's call. size: pixels of a side, or height and width. channels: of the images;
    None for what the first convolution in the file takes.

    Raises:
        UsageError: not a model.
        CheckpointError: the weights do not fit, or do not show how many classes there are.
    """
    call, stem_notes = with_stem(parse(model), weights.state_dict)
    first = _first_kernels(weights.state_dict)
    if channels is None and first is not None:
        channels = first.shape[1]
    num_classes = _num_classes(call, weights, size, channels)
    module, text = build_model(call, num_classes=num_classes, size=size, channels=channels, seed=0)
    source = f"the weights in {weights.path}"
    try:
        notes = load_whole(module, weights.state_dict, source=source, call=text)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{recognised(weights.state_dict)}") from error
    return Fitted(module.eval(), text, num_classes, (*weights.notes, *stem_notes, *notes))


def with_stem(call: Call, state_dict: Mapping[str, Tensor]) -> tuple[Call, tuple[str, ...]]:
    """Return a call with the stem that weights were trained with, where they show it and the call
    does not say; and a note of that.

    Otherwise the size of the images decides, which need not be that of the training.
    """
    first = _first_kernels(state_dict)
    height, width = (0, 0) if first is None else first.shape[2:]
    stem = _STEMS.get(height) if height == width else None
    if stem is None or call.kwargs.get("stem") is not None or not takes(call, "stem"):
        return call, ()
    return call.updated({"stem": stem}), (
        f"stem='{stem}', as the first convolution of the weights is {height}×{width}",
    )


def _first_kernels(state_dict: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weights of the first convolution, (outputs, 1 or 3, h, w), where there is one."""
    kernels = [t for t in state_dict.values() if t.ndim == 4 and t.shape[1] in (1, 3)]
    # In a file in the order of names depthwise ones, of one channel too, may come before it.
    return next((t for t in kernels if t.shape[1] == 3), kernels[0] if kernels else None)


def _num_classes(
    call: Call, weights: Weights, size: int | Sides | None, channels: int | None
) -> int:
    """Return how many classes weights tell apart: the call says it, or the last layer in the file
    does; a factory that does not take a number settles it.
    """
    given = call.kwargs.get("num_classes")
    if isinstance(given, int):
        return given
    module, _ = build_model(call, num_classes=_UNUSUAL, size=size, channels=channels, seed=0)
    own = module.state_dict()
    found, _ = fit_names(own, weights.state_dict)
    heads = [(name, t.shape.index(_UNUSUAL)) for name, t in own.items() if _UNUSUAL in t.shape]
    if not heads:
        return check_forward(module, size or usual_size(call), channels=channels or 3)
    shown = [found[n].shape[axis] for n, axis in heads if n in found and found[n].ndim > axis]
    # The head may have another name in the file.
    shown = shown or [len(t) for name, t in found.items() if name not in own and t.ndim > 1]
    if not shown:
        raise CheckpointError(
            f"{weights.source} does not fit {call}: it has no {heads[-1][0]}; a network without a"
            " head is for `ptkit probe --backbone` and `ptkit finetune`"
        )
    return int(shown[-1])
