"""A model's parameters in the order of its layers, from the input to the head."""

from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# A module with a larger share of all parameters is a wrapper, not a layer: the encoder of a
# transformer, a backbone.
_WRAPPER = 0.5
# One block of many may hold half of a small model; only a whole network has nearly everything.
_WRAPPER_IN_CONTAINER = 0.9


def parameters_by_layer(model: nn.Module) -> list[list[str]]:
    """Return the names of all parameters, layer by layer as the model lists them, each once.

    The model, Sequential, ModuleList and ModuleDict are taken apart, and so is a module with more
    than half of all parameters. Every other module is one layer. A module whose parameters have at
    most one dimension (a norm), and parameters directly in a module that is taken apart (a class
    token), belong to the layer before them, or to the first one.
    """
    own = dict.fromkeys(name for name, _ in model.named_parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    layers: list[list[str]] = []
    waiting: list[str] = []
    for piece, is_loose in _pieces(model, "", total=total):
        # A shared parameter counts where it is listed first.
        names = [name for name in piece if own.pop(name, "") is None]
        if not names:
            continue
        if not is_loose:
            layers.append([*waiting, *names])
            waiting = []
        elif layers:
            layers[-1] += names
        else:
            waiting += names
    return [*layers, waiting] if waiting else layers


def _pieces(module: nn.Module, prefix: str, *, total: int) -> Iterator[tuple[list[str], bool]]:
    """Yield names of parameters that stay together, and whether they are loose: a norm or a token,
    which goes with its neighbour.
    """
    direct = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    children = list(module.named_children())
    if direct:
        yield direct, bool(children) or _is_flat(module)
    limit = _WRAPPER_IN_CONTAINER if isinstance(module, _CONTAINERS) else _WRAPPER
    for name, child in children:
        is_wrapper = sum(parameter.numel() for parameter in child.parameters()) > limit * total
        if isinstance(child, _CONTAINERS) or is_wrapper:
            yield from _pieces(child, f"{prefix}{name}.", total=total)
        else:
            inside = [f"{prefix}{name}.{inner}" for inner, _ in child.named_parameters()]
            yield inside, _is_flat(child)


def _is_flat(module: nn.Module) -> bool:
    return all(parameter.ndim <= 1 for parameter in module.parameters())
