"""Optimizers and their parameter groups."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.parts.argument_rules import ABOVE_0
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue, load_user_object
from ptkit.core.parts.checks import Parameters
from ptkit.core.parts.part import Part
from ptkit.core.sharding import is_part
from ptkit.core.training.optimization.muon import Muon
from ptkit.core.training.optimization.paired import muon_with_adamw, sparse_adam_with_adam, take_in
from ptkit.core.training.optimization.parameter_groups import (
    NOT_OPTIONS,
    Group,
    ParameterPlan,
    make_groups,
    plan_parameters,
)
from ptkit.core.wording import nearest

_SUPPLIED = frozenset(
    {"params", "lr", "foreach", "capturable", "differentiable", "fused", "maximize"}
)
_FUSED = ("SGD", "Adam", "AdamW")
# Older versions of torch refuse it fused elsewhere.
_FUSED_ON_CPU = ("Adagrad",)

# The usual learning rate of each optimizer; that of SGD is for 64 images a step, in proportion.
_ROWS = {
    "SGD": (0.1, "stochastic gradient descent with momentum"),
    "ASGD": (0.2, "averaged SGD (Polyak and Juditsky 1992)"),
    "Rprop": (0.001, "signs of gradients only; made for full batches (Riedmiller and Braun 1993)"),
    "Adagrad": (0.01, "rates shrink with the gradients seen (Duchi et al. 2011)"),
    "Adadelta": (1.0, "Adagrad with a window (Zeiler 2012)"),
    "RMSprop": (0.001, "gradients over their running rms (Hinton 2012)"),
    "Adam": (0.002, "adaptive moments (Kingma and Ba 2015)"),
    "Adamax": (0.004, "Adam with the infinity norm"),
    "SparseAdam": (0.002, "Adam for parameters with sparse gradients, Adam itself for the others"),
    "LBFGS": (0.5, "quasi-Newton, through a closure; made for full or large batches"),
    "AdamW": (0.002, "Adam with decoupled weight decay (Loshchilov and Hutter 2019)"),
    "NAdam": (0.002, "Adam with Nesterov momentum (Dozat 2016)"),
    "RAdam": (0.005, "Adam with a rectified start (Liu et al. 2020)"),
    "Muon": (
        0.02,
        "orthogonalised momentum for weight matrices, AdamW for the rest (Jordan et al. 2024)",
    ),
}
USUAL_RATES = {name: lr for name, (lr, _) in _ROWS.items()}
# Without normalisation layers SGD at the usual rate diverges: a tenth of it.
_WITHOUT_NORM = 0.1

_NOTES = {
    "Rprop": "Rprop is made for full batches: on small ones gradients change sign by chance; raise"
    " --batch-size; its rate counts at the first step alone: --set scheduler.warmup=0",
    "LBFGS": "LBFGS is made for full or large batches: on small ones it mistakes noise for"
    " curvature; raise --batch-size",
}

OPTIMIZERS = Catalogue(
    "optimizer",
    {
        # Only Muon may be missing: torch has it since 2.9.
        name: Part(getattr(torch.optim, name, Muon), text, _SUPPLIED)
        for name, (_, text) in _ROWS.items()
    },
)


@dataclass(frozen=True)
class Waiting:
    """Parameters frozen before `epoch`, by name, and the optimizer whose groups join then."""

    epoch: int
    parameters: tuple[tuple[str, nn.Parameter], ...]
    optimizer: Any


@dataclass
class OptimizerSetup:
    """The optimizer that the loop steps, its call without a rate, and the base rate.

    frozen: names of parameters without gradients, those that wait included. excluded: names of
    parameters that have gradients but that the optimizer does not have. trained: the model's
    parameters that the optimizer moves now (its own may be copies, as those of Muon are). waiting:
    what is unfrozen later, in order.
    """

    optimizer: Any
    call: Call
    lr: float
    frozen: tuple[str, ...]
    excluded: tuple[str, ...]
    trained: list[nn.Parameter]
    waiting: tuple[Waiting, ...] = ()

    @property
    def param_groups(self) -> list[Group]:
        """All groups of the run: those of the optimizer, then those that wait."""
        optimizers = (self.optimizer, *(waiting.optimizer for waiting in self.waiting))
        return [group for some in optimizers for group in some.param_groups]

    @property
    def always_frozen(self) -> list[str]:
        """Names of the frozen parameters that no later epoch unfreezes."""
        waiting = {name for later in self.waiting for name, _ in later.parameters}
        return [name for name in self.frozen if name not in waiting]

    @property
    def described(self) -> str:
        """The call with its rate, and what ptkit adds to what PyTorch does by it."""
        text, groups = f"{self.call}, lr {self.lr:g}", self.param_groups
        # A decay of the user's own is in the name of the family.
        spares = any(
            group.get("weight_decay") == 0 and "weight_decay" not in group["family"]
            for group in groups
        )
        decays = any(group.get("weight_decay") for group in groups)
        return f"{text}, no decay of norms and biases" if spares and decays else text

    def unfreeze(self, epoch: int) -> tuple[str, ...]:
        """Give the optimizer all groups whose epoch has come, in place; return their names.

        Call it before each epoch; when a run resumes, once with the last epoch done, before the
        optimizer's state is loaded.
        """
        due = [waiting for waiting in self.waiting if waiting.epoch <= epoch]
        added = tuple(group["name"] for waiting in due for group in waiting.optimizer.param_groups)
        for waiting in due:
            for _, parameter in waiting.parameters:
                parameter.requires_grad_(True)
                self.trained.append(parameter)
            take_in(self.optimizer, waiting.optimizer)
        thawed = {name for waiting in due for name, _ in waiting.parameters}
        self.frozen = tuple(name for name in self.frozen if name not in thawed)
        self.waiting = self.waiting[len(due) :]
        return added


def split_rate(call: Call, *, lr: float | None) -> tuple[Call, float | None]:
    """Return the call without its rate, and the rate from the call or from `lr`.

    Raises:
        UsageError: both give one, or the call's is not a positive number.
    """
    if not call.prefix:
        OPTIMIZERS.find(call)
    if call.args:
        raise call.error(f"{call.name} takes its arguments by name", 0)
    if "lr" not in call.kwargs:
        return call, lr
    rate = call.kwargs["lr"]
    if lr is not None:
        raise call.error("the rate is given twice: here and by --lr (optimizer.lr)", "lr")
    if not ABOVE_0.check(rate):
        raise call.error(f"lr must be a number above 0, found {rate!r}", "lr")
    # Parsed anew, so that errors point into the text without the rate.
    return parse(str(call.without("lr"))), float(rate)


def usual_lr(call: Call, model: nn.Module, *, batch_size: int) -> float:
    """Return the rate an optimizer is usually run with on such a model and batch size."""
    if call.prefix:
        return 0.001
    lr = USUAL_RATES[call.name]
    if call.name != "SGD":
        return lr
    has_norm = any("Norm" in type(module).__name__ for module in model.modules())
    return lr * batch_size / 64 * (1.0 if has_norm else _WITHOUT_NORM)


def scaled_lr(call: Call, lr: float, *, times: float) -> float:
    """Return a rate for so many times as many images a step.

    In proportion for SGD (Goyal et al. 2017, section 2.1), by the square root for others (Malladi
    et al. 2022, of adaptive ones).
    """
    return lr * (times if call.name == "SGD" else times**0.5)


def notes_of(call: Call) -> tuple[str, ...]:
    """Return what a user of an optimizer should know before training with it."""
    return () if call.prefix or call.name not in _NOTES else (_NOTES[call.name],)


def is_lbfgs(call: Call) -> bool:
    """Say whether a call names LBFGS, or a class of the user's that is made of it."""
    if not call.prefix:
        return call.name == "LBFGS"
    target = OPTIMIZERS.find(call).target
    return isinstance(target, type) and issubclass(target, torch.optim.LBFGS)


def build_optimizer(
    call: Call,
    model: nn.Module,
    *,
    lr: float,
    groups: Sequence[str] = (),
    decay_all: bool = False,
    layer_decay: float | None = None,
    epochs: int | None = None,
) -> OptimizerSetup:
    """Freeze and group the model's parameters and return the optimizer over them.

    Parameters of at most one dimension (norms, biases) get no weight decay unless `decay_all`.
    Changes `requires_grad` of frozen parameters in place.

    layer_decay: rate of each layer as a multiple of the next one's; `groups` win over it.
    epochs: of the run; unfreezing parameters after it is an error.

    Raises:
        UsageError: unknown optimizer, argument or selector, or an optimizer that does not fit the
            model.
    """
    takes = _takes(call)
    _sparse_parameters(call, model)
    plans = plan_parameters(model, groups, lr=lr, layer_decay=layer_decay)
    if is_lbfgs(call):
        _check_one_group(call, plans.values())
    # Given or by default; 0 for optimizers without one.
    usual = takes["weight_decay"].default if "weight_decay" in takes else 0.0
    weight_decay = call.kwargs.get(
        "weight_decay", 0.0 if usual is inspect.Parameter.empty else usual
    )
    by_epoch = make_groups(model, plans, spares_1d=not decay_all and weight_decay != 0)
    _check_epochs(by_epoch, epochs)
    for some in by_epoch.values():
        _check_options(call, some, takes)
    excluded = tuple(name for name, plan in plans.items() if plan.is_excluded)
    frozen = tuple(n for n, plan in plans.items() if plan.first_epoch != 1 and n not in excluded)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    first, *later = (
        # An optimizer replaces the pairs in its groups by parameters, so they are read before it is
        # built.
        Waiting(
            epoch,
            tuple(p for group in some for p in group["params"]),
            _construct(call, some, model, lr=lr, weight_decay=weight_decay),
        )
        for epoch, some in by_epoch.items()
    )
    trained = [parameter for _, parameter in first.parameters]
    return OptimizerSetup(first.optimizer, call, lr, frozen, excluded, trained, tuple(later))


def freeze_statistics(model: nn.Module, frozen: Iterable[str]) -> None:
    """Put the layers that `frozen_norms` names into evaluation mode: their statistics stay."""
    for name in frozen_norms(model, frozen):
        model.get_submodule(name).eval()


def frozen_norms(model: nn.Module, frozen: Iterable[str]) -> list[str]:
    """Return the names of normalisation layers with only frozen parameters; one that has none goes
    with what it is in.
    """
    names, found = set(frozen), []
    for prefix, module in model.named_modules() if names else ():
        if not isinstance(getattr(module, "running_mean", None), Tensor):
            continue
        around, own = prefix, [name for name, _ in module.named_parameters(prefix)]
        while not own and around:
            around = around.rpartition(".")[0]
            own = [name for name, _ in model.get_submodule(around).named_parameters(around)]
        if own and names.issuperset(own):
            found.append(prefix)
    return found


def _takes(call: Call) -> Parameters:
    """Return the arguments of the optimizer that a call names."""
    if not call.prefix:
        return inspect.signature(OPTIMIZERS.find(call).load()).parameters
    target = load_user_object(call)
    takes = inspect.signature(target).parameters if callable(target) else {}
    missing = [name for name in ("params", "lr") if name not in takes]
    if missing:
        raise call.error(
            f"{call.name} is not an optimizer: it must take params and lr, and has no {missing[0]}"
        )
    return takes


def _check_one_group(call: Call, plans: Iterable[ParameterPlan]) -> None:
    for plan in plans:
        if plan.first_epoch not in (1, None):
            raise call.error("LBFGS cannot take in parameters during training: leave unfreeze out")
        if plan.layer:
            raise call.error(
                "LBFGS takes no parameter groups: leave optimizer.layer_decay out (--set"
                " optimizer.layer_decay=none)"
            )
        if plan.options:
            raise call.error(
                "LBFGS takes no parameter groups: leave --group out, or use frozen and excluded"
                " only"
            )


def _check_epochs(by_epoch: dict[int, list[Group]], epochs: int | None) -> None:
    if 1 not in by_epoch:
        later = f" before epoch {min(by_epoch)}" if by_epoch else ""
        raise UsageError(f"every parameter is frozen or excluded: nothing is left to train{later}")
    last = max(by_epoch)
    if epochs is not None and last > epochs:
        name, _ = by_epoch[last][0]["params"][0]
        raise UsageError(f"{name} is unfrozen at epoch {last}, but the run has {epochs} epochs")


def _check_options(call: Call, groups: list[Group], takes: Parameters) -> None:
    """Refuse options of groups that the optimizer does not have, or whose values it refuses."""
    allowed = set(takes) - _SUPPLIED | {"lr"}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    for group in groups:
        unknown = group.keys() - NOT_OPTIONS - allowed
        if unknown and not takes_any:
            key = min(unknown)
            raise UsageError(
                f"{call.name} has no option {key} for a group{nearest(key, allowed | {'unfreeze'})}"
            )
        options = {k: value for k, value in group.items() if k not in NOT_OPTIONS | {"lr"}}
        if options and not call.prefix:
            # PyTorch checks only the arguments of the call, so it is built once with the group's.
            matrix = nn.Parameter(torch.zeros(1, 1))
            OPTIMIZERS.build(
                Call(call.name, kwargs={**call.kwargs, **options}),
                supplied={"params": [matrix], "lr": 1},
            )


def _construct(
    call: Call, groups: list[Group], model: nn.Module, *, lr: float, weight_decay: float
) -> Any:
    def build(some: list[Group], **how: Any) -> Any:
        return OPTIMIZERS.build(call, supplied={"params": some, "lr": lr, **how})

    if call.prefix:
        optimizer = build(groups)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise call.error(
                f"{call.name} is not an optimizer: it makes a {type(optimizer).__name__}"
            )
        return optimizer
    if call.name == "Muon":
        # The classifying layer's gradients are of another kind than hidden layers'. It may be a
        # convolution, in a network of nothing else.
        weights = [p for p in reversed([*model.parameters()]) if p.ndim >= 2]
        head = next((p for p in weights if p.ndim == 2), weights[0] if len(weights) > 1 else None)
        return muon_with_adamw(groups, lr=lr, weight_decay=weight_decay, head=head, build=build)
    if call.name == "SparseAdam":
        sparse = _sparse_parameters(call, model)
        options = OPTIMIZERS.bind(call, OPTIMIZERS.find(call))
        return sparse_adam_with_adam(groups, lr=lr, sparse=sparse, options=options, build=build)
    # One kernel for all parameters instead of one a parameter, where torch has it.
    first = next(model.parameters())
    on = first.device.type
    is_fused = call.name in _FUSED or (call.name in _FUSED_ON_CPU and on == "cpu")
    # Parts of tensors have no such kernel in every torch.
    is_fused = is_fused and not is_part(first)
    how = {"fused" if is_fused else "foreach": True}
    # On a GPU it sends numbers from the CPU every step and waits, unless it computes them there.
    if call.name == "ASGD" and on == "cuda":
        how["capturable"] = True
    return build(groups, **how)


def _sparse_parameters(call: Call, model: nn.Module) -> set[str]:
    """Return the names of the parameters with sparse gradients, which only SparseAdam can step.

    Raises:
        UsageError: SparseAdam and there are none, or another optimizer of torch and there are some.
    """
    found = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if getattr(module, "sparse", False) is True
    }
    if found and call.name != "SparseAdam" and not call.prefix:
        raise call.error(
            f"{min(found)} has sparse gradients: use SparseAdam, which steps all others as Adam"
            " does"
        )
    if not found and call.name == "SparseAdam":
        raise call.error(
            "SparseAdam is for parameters with sparse gradients, as of Embedding(sparse=True);"
            f" {type(model).__name__} has only dense ones: use Adam"
        )
    return found
