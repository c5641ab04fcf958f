"""Selectors of `--group` and `--init`: a layer class, a module, or a glob on parameter names."""

import re
from fnmatch import fnmatchcase

from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.wording import nearest


def matching_parameters(model: nn.Module, selector: str) -> list[str]:
    """Return the names of the parameters that `selector` matches, in the model's order.

    selector: a layer class (`Conv2d`: also its subclasses, with everything inside), a module
        (`layer1`: everything inside), a parameter (`fc.bias`), or a glob on parameter names
        (`layer1.*`, `*.bias`).

    Raises:
        UsageError: it matches nothing; the message has the nearest name.
    """
    names = [name for name, _ in model.named_parameters()]
    if _is_glob(selector):
        found = [name for name in names if fnmatchcase(name, selector)]
    else:
        owners = tuple(
            f"{name}." if name else ""
            for name, module in model.named_modules()
            if _is_named(module, name, selector)
        )
        found = [name for name in names if name == selector or name.startswith(owners)]
    if not found:
        raise UsageError(_nothing(model, selector, names))
    return found


def matching_weights(model: nn.Module, selector: str) -> list[str]:
    """Return what `selector` means to an initialisation: of modules, the parameters `weight`.

    Raises:
        UsageError: it matches nothing.
    """
    found = matching_parameters(model, selector)
    if _is_glob(selector) or found == [selector]:
        return found
    weights = [name for name in found if name.rpartition(".")[2] == "weight"]
    if not weights:
        raise UsageError(
            f"{selector} has no parameter called weight; it has {', '.join(found[:5])}"
        )
    return weights


def _is_glob(selector: str) -> bool:
    return re.search(r"[*?\[]", selector) is not None


def _is_named(module: nn.Module, name: str, selector: str) -> bool:
    classes = {cls.__name__ for cls in type(module).__mro__} - {"Module", "object"}
    return selector == name or selector in classes


def _nothing(model: nn.Module, selector: str, names: list[str]) -> str:
    modules = {name for name, _ in model.named_modules() if name}
    classes = {type(module).__name__ for module in model.modules()}
    if selector in modules | classes:
        return f"{selector} has no parameters in {type(model).__name__}"
    hint = _class_hint(selector, classes) or nearest(selector, [*sorted(modules | classes), *names])
    if _is_glob(selector) and names:
        hint = f"; a glob matches names of parameters, such as {names[0]}"
    return f"{selector} is not a layer class, module or parameter of {type(model).__name__}{hint}"


def _class_hint(selector: str, classes: set[str]) -> str:
    """Return the layer class that a selector begins or misspells: Conv2d, not conv1, for Conv."""
    if not selector[:1].isupper():
        return ""
    longer = sorted(name for name in classes if name.lower().startswith(selector.lower()))
    return f"; did you mean {longer[0]}?" if longer else nearest(selector, classes)
