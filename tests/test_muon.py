"""Muon for versions of torch that lack it, against torch's own where it is there."""

import inspect

import pytest
import torch
from torch import nn

from ptkit.core.training.optimization.muon import Muon
from ptkit.core.training.optimization.optimizers import OPTIMIZERS

THEIRS = getattr(torch.optim, "Muon", None)
WITH_THEIRS = pytest.mark.skipif(THEIRS is None, reason="torch has Muon since 2.9")
# Wide, tall and square.
SHAPES = [(3, 8), (8, 3), (4, 4)]


def trained(kind, **options):
    """Return weights and state after three steps on the same gradients."""
    numbers = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=numbers)) for shape in SHAPES]
    optimizer = kind(weights, lr=0.1, **options)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=numbers)
        optimizer.step()
    return weights, optimizer.state_dict()


@WITH_THEIRS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.5, "momentum": 0.6, "nesterov": False},
        {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 3, "eps": 10.0},
        {"adjust_lr_fn": "original"},
        {"adjust_lr_fn": "match_rms_adamw"},
    ],
)
def test_weights_and_state_are_those_of_torchs_own(options):
    (ours, our_state), (theirs, their_state) = trained(Muon, **options), trained(THEIRS, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_state["state"], their_state["state"], rtol=1e-6, atol=1e-6)
    assert our_state["param_groups"] == their_state["param_groups"]


@WITH_THEIRS
def test_it_takes_the_arguments_of_torchs_own():
    ours, theirs = (inspect.signature(kind).parameters for kind in (Muon, THEIRS))
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def test_a_first_step_turns_the_gradient_into_a_nearly_orthogonal_matrix():
    weight = nn.Parameter(torch.zeros(4, 6))
    weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    # Jordan et al. 2024: the five steps bring every singular value to between 0.7 and 1.2.
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_the_optimizer_is_torchs_own_where_torch_has_it():
    assert OPTIMIZERS.parts["Muon"].load() is (THEIRS or Muon)
