"""Optimizers and their parameter groups."""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.calls import Call, nearest, parse, split_selector
from ptkit.core.catalogue import Catalogue, Part
from ptkit.core.errors import UsageError
from ptkit.core.models.selectors import matching_parameters
from ptkit.core.training.muon import MuonWithAdamW

_SUPPLIED = frozenset({"params", "lr", "foreach", "capturable", "differentiable", "fused", "maximize"})
_FUSED = ("SGD", "Adam", "AdamW", "Adagrad")


@dataclass(frozen=True)
class UsualRate:
    """The learning rate that an optimizer is usually run with; `per_64` means for 64 images a step, in proportion."""

    lr: float
    per_64: bool = False


USUAL_RATES = {
    "SGD": UsualRate(0.1, per_64=True),
    "ASGD": UsualRate(0.05),
    "Rprop": UsualRate(0.001),
    "Adagrad": UsualRate(0.01),
    "Adadelta": UsualRate(1.0),
    "RMSprop": UsualRate(0.001),
    "Adam": UsualRate(0.002),
    "Adamax": UsualRate(0.004),
    "SparseAdam": UsualRate(0.002),
    "LBFGS": UsualRate(0.5),
    "AdamW": UsualRate(0.002),
    "NAdam": UsualRate(0.002),
    "RAdam": UsualRate(0.002),
    "Muon": UsualRate(0.02),
}
# Without normalisation layers SGD at the usual rate diverges: a tenth of it.
_WITHOUT_NORM = 0.1

_SUMMARIES = {
    "SGD": "stochastic gradient descent with momentum",
    "ASGD": "averaged SGD (Polyak and Juditsky 1992)",
    "Rprop": "signs of gradients only; made for full batches (Riedmiller and Braun 1993)",
    "Adagrad": "rates shrink with the gradients seen (Duchi et al. 2011)",
    "Adadelta": "Adagrad with a window (Zeiler 2012)",
    "RMSprop": "gradients over their running rms (Hinton 2012)",
    "Adam": "adaptive moments (Kingma and Ba 2015)",
    "Adamax": "Adam with the infinity norm",
    "SparseAdam": "Adam for parameters with sparse gradients",
    "LBFGS": "quasi-Newton, through a closure; made for full or large batches",
    "AdamW": "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
    "NAdam": "Adam with Nesterov momentum (Dozat 2016)",
    "RAdam": "Adam with a rectified start (Liu et al. 2020)",
    "Muon": "orthogonalised momentum for weight matrices, AdamW for the rest (Jordan et al. 2024)",
}

OPTIMIZERS = Catalogue(
    "optimizer", {name: Part(f"torch.optim:{name}", text, supplied=_SUPPLIED) for name, text in _SUMMARIES.items()}
)


@dataclass(frozen=True)
class GroupLine:
    """One `SELECTOR: ...` line: options for the parameters that match, or frozen, or excluded."""

    selector: str
    options: dict[str, Any] = field(default_factory=dict)
    lr_factor: float | None = None
    is_frozen: bool = False
    is_excluded: bool = False


@dataclass
class Prepared:
    """What the loop steps: the optimizer, its call without a rate, the base rate and a name for each group."""

    optimizer: Any
    call: str
    group_names: tuple[str, ...]
    lr: float
    frozen: tuple[str, ...]
    excluded: tuple[str, ...]


def split_rate(text: str, *, lr: float | None) -> tuple[str, float | None]:
    """Take the rate out of a call: return the call without it, and the rate from the call or from `lr`.

    Raises:
        UsageError: both give one, or the call's is not a positive number.
    """
    call = parse(text)
    OPTIMIZERS.find(call)
    if call.args:
        raise call.error(f"{call.name} takes its arguments by name", 0)
    if "lr" not in call.kwargs:
        return str(call), lr
    rate = call.kwargs["lr"]
    if lr is not None:
        raise call.error("the rate is given twice: here and by --lr (optimizer.lr)", "lr")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < float("inf"):
        raise call.error(f"lr must be a number above 0, found {rate!r}", "lr")
    rest = {key: value for key, value in call.kwargs.items() if key != "lr"}
    return str(Call(call.name, kwargs=rest)), float(rate)


def usual_lr(text: str, model: nn.Module, *, batch_size: int) -> float:
    """Return the rate an optimizer is usually run with on such a model and batch size."""
    name = parse(text).name
    usual = USUAL_RATES.get(name, UsualRate(0.001))
    lr = usual.lr * batch_size / 64 if usual.per_64 else usual.lr
    if usual.per_64 and not any("Norm" in type(module).__name__ for module in model.modules()):
        lr *= _WITHOUT_NORM
    return lr


def build_optimizer(
    text: str, model: nn.Module, *, lr: float, groups: Sequence[str] = (), decay_all: bool = False
) -> Prepared:
    """Freeze and group the model's parameters and return the optimizer over them.

    Parameters of at most one dimension (norms, biases) get no weight decay unless `decay_all`. Changes
    `requires_grad` of frozen parameters in place.

    Raises:
        UsageError: unknown optimizer, argument or selector, or an optimizer that does not fit the model.
    """
    call = parse(text)
    OPTIMIZERS.find(call)
    options, frozen, excluded = _options_by_parameter(model, [parse_group(line) for line in groups], lr)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    trained = {n: p for n, p in model.named_parameters() if n not in frozen and n not in excluded}
    if not trained:
        raise UsageError("every parameter is frozen or excluded: nothing is left to train")
    if call.name == "SparseAdam":
        _check_sparse(call, model, trained)
    if call.name == "LBFGS" and any(options.values()):
        raise call.error("LBFGS takes no parameter groups: leave --group out, or use frozen and excluded only")
    # The classifying layer's gradients are of another kind than hidden layers'; Muon leaves it alone.
    head = next((parameter for parameter in reversed(list(trained.values())) if parameter.ndim == 2), None)
    optimizer = _construct(call, _grouped(call, trained, options, decay_all=decay_all), lr=lr, head=head)
    names = tuple(group["name"] for group in optimizer.param_groups)
    return Prepared(optimizer, str(call), names, lr, frozen, excluded)


def parse_group(line: str) -> GroupLine:
    """Read `SELECTOR: lr=10x, weight_decay=0` or `SELECTOR: frozen|excluded`.

    Raises:
        UsageError: not of that form.
    """
    selector, rest = split_selector(line, ":")
    if rest in ("frozen", "excluded"):
        return GroupLine(selector, is_frozen=rest == "frozen", is_excluded=rest == "excluded")
    if "=" not in rest:
        raise UsageError(
            f"--group {line!r}: expected lr=..., weight_decay=..., frozen or excluded, found {rest!r}"
            f"{nearest(rest, ['frozen', 'excluded'])}"
        )
    factor, plain = None, []
    for item in _comma_parts(rest):
        key, _, value = item.partition("=")
        if key.strip() == "lr" and value.strip().endswith("x"):
            factor = _factor(line, value.strip())
        else:
            plain.append(item)
    options = parse(f"group({', '.join(plain)})")
    if options.args:
        raise UsageError(f"--group {line!r}: expected key=value, found {options.args[0]}")
    for key in ("lr", "weight_decay"):
        value = options.kwargs.get(key, 1.0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise UsageError(f"--group {line!r}: {key} must be a number of at least 0, found {value!r}")
    if factor is not None and factor < 0:
        raise UsageError(f"--group {line!r}: lr must be at least 0, found {factor:g}x")
    return GroupLine(selector, dict(options.kwargs), factor)


def freeze_statistics(model: nn.Module, frozen: Iterable[str]) -> None:
    """Put normalisation layers whose parameters are all frozen into evaluation mode: their statistics stay."""
    names = set(frozen)
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)]
        has_statistics = isinstance(getattr(module, "running_mean", None), Tensor)
        if has_statistics and own and names.issuperset(own):
            module.eval()


def _options_by_parameter(
    model: nn.Module, lines: Sequence[GroupLine], lr: float
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...], tuple[str, ...]]:
    """Merge all lines that match each parameter, later ones winning key by key."""
    options: dict[str, dict[str, Any]] = {name: {} for name, _ in model.named_parameters()}
    state: dict[str, str] = {}
    for line in lines:
        for name in matching_parameters(model, line.selector):
            if line.is_frozen or line.is_excluded:
                state[name] = "frozen" if line.is_frozen else "excluded"
                continue
            # Who gives a rate wants it trained; other options leave a frozen parameter frozen.
            if line.lr_factor is not None or "lr" in line.options:
                state.pop(name, None)
            options[name] |= line.options
            if line.lr_factor is not None:
                options[name]["lr"] = lr * line.lr_factor
    frozen = tuple(name for name in options if state.get(name) == "frozen")
    excluded = tuple(name for name in options if state.get(name) == "excluded")
    return options, frozen, excluded


def _check_sparse(call: Call, model: nn.Module, trained: Iterable[str]) -> None:
    sparse = {f"{name}.weight" for name, module in model.named_modules() if getattr(module, "sparse", False)}
    dense = [name for name in trained if name not in sparse]
    if dense:
        raise call.error(
            f"SparseAdam takes parameters with sparse gradients only, as of Embedding(sparse=True); "
            f"{dense[0]} has dense ones: use Adam"
        )


def _grouped(
    call: Call, trained: dict[str, nn.Parameter], options: dict[str, dict[str, Any]], *, decay_all: bool
) -> list[dict[str, Any]]:
    """Put parameters with the same options into one group, named after what is its own."""
    spares_1d = not decay_all and _weight_decay(call) != 0
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trained.items():
        own = dict(options[name])
        if spares_1d and parameter.ndim <= 1:
            own.setdefault("weight_decay", 0.0)
        group_name = ", ".join(f"{key}={_shown(value)}" for key, value in sorted(own.items())) or "all"
        groups.setdefault(group_name, {"params": [], "name": group_name, **own})["params"].append((name, parameter))
    return list(groups.values())


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _weight_decay(call: Call) -> float:
    """Return the decay that the call means, given or by default; 0 for optimizers without one or without groups."""
    parameter = inspect.signature(getattr(torch.optim, call.name)).parameters.get("weight_decay")
    if parameter is None or call.name == "LBFGS":
        return 0.0
    return call.kwargs.get("weight_decay", parameter.default)


def _construct(call: Call, groups: list[dict[str, Any]], *, lr: float, head: nn.Parameter | None) -> Any:
    allowed = set(inspect.signature(getattr(torch.optim, call.name)).parameters) - _SUPPLIED | {"lr"}
    for group in groups:
        for key in group.keys() - {"params", "name"} - allowed:
            raise UsageError(f"{call.name} has no option {key} for a group{nearest(key, allowed)}")
    if call.name == "Muon":
        return MuonWithAdamW(
            groups, head=head, lr=lr, make_muon=lambda some: OPTIMIZERS.build(call, supplied={"params": some, "lr": lr})
        )
    supplied: dict[str, Any] = {"params": groups, "lr": lr}
    # One kernel for all parameters instead of one a parameter, where torch has it.
    supplied["fused" if call.name in _FUSED else "foreach"] = True
    return OPTIMIZERS.build(call, supplied=supplied)


def _comma_parts(text: str) -> list[str]:
    """Split at commas outside brackets, so that betas=(0.9, 0.99) stays whole."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text) if part.strip()]


def _factor(line: str, value: str) -> float:
    try:
        return float(value[:-1])
    except ValueError:
        raise UsageError(f"--group {line!r}: expected a rate such as lr=0.01 or lr=10x, found lr={value}") from None
