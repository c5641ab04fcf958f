"""Sets of a model's parameters as conditions in code, on a `name` and a `parameter`."""

from collections.abc import Collection, Iterator

from torch import nn

# More beginnings of names than that would say less than the class of their layers.
_FEW = 4
# What fits on a line after `if`, two steps deep.
_LONG = 88


def condition(
    model: nn.Module, names: Collection[str], *, leaving_out: Collection[str] = ()
) -> str:
    """Return code that is true for these parameters of a model and for no other.

    leaving_out: parameters that never come to it.
    """
    wanted = set(names)
    parameters = {n: p for n, p in model.named_parameters() if n not in leaving_out}
    if wanted == parameters.keys():
        return "True"
    if wanted == {name for name, p in parameters.items() if p.ndim <= 1}:
        return "parameter.ndim <= 1"
    if wanted == {name for name, p in parameters.items() if p.ndim > 1}:
        return "parameter.ndim > 1"
    begun = beginnings(list(parameters), wanted)
    # The whole name of one may be the beginning of another: pos_embed, pos_embed_win.
    if any(name.startswith(tuple(begun)) for name in parameters.keys() - wanted):
        return f"name in {tuple(sorted(wanted))}".replace("'", '"')
    if len(begun) <= _FEW:
        return _any_of("startswith", begun)
    for kind, code in _by_class(model, parameters):
        if wanted == kind:
            return code
    leaves = sorted({f".{name.rpartition('.')[2]}" for name in wanted})
    if wanted == {name for name in parameters if name.endswith(tuple(leaves))}:
        return _any_of("endswith", leaves)
    return _any_of("startswith", begun)


def beginnings(every: Collection[str], wanted: Collection[str]) -> list[str]:
    """Return the fewest beginnings of dotted names that all of `wanted` have and no other name,
    but where a wanted name is itself the beginning of another.
    """
    others = [name for name in every if name not in wanted]
    found: dict[str, None] = {}
    for name in (name for name in every if name in wanted):
        parts = name.split(".")
        # From the shortest: a whole layer, then what is inside.
        tried = (".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
        free = (text for text in tried if not any(other.startswith(text) for other in others))
        found[next(free, name)] = None
    return list(found)


def _by_class(model: nn.Module, names: Collection[str]) -> Iterator[tuple[set[str], str]]:
    """Yield the parameters of each class of torch's layers, all and by leaf, with the code."""
    modules = dict(model.named_modules())
    owners = {name: modules[name.rpartition(".")[0]] for name in names}
    kinds = dict.fromkeys(cls for owner in owners.values() for cls in type(owner).__mro__)
    for cls in kinds:
        if getattr(nn, cls.__name__, None) is not cls or cls is nn.Module:
            continue
        own = {name for name, owner in owners.items() if isinstance(owner, cls)}
        is_kind = f'isinstance(model.get_submodule(name.rpartition(".")[0]), nn.{cls.__name__})'
        yield own, is_kind
        for leaf in sorted({name.rpartition(".")[2] for name in own}):
            ends = {name for name in own if name.endswith(f".{leaf}")}
            yield ends, f'name.endswith(".{leaf}") and {is_kind}'


def _any_of(method: str, texts: Collection[str]) -> str:
    # Names are of letters, figures and dots.
    quoted = [f'"{text}"' for text in texts]
    if len(quoted) == 1:
        return f"name.{method}({quoted[0]})"
    several = f"name.{method}(({', '.join(quoted)}))"
    if len(several) <= _LONG:
        return several
    listed = "".join(f"        {text},\n" for text in quoted)
    return f"name.{method}(\n    (\n{listed}    )\n)"
