import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import (
    OPTIMIZERS,
    USUAL_RATES,
    build_optimizer,
    freeze_statistics,
    notes_of,
    split_rate,
    usual_lr,
)
from ptkit.core.training.optimization.parameter_groups import parse_group

DOCS = Path(__file__).parent.parent / "docs" / "optimizers.md"

DENSE = [name for name in OPTIMIZERS.parts if name != "SparseAdam"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


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
    prepared = build_optimizer(
        parse(f"{name}()"), model, lr=usual_lr(parse(name), model, batch_size=16)
    )
    losses = [_step(model, prepared.optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_norms_and_biases_get_no_weight_decay(model: nn.Module) -> None:
    prepared = build_optimizer(parse("SGD(weight_decay=0.1)"), model, lr=0.1)
    decay = {
        name: group["weight_decay"]
        for group in prepared.optimizer.param_groups
        for name in group["param_names"]
    }
    assert decay == {
        "0.weight": 0.1,
        "0.bias": 0,
        "1.weight": 0,
        "1.bias": 0,
        "4.weight": 0.1,
        "4.bias": 0,
    }


@pytest.mark.parametrize(
    ("call", "settings", "added"),
    [
        ("SGD(weight_decay=0.1)", {}, ", no decay of norms and biases"),
        # Decay of its own by default.
        ("AdamW()", {}, ", no decay of norms and biases"),
        ("Muon()", {}, ", no decay of norms and biases"),
        ("SGD(weight_decay=0.1)", {"decay_all": True}, ""),
        ("SGD()", {}, ""),
        # What the user's own line says is no news.
        ("SGD(weight_decay=0.1)", {"groups": ["*: weight_decay=0.2", "4.*: weight_decay=0"]}, ""),
        ("LBFGS()", {}, ""),
    ],
)
def test_what_is_added_to_pytorchs_optimizer_is_said(
    call: str, settings: dict[str, Any], added: str, model: nn.Module
) -> None:
    prepared = build_optimizer(parse(call), model, lr=0.01, **settings)
    assert prepared.described == f"{call}, lr 0.01{added}"


def test_decay_all_means_all(model: nn.Module) -> None:
    prepared = build_optimizer(parse("SGD(weight_decay=0.1)"), model, lr=0.1, decay_all=True)
    assert [group["weight_decay"] for group in prepared.optimizer.param_groups] == [0.1]


def test_later_lines_win_key_by_key(model: nn.Module) -> None:
    prepared = build_optimizer(
        parse("SGD(momentum=0.9)"),
        model,
        lr=0.1,
        groups=["Linear: lr=10x, momentum=0.5", "4.bias: lr=0.3"],
    )
    found = {
        n: (g["lr"], g["momentum"])
        for g in prepared.optimizer.param_groups
        for n in g["param_names"]
    }
    assert found["4.weight"] == (1.0, 0.5)
    assert found["4.bias"] == (0.3, 0.5)
    assert found["0.weight"] == (0.1, 0.9)


def test_frozen_parameters_have_no_gradient_and_keep_batchnorm_statistics(model: nn.Module) -> None:
    prepared = build_optimizer(
        parse("SGD()"), model, lr=0.1, groups=["Conv2d: frozen", "BatchNorm2d: frozen"]
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    freeze_statistics(model, prepared.frozen)
    _step(model, prepared.optimizer)
    moved = [
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert moved == ["4.weight", "4.bias"]
    assert model[0].weight.grad is None


def test_batchnorm_without_parameters_goes_with_the_part_that_it_is_in() -> None:
    norm = nn.BatchNorm2d(4, affine=False)
    # In a part that has no parameters either.
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm))
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(16, 2))
    for groups, expected in ((["0: frozen"], False), (["0.0.bias: frozen"], True)):
        prepared = build_optimizer(parse("SGD()"), model, lr=0.1, groups=groups)
        model.train()
        freeze_statistics(model, prepared.frozen)
        assert norm.training is expected
        for parameter in model.parameters():
            parameter.requires_grad_(True)


def test_excluded_parameters_have_a_gradient_but_do_not_move(model: nn.Module) -> None:
    prepared = build_optimizer(parse("SGD()"), model, lr=0.1, groups=["0.*: excluded"])
    before = model[0].weight.detach().clone()
    _step(model, prepared.optimizer)
    assert model[0].weight.grad is not None
    assert torch.equal(model[0].weight, before)


def test_muon_turns_convolutions_and_leaves_head_and_biases_to_adamw(model: nn.Module) -> None:
    prepared = build_optimizer(parse("Muon()"), model, lr=0.02)
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


def test_muon_leaves_a_head_that_is_a_convolution_to_adamw() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    groups = build_optimizer(parse("Muon()"), model, lr=0.02).optimizer.param_groups
    assert groups[0]["param_names"] == ["0.weight"]
    assert "2.weight" in [name for group in groups[1:] for name in group["param_names"]]


def test_the_usual_rate_follows_the_batch_size_and_the_norm_layers(model: nn.Module) -> None:
    assert usual_lr(parse("SGD(momentum=0.9)"), model, batch_size=128) == pytest.approx(0.2)
    assert usual_lr(parse("SGD()"), nn.Linear(2, 2), batch_size=64) == pytest.approx(0.01)
    assert usual_lr(parse("Adam()"), model, batch_size=128) == usual_lr(
        parse("Adam()"), model, batch_size=64
    )


def test_the_documented_rates_are_the_usual_ones() -> None:
    rows = re.findall(
        r"^\| ([A-Z][\w, ]+) \| ([\d.]+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    found = {name: float(rate) for names, rate in rows for name in names.split(", ")}
    assert found == USUAL_RATES
    assert found.keys() == OPTIMIZERS.parts.keys()


def test_a_rate_in_the_call_is_the_rate() -> None:
    assert split_rate(parse("Adam(lr=0.3, amsgrad=True)"), lr=None) == (
        parse("Adam(amsgrad=True)"),
        0.3,
    )
    assert split_rate(parse("Adam()"), lr=0.2) == (parse("Adam()"), 0.2)


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
        split_rate(parse(text), lr=lr)


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
        ("SGD()", ["Linear: name='x'"], "no optimizer has an option name"),
        ("SGD()", ["Linear: momentum=-1"], "momentum"),
        ("Adam()", ["Linear: betas=0.5"], "betas"),
        ("Muon()", ["*.bias: momentum=0.5"], "momentum has no effect on 0.bias"),
        ("SparseAdam()", [], "only dense ones: use Adam"),
        ("LBFGS()", ["Linear: lr=10x"], "no parameter groups"),
        ("LBFGS()", ["Linear: unfreeze=2"], "leave unfreeze out"),
        ("SGD()", ["Linear: unfreeze=0"], "an epoch, counted from 1"),
        ("SGD()", ["Linear: unfreeze=2.5"], "an epoch, counted from 1"),
        ("SGD()", ["Linear: unfreez=2"], "did you mean"),
        ("SGD()", ["*: unfreeze=2"], "nothing is left to train before epoch 2"),
        (
            "SGD()",
            ["Linear: unfreeze=9"],
            "4.weight is unfrozen at epoch 9, but the run has 8 epochs",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    call: str, groups: list[str], message: str, model: nn.Module
) -> None:
    with pytest.raises(UsageError, match=message):
        build_optimizer(parse(call), model, lr=0.1, groups=groups, epochs=8)


def test_sparse_adam_steps_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    prepared = build_optimizer(parse("SparseAdam()"), model, lr=0.1)
    before = model[0].weight.detach().clone()
    model(torch.tensor([1])).sum().backward()
    prepared.optimizer.step()
    assert (model[0].weight != before).any(dim=1).tolist() == [False, True, False, False, False]


def test_betas_of_a_group_take_effect(model: nn.Module) -> None:
    prepared = build_optimizer(parse("Adam()"), model, lr=0.1, groups=["Linear: betas=(0.5, 0.6)"])
    betas = {
        name: group["betas"]
        for group in prepared.optimizer.param_groups
        for name in group["param_names"]
    }
    assert betas["4.weight"] == (0.5, 0.6)
    assert betas["0.weight"] == (0.9, 0.999)


def test_another_option_does_not_thaw_what_is_frozen(model: nn.Module) -> None:
    groups = ["Linear: frozen", "*.bias: weight_decay=0"]
    assert build_optimizer(parse("SGD()"), model, lr=0.1, groups=groups).frozen == (
        "4.weight",
        "4.bias",
    )
    assert build_optimizer(
        parse("SGD()"), model, lr=0.1, groups=[*groups, "4.bias: lr=1x"]
    ).frozen == ("4.weight",)


def test_a_group_line_may_hold_brackets() -> None:
    assert parse_group("fc: betas=(0.8, 0.9), lr=2x").options == {"betas": (0.8, 0.9)}
    assert parse_group("fc: betas=(0.8, 0.9), lr=2x").lr_factor == 2


def test_groups_with_different_values_never_share_a_name(model: nn.Module) -> None:
    prepared = build_optimizer(
        parse("SGD()"), model, lr=0.1, groups=["0.*: lr=0.1000001", "1.*: lr=0.1000002"]
    )
    assert [(g["name"], g["lr"]) for g in prepared.optimizer.param_groups] == [
        ("lr=0.1000001", 0.1000001),
        ("lr=0.1000002", 0.1000002),
        ("all", 0.1),
    ]


def test_what_is_split_off_for_weight_decay_is_of_the_same_family(model: nn.Module) -> None:
    prepared = build_optimizer(
        parse("SGD(weight_decay=0.1)"), model, lr=0.1, groups=["Linear: lr=2x"]
    )
    assert [(g["name"], g["family"]) for g in prepared.optimizer.param_groups] == [
        ("all", "all"),
        ("weight_decay=0", "all"),
        ("lr=0.2", "lr=0.2"),
        ("lr=0.2, weight_decay=0", "lr=0.2"),
    ]


def test_rprop_and_lbfgs_are_said_to_be_for_full_batches() -> None:
    assert {
        name
        for name in OPTIMIZERS.parts
        if any("full" in note for note in notes_of(parse(f"{name}()")))
    } == {
        "Rprop",
        "LBFGS",
    }


def test_sparse_adam_leaves_dense_gradients_to_adam() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))
    prepared = build_optimizer(parse("SparseAdam(betas=(0.5, 0.6))"), model, lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.tensor([1])).sum().backward()
    prepared.optimizer.step()
    assert [(g["name"], g["param_names"], g["betas"]) for g in prepared.optimizer.param_groups] == [
        ("all", ["0.weight"], (0.5, 0.6)),
        ("Adam, all", ["1.weight", "1.bias"], (0.5, 0.6)),
    ]
    assert all((now != then).any() for now, then in zip(model.parameters(), before, strict=True))


def test_muon_decays_the_head_as_it_decays_the_matrices(model: nn.Module) -> None:
    prepared = build_optimizer(parse("Muon(weight_decay=0.3)"), model, lr=0.02)
    decay = {
        name: g["weight_decay"]
        for g in prepared.optimizer.param_groups
        for name in g["param_names"]
    }
    assert decay == {
        "0.weight": 0.3,
        "4.weight": 0.3,
        "0.bias": 0,
        "1.weight": 0,
        "1.bias": 0,
        "4.bias": 0,
    }


# ---------------------------------------------------------------------------------------- one's own


@pytest.fixture
def lion(tmp_path: Path) -> str:
    file = tmp_path / "lion.py"
    file.write_text(
        "import torch\n"
        "class Lion(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr, beta=0.9):\n"
        "        super().__init__(params, {'lr': lr, 'beta': beta})\n"
        "    @torch.no_grad()\n"
        "    def step(self, closure=None):\n"
        "        for group in self.param_groups:\n"
        "            for p in group['params']:\n"
        "                m = self.state[p].setdefault('m', torch.zeros_like(p))\n"
        "                m.lerp_(p.grad, 1 - group['beta'])\n"
        "                p.sub_(m.sign(), alpha=group['lr'])\n"
        "class NoRate:\n"
        "    def __init__(self, params): pass\n"
        "def make(params, lr): return 3\n"
        "number = 3\n"
    )
    return str(file)


def test_a_users_own_optimizer_steps_with_its_arguments_and_groups(
    lion: str, model: nn.Module
) -> None:
    call, rate = split_rate(parse(f"{lion}:Lion(beta=0.5, lr=0.25)"), lr=None)
    prepared = build_optimizer(call, model, lr=rate or 0, groups=["Linear: beta=0.1, lr=2x"])
    before = model[4].bias.detach().clone()
    _step(model, prepared.optimizer)
    assert [(g["lr"], g["beta"]) for g in prepared.optimizer.param_groups] == [
        (0.25, 0.5),
        (0.5, 0.1),
    ]
    assert (model[4].bias.detach() - before).abs().tolist() == [0.5, 0.5, 0.5]


def test_an_optimizer_of_torch_that_is_not_listed_goes_by_its_module(model: nn.Module) -> None:
    prepared = build_optimizer(parse("torch.optim:Adafactor(d=2.0)"), model, lr=0.01)
    losses = [_step(model, prepared.optimizer) for _ in range(4)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("NoRate()", [], "must take params and lr, and has no lr"),
        ("number()", [], "must take params and lr"),
        ("make()", [], "it makes a int"),
        ("Lion(gamma=1)", [], "no argument gamma"),
        ("Lio()", [], "did you mean Lion"),
        ("Lion()", ["Linear: momentum=0.5"], "no option momentum for a group"),
    ],
)
def test_a_users_class_that_is_not_an_optimizer_is_refused(
    name: str, groups: list[str], message: str, lion: str, model: nn.Module
) -> None:
    with pytest.raises(UsageError, match=message):
        build_optimizer(parse(f"{lion}:{name}"), model, lr=0.1, groups=groups)
