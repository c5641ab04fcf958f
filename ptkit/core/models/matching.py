"""Tensors in files under a model's own names: prefixes, heads of another name, and what belongs to
no layer.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from ptkit.core.errors import CheckpointError
from ptkit.core.models.weights import WRAPPERS
from ptkit.core.wording import counted, first_of

Tensors = Mapping[str, Tensor]

_COUNTER = "num_batches_tracked"


def fit_names(own: Tensors, given: Tensors) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return tensors of a file under the names that they have in a model, and what was done.

    A prefix (`module.`, `backbone.`) comes off the names that carry it, or is added, where more
    names and shapes then agree, whatever else the file holds. A head under another name gets the
    model's. Counters that PyTorch before 0.4.1 did not save become 0.

    own: the model's state dict.
    """
    # Of equals max takes the first: names are left alone unless a change fits more of them. Names
    # alone decide where no shape can: the only layer is a head for other classes.
    renamed, notes = max(
        _candidates(own, given),
        key=lambda found: (
            sum(fits(own, *item) for item in found[0].items()),
            own.keys() <= found[0].keys(),
        ),
    )
    if pair := _head_of_another_name(own, renamed):
        here, there = pair
        leaves = [name.rpartition(".")[2] for name in own if _parent(name) == here]
        renamed |= {f"{here}.{leaf}": renamed.pop(f"{there}.{leaf}") for leaf in leaves}
        notes = (*notes, f"took {there} for {here}: no other layer fits")
    counters = [name for name in own if name.endswith(_COUNTER) and name not in renamed]
    # Of a layer that is not in the file at all, nothing is known.
    known = {_parent(name) for name in renamed}
    renamed |= {n: own[n].new_zeros(own[n].shape) for n in counters if _parent(n) in known}
    return renamed, notes


def load_whole(model: nn.Module, given: Tensors, *, source: str, call: str) -> tuple[str, ...]:
    """Load all weights of a model from a file, in place; return what was done to get them.

    Tensors that belong to no layer (of a loss, of a metric, an average's counter) are left, and so
    are networks beside this one and auxiliary heads; a note names them. source, call: of the
    weights and the model, for messages.

    Raises:
        CheckpointError: the model lacks a tensor, or the file has layers that the model lacks.
    """
    own = model.state_dict()
    found, notes = fit_names(own, given)
    strange = [name for name in found if name not in own]
    layers = _of_layers(model, {name: found[name] for name in strange})
    faults = {
        "missing": [name for name in own if name not in found],
        "not in the model": layers,
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ],
    }
    texts = [
        f"{len(names)} {fault} ({first_of(names, 3)})" for fault, names in faults.items() if names
    ]
    if texts:
        raise CheckpointError(f"{source} do not fit {call}: {'; '.join(texts)}")
    load_state_dict(model, {name: found[name] for name in own})
    if strange:
        left = f"left {counted(len(strange), 'tensor')} of no layer ({first_of(strange, 3)})"
        notes = (*notes, left)
    return notes


def load_state_dict(model: nn.Module, state_dict: Tensors, *, strict: bool = True) -> None:
    """Load tensors that fit, under the versions of the model's own layers."""
    versioned = OrderedDict(state_dict)
    # torchvision's MNASNet refuses a state dict that does not carry the versions of its layers.
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=strict)


def fits(own: Tensors, name: str, tensor: Tensor) -> bool:
    """Say whether a model has a tensor of this name and shape."""
    return name in own and own[name].shape == tensor.shape


def _candidates(
    own: Tensors, given: Tensors
) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """Yield the weights under names that may fit the model, and what was done to get them."""
    yield dict(given), ()
    # The network in a usual wrapper comes before a second one, such as a teacher.
    for prefix in sorted(_prefixes(given), key=lambda prefix: not prefix.startswith(WRAPPERS)):
        inside = {n.removeprefix(prefix): t for n, t in given.items() if n.startswith(prefix)}
        others = {n: t for n, t in given.items() if not n.startswith(prefix) and n not in inside}
        yield inside | others, (f"removed the prefix {prefix} from the weights' names",)
    for prefix in _prefixes(own):
        renamed = {prefix + n if prefix + n in own else n: t for n, t in given.items()}
        yield renamed, (f"added the prefix {prefix} to the weights' names",)


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the beginnings of one to three parts that names have: `a.`, `a.b.`, `a.b.c.`."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:depth]) + ".": None for depth in range(1, min(len(parts), 3) + 1)}
    return list(found)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _head_of_another_name(own: Tensors, given: Tensors) -> tuple[str, str] | None:
    """Return the one linear layer that the file lacks, and the only one there that can be it."""
    absent = {_parent(name) for name in own if name not in given}
    if len(absent) != 1:
        return None
    here = absent.pop()
    shapes = _shapes_by_layer(own)[here]
    strange = {name: tensor for name, tensor in given.items() if name not in own}
    found = [layer for layer, others in _shapes_by_layer(strange).items() if others == shapes]
    is_linear = len(shapes.get("weight", ())) == 2
    return (here, found[0]) if is_linear and len(found) == 1 else None


def _shapes_by_layer(tensors: Tensors) -> dict[str, dict[str, tuple[int, ...]]]:
    found: defaultdict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        found[layer][leaf] = tuple(tensor.shape)
    return found


def _of_layers(model: nn.Module, strange: Tensors) -> list[str]:
    """Return which of the tensors that a model lacks are weights of layers, without which it would
    compute something else than the one that was trained.
    """
    own = model.state_dict()
    # A second network, such as a teacher or an average, and heads for training only.
    beside = [
        prefix
        for prefix in _prefixes(strange)
        if 2 * sum(prefix + name in strange for name in own) >= len(own)
        or prefix.lower().startswith("aux")
    ]
    buffers = {name for name, _ in model.named_buffers()}
    floats = {
        name: tensor
        for name, tensor in strange.items()
        if tensor.is_floating_point() and name not in buffers and not name.startswith(tuple(beside))
    }
    children = {name.partition(".")[0] for name in own if "." in name}
    layers = _shapes_by_layer(floats)
    return [
        name
        for name in floats
        if name.partition(".")[0] in children or _is_layer(layers[_parent(name)])
    ]


def _is_layer(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether tensors of one place are a layer's: a matrix of weights, or a norm."""
    has_matrix = any(leaf.endswith("weight") and len(shape) > 1 for leaf, shape in shapes.items())
    return has_matrix or "running_mean" in shapes or {"weight", "bias"} <= shapes.keys()
