import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    freeze_statistics,
    parse_group,
    split_rate,
    usual_lr,
)

DENSE = [name for name in OPTIMIZERS.parts if name != "SparseAdam"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def _step(model: nn.Module, optimizer: object) -> float:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def closure() -> torch.Tensor:
        for parameter in model.parameters():
            parameter.grad = None
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    loss = closure()
    optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()  # type: ignore[attr-defined]
    return loss.item()


@pytest.mark.parametrize("name", DENSE)
def test_every_optimizer_lowers_the_loss_at_its_usual_rate(name: str, model: nn.Module) -> None:
    prepared = build_optimizer(f"{name}()", model, lr=usual_lr(name, model, batch_size=16))
    losses = [_step(model, prepared.optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_norms_and_biases_get_no_weight_decay(model: nn.Module) -> None:
    prepared = build_optimizer("SGD(weight_decay=0.1)", model, lr=0.1)
    decay = {name: group["weight_decay"] for group in prepared.optimizer.param_groups for name in group["param_names"]}
    assert decay == {"0.weight": 0.1, "0.bias": 0, "1.weight": 0, "1.bias": 0, "4.weight": 0.1, "4.bias": 0}


def test_decay_all_means_all(model: nn.Module) -> None:
    prepared = build_optimizer("SGD(weight_decay=0.1)", model, lr=0.1, decay_all=True)
    assert [group["weight_decay"] for group in prepared.optimizer.param_groups] == [0.1]


def test_later_lines_win_key_by_key(model: nn.Module) -> None:
    prepared = build_optimizer(
        "SGD(momentum=0.9)", model, lr=0.1, groups=["Linear: lr=10x, momentum=0.5", "4.bias: lr=0.3"]
    )
    found = {n: (g["lr"], g["momentum"]) for g in prepared.optimizer.param_groups for n in g["param_names"]}
    assert found["4.weight"] == (1.0, 0.5)
    assert found["4.bias"] == (0.3, 0.5)
    assert found["0.weight"] == (0.1, 0.9)


def test_frozen_parameters_have_no_gradient_and_keep_batchnorm_statistics(model: nn.Module) -> None:
    prepared = build_optimizer("SGD()", model, lr=0.1, groups=["Conv2d: frozen", "BatchNorm2d: frozen"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    freeze_statistics(model, prepared.frozen)
    _step(model, prepared.optimizer)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["4.weight", "4.bias"]
    assert model[0].weight.grad is None


def test_excluded_parameters_have_a_gradient_but_do_not_move(model: nn.Module) -> None:
    prepared = build_optimizer("SGD()", model, lr=0.1, groups=["0.*: excluded"])
    before = model[0].weight.detach().clone()
    _step(model, prepared.optimizer)
    assert model[0].weight.grad is not None
    assert torch.equal(model[0].weight, before)


def test_muon_turns_convolutions_and_leaves_head_and_biases_to_adamw(model: nn.Module) -> None:
    prepared = build_optimizer("Muon()", model, lr=0.02)
    muon, adamw = prepared.optimizer.param_groups[0], prepared.optimizer.param_groups[-1]
    assert muon["param_names"] == ["0.weight"]
    assert "4.weight" in [n for g in prepared.optimizer.param_groups[1:] for n in g["param_names"]]
    assert adamw["lr"] == pytest.approx(0.002)
    before = model[0].weight.detach().clone()
    _step(model, prepared.optimizer)
    update = (model[0].weight.detach() - before).flatten(1)
    # Newton-Schulz brings all singular values of the update near one value.
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.3 * values.max()


def test_the_usual_rate_follows_the_batch_size_and_the_norm_layers(model: nn.Module) -> None:
    assert usual_lr("SGD(momentum=0.9)", model, batch_size=128) == pytest.approx(0.2)
    assert usual_lr("SGD()", nn.Linear(2, 2), batch_size=64) == pytest.approx(0.01)
    assert usual_lr("Adam()", model, batch_size=128) == usual_lr("Adam()", model, batch_size=64)


def test_a_rate_in_the_call_is_the_rate() -> None:
    assert split_rate("Adam(lr=0.3, amsgrad=True)", lr=None) == ("Adam(amsgrad=True)", 0.3)
    assert split_rate("Adam()", lr=0.2) == ("Adam()", 0.2)


@pytest.mark.parametrize(
    ("text", "lr", "message"),
    [
        ("SGD(lr=0.1)", 0.1, "given twice"),
        ("SGD(lr=-1)", None, "above 0"),
        ("SGD(0.1)", None, "by name"),
        ("Adm()", None, "did you mean Adam"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(text: str, lr: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_rate(text, lr=lr)


@pytest.mark.parametrize(
    ("call", "groups", "message"),
    [
        ("SGD(nesterov=True)", [], "Nesterov momentum requires"),
        ("SGD(momentun=0.9)", [], "did you mean momentum"),
        ("SGD()", ["fc9: lr=10x"], "fc9"),
        ("SGD()", ["Linear: momentun=0.5"], "did you mean momentum"),
        ("SGD()", ["Linear: frozn"], "did you mean frozen"),
        ("SGD()", ["Linear: lr=-1"], "at least 0"),
        ("SGD()", ["Linear: 0.1, lr=2x"], "expected key=value"),
        ("SGD()", ["*: frozen"], "nothing is left to train"),
        ("SparseAdam()", [], "dense"),
        ("LBFGS()", ["Linear: lr=10x"], "no parameter groups"),
    ],
)
def test_what_does_not_fit_is_refused(call: str, groups: list[str], message: str, model: nn.Module) -> None:
    with pytest.raises(UsageError, match=message):
        build_optimizer(call, model, lr=0.1, groups=groups)


def test_sparse_adam_steps_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    prepared = build_optimizer("SparseAdam()", model, lr=0.1)
    before = model[0].weight.detach().clone()
    model(torch.tensor([1])).sum().backward()
    prepared.optimizer.step()
    assert (model[0].weight != before).any(dim=1).tolist() == [False, True, False, False, False]


def test_betas_of_a_group_take_effect(model: nn.Module) -> None:
    prepared = build_optimizer("Adam()", model, lr=0.1, groups=["Linear: betas=(0.5, 0.6)"])
    betas = {name: group["betas"] for group in prepared.optimizer.param_groups for name in group["param_names"]}
    assert betas["4.weight"] == (0.5, 0.6)
    assert betas["0.weight"] == (0.9, 0.999)


def test_another_option_does_not_thaw_what_is_frozen(model: nn.Module) -> None:
    groups = ["Linear: frozen", "*.bias: weight_decay=0"]
    assert build_optimizer("SGD()", model, lr=0.1, groups=groups).frozen == ("4.weight", "4.bias")
    assert build_optimizer("SGD()", model, lr=0.1, groups=[*groups, "4.bias: lr=1x"]).frozen == ("4.weight",)


def test_a_group_line_may_hold_brackets() -> None:
    assert parse_group("fc: betas=(0.8, 0.9), lr=2x").options == {"betas": (0.8, 0.9)}
    assert parse_group("fc: betas=(0.8, 0.9), lr=2x").lr_factor == 2
