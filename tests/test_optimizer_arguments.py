"""Every argument of every optimizer, and each optimizer against PyTorch's own."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import OPTIMIZERS, build_optimizer

# For each argument a call with it and one without it.
CALLS = {
    "SGD": {
        "momentum": ("SGD()", "SGD(momentum=0.5)"),
        "dampening": ("SGD(momentum=0.9)", "SGD(momentum=0.9, dampening=0.5)"),
        "weight_decay": ("SGD()", "SGD(weight_decay=0.1)"),
        "nesterov": ("SGD(momentum=0.9)", "SGD(momentum=0.9, nesterov=True)"),
    },
    "ASGD": {
        "lambd": ("ASGD()", "ASGD(lambd=0.1)"),
        "alpha": ("ASGD(lambd=0.1)", "ASGD(lambd=0.1, alpha=0.1)"),
        "weight_decay": ("ASGD()", "ASGD(weight_decay=0.1)"),
    },
    "Rprop": {
        "etas": ("Rprop()", "Rprop(etas=(0.2, 1.5))"),
        "step_sizes": ("Rprop()", "Rprop(step_sizes=(1e-6, 0.05))"),
    },
    "Adagrad": {
        "lr_decay": ("Adagrad()", "Adagrad(lr_decay=0.5)"),
        "weight_decay": ("Adagrad()", "Adagrad(weight_decay=0.1)"),
        "initial_accumulator_value": ("Adagrad()", "Adagrad(initial_accumulator_value=0.5)"),
        "eps": ("Adagrad()", "Adagrad(eps=0.5)"),
    },
    "Adadelta": {
        "rho": ("Adadelta()", "Adadelta(rho=0.5)"),
        "eps": ("Adadelta()", "Adadelta(eps=0.5)"),
        "weight_decay": ("Adadelta()", "Adadelta(weight_decay=0.1)"),
    },
    "RMSprop": {
        "alpha": ("RMSprop()", "RMSprop(alpha=0.5)"),
        "eps": ("RMSprop()", "RMSprop(eps=0.5)"),
        "weight_decay": ("RMSprop()", "RMSprop(weight_decay=0.1)"),
        "momentum": ("RMSprop()", "RMSprop(momentum=0.5)"),
        "centered": ("RMSprop()", "RMSprop(centered=True)"),
    },
    "Adam": {
        "betas": ("Adam()", "Adam(betas=(0.5, 0.9))"),
        "eps": ("Adam()", "Adam(eps=0.5)"),
        "weight_decay": ("Adam()", "Adam(weight_decay=0.1)"),
        "amsgrad": ("Adam(betas=(0.9, 0.1))", "Adam(betas=(0.9, 0.1), amsgrad=True)"),
        "decoupled_weight_decay": (
            "Adam(weight_decay=0.1)",
            "Adam(weight_decay=0.1, decoupled_weight_decay=True)",
        ),
    },
    "Adamax": {
        "betas": ("Adamax()", "Adamax(betas=(0.5, 0.9))"),
        "eps": ("Adamax()", "Adamax(eps=0.5)"),
        "weight_decay": ("Adamax()", "Adamax(weight_decay=0.1)"),
    },
    "SparseAdam": {
        "betas": ("SparseAdam()", "SparseAdam(betas=(0.5, 0.9))"),
        "eps": ("SparseAdam()", "SparseAdam(eps=0.5)"),
    },
    "LBFGS": {
        "max_iter": ("LBFGS(max_iter=4)", "LBFGS(max_iter=1)"),
        "max_eval": ("LBFGS(max_iter=4)", "LBFGS(max_iter=4, max_eval=2)"),
        "tolerance_grad": ("LBFGS(max_iter=4)", "LBFGS(max_iter=4, tolerance_grad=10.0)"),
        "tolerance_change": ("LBFGS(max_iter=4)", "LBFGS(max_iter=4, tolerance_change=10.0)"),
        "history_size": ("LBFGS(max_iter=4)", "LBFGS(max_iter=4, history_size=1)"),
        "line_search_fn": ("LBFGS(max_iter=4)", "LBFGS(max_iter=4, line_search_fn='strong_wolfe')"),
    },
    "AdamW": {
        "betas": ("AdamW()", "AdamW(betas=(0.5, 0.9))"),
        "eps": ("AdamW()", "AdamW(eps=0.5)"),
        "weight_decay": ("AdamW()", "AdamW(weight_decay=0.5)"),
        "amsgrad": ("AdamW(betas=(0.9, 0.1))", "AdamW(betas=(0.9, 0.1), amsgrad=True)"),
    },
    "NAdam": {
        "betas": ("NAdam()", "NAdam(betas=(0.5, 0.9))"),
        "eps": ("NAdam()", "NAdam(eps=0.5)"),
        "weight_decay": ("NAdam()", "NAdam(weight_decay=0.1)"),
        "momentum_decay": ("NAdam()", "NAdam(momentum_decay=0.5)"),
        "decoupled_weight_decay": (
            "NAdam(weight_decay=0.1)",
            "NAdam(weight_decay=0.1, decoupled_weight_decay=True)",
        ),
    },
    "RAdam": {
        "betas": ("RAdam()", "RAdam(betas=(0.5, 0.9))"),
        # Its first five steps are not divided by the root of the second moment.
        "eps": ("RAdam(betas=(0.9, 0.9999))", "RAdam(betas=(0.9, 0.9999), eps=0.5)"),
        "weight_decay": ("RAdam()", "RAdam(weight_decay=0.1)"),
        "decoupled_weight_decay": (
            "RAdam(weight_decay=0.1)",
            "RAdam(weight_decay=0.1, decoupled_weight_decay=True)",
        ),
    },
    "Muon": {
        "weight_decay": ("Muon()", "Muon(weight_decay=0.5)"),
        "momentum": ("Muon()", "Muon(momentum=0.5)"),
        "nesterov": ("Muon()", "Muon(nesterov=False)"),
        "ns_coefficients": ("Muon()", "Muon(ns_coefficients=(1.5, -0.5, 0.0))"),
        "eps": ("Muon()", "Muon(eps=100.0)"),
        "ns_steps": ("Muon()", "Muon(ns_steps=2)"),
        "adjust_lr_fn": ("Muon()", "Muon(adjust_lr_fn='match_rms_adamw')"),
    },
}
# torch has it since 2.7.
if "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters:
    del CALLS["Adam"]["decoupled_weight_decay"]
CASES = [(argument, *calls) for of_one in CALLS.values() for argument, calls in of_one.items()]


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    first = nn.EmbeddingBag(8, 6, sparse=True) if name == "SparseAdam" else nn.Linear(8, 6)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(6, 4))


def _trained(model: nn.Module, optimizer: object, *, steps: int = 8) -> list[Tensor]:
    """Return the weights after some steps on a fixed regression."""
    generator = torch.Generator().manual_seed(1)
    is_embedding = isinstance(model[0], nn.EmbeddingBag)
    inputs = (
        torch.randint(8, (5, 3), generator=generator)
        if is_embedding
        else torch.randn(5, 8, generator=generator)
    )
    targets = torch.randn(5, 4, generator=generator)

    def closure() -> Tensor:
        model.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        closure()
        optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()  # type: ignore[attr-defined]
    return [parameter.detach().clone() for parameter in model.parameters()]


def _weights_after(call: str) -> list[Tensor]:
    model = _model(call.partition("(")[0])
    return _trained(model, build_optimizer(parse(call), model, lr=0.1, decay_all=True).optimizer)


def test_every_argument_that_a_user_can_give_is_tried() -> None:
    # ASGD's t0 is when its average begins, which PyTorch leaves in the optimizer's state.
    offered = {
        name: {argument.name for argument in OPTIMIZERS.arguments(name)}
        for name in OPTIMIZERS.parts
    }
    assert {name: {*of_one} for name, of_one in CALLS.items()} == offered | {
        "ASGD": offered["ASGD"] - {"t0"}
    }


@pytest.mark.parametrize(
    ("argument", "plain", "changed"), CASES, ids=[changed for _, _, changed in CASES]
)
def test_every_argument_takes_effect(argument: str, plain: str, changed: str) -> None:
    assert argument in changed
    assert not all(
        torch.equal(a, b)
        for a, b in zip(_weights_after(plain), _weights_after(changed), strict=True)
    )


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS.parts if name not in ("Muon", "SparseAdam")]
)
def test_the_weights_are_those_of_pytorchs_own(name: str) -> None:
    model = _model(name)
    takes = inspect.signature(getattr(torch.optim, name)).parameters
    plainly = {key: False for key in ("foreach", "fused") if key in takes}
    expected = _trained(model, getattr(torch.optim, name)(model.parameters(), lr=0.1, **plainly))
    torch.testing.assert_close(_weights_after(f"{name}()"), expected)


def test_muon_and_sparse_adam_are_pytorchs_own_with_a_companion() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2))
    torch.manual_seed(0)
    kernel = nn.Parameter(model[0].weight.detach().flatten(1).clone())
    model[0].weight.grad = torch.randn(3, 2, 2, 2)
    kernel.grad = model[0].weight.grad.flatten(1)
    model[0].bias.grad = torch.ones(3)
    ours = build_optimizer(parse("Muon(momentum=0.9)"), model, lr=0.1).optimizer
    theirs = OPTIMIZERS.parts["Muon"].load()([kernel], lr=0.1, momentum=0.9)
    for optimizer in (ours, theirs):
        optimizer.step()
    torch.testing.assert_close(model[0].weight.detach().flatten(1), kernel.detach())
