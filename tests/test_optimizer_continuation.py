"""Training goes on exactly after an interruption, with every optimizer, also where parts are
unfrozen midway.
"""

import inspect
import io
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import (
    OPTIMIZERS,
    OptimizerSetup,
    build_optimizer,
    freeze_statistics,
)
from ptkit.core.training.optimization.schedules import Schedule, build_schedule

EPOCHS, STEPS = 3, 2
# The first layer trains from the beginning at half the rate, the next one from epoch 2.
GROUPS = ["0: lr=0.5x", "1: unfreeze=2"]


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "SparseAdam":
        return nn.Sequential(nn.EmbeddingBag(8, 4, sparse=True), nn.Linear(4, 4), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 2), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(16, 3))


def names_of(prepared: OptimizerSetup) -> tuple[str, ...]:
    return tuple(group["name"] for group in prepared.param_groups)


def _call(name: str) -> str:
    if name == "LBFGS":
        return "LBFGS(max_iter=4)"
    takes = inspect.signature(OPTIMIZERS.parts[name].load()).parameters
    return f"{name}(weight_decay=0.1)" if "weight_decay" in takes else f"{name}()"


class Session:
    """What a run keeps while it lives, and how it begins, stops and goes on."""

    def __init__(
        self, name: str, *, groups: Sequence[str], scheduler: str = "CosineAnnealingLR()"
    ) -> None:
        self.model = _model(name)
        self.prepared: OptimizerSetup = build_optimizer(
            parse(_call(name)), self.model, lr=0.05, groups=groups
        )
        self.schedule: Schedule = build_schedule(
            SchedulerSettings(call=scheduler, warmup=0.3),
            self.prepared,
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
        )

    def train(self, epochs: range) -> None:
        for epoch in epochs:
            self.prepared.unfreeze(epoch)
            for step in range(STEPS):
                self.schedule.set_rates(self.prepared.optimizer)
                self.step(torch.Generator().manual_seed(10 * epoch + step))
                self.schedule.after_step()
            self.schedule.after_epoch(valid_loss=1.0, metrics={})

    def step(self, generator: torch.Generator) -> None:
        is_embedding = isinstance(self.model[0], nn.EmbeddingBag)  # type: ignore[index]
        inputs = (
            torch.randint(8, (4, 3), generator=generator)
            if is_embedding
            else torch.randn(4, 2, 4, 4, generator=generator)
        )

        def closure() -> Tensor:
            self.model.zero_grad()
            loss = self.model(inputs).square().mean()
            loss.backward()
            return loss

        optimizer = self.prepared.optimizer
        closure()
        optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()

    def saved(self) -> io.BytesIO:
        file = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.prepared.optimizer.state_dict(),
        }
        torch.save(state | {"schedule": self.schedule.state_dict()}, file)
        file.seek(0)
        return file

    def restore(self, file: io.BytesIO, *, epochs_done: int) -> None:
        state = torch.load(file, weights_only=True)
        self.prepared.unfreeze(epochs_done)
        self.model.load_state_dict(state["model"])
        self.prepared.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _uninterrupted(name: str, **how: object) -> dict[str, Tensor]:
    whole = Session(name, **how)  # type: ignore[arg-type]
    whole.train(range(1, EPOCHS + 1))
    return whole.model.state_dict()


def _interrupted(name: str, *, after: int, **how: object) -> dict[str, Tensor]:
    first = Session(name, **how)  # type: ignore[arg-type]
    first.train(range(1, after + 1))
    second = Session(name, **how)  # type: ignore[arg-type]
    second.restore(first.saved(), epochs_done=after)
    second.train(range(after + 1, EPOCHS + 1))
    return second.model.state_dict()


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS.parts)
def test_every_optimizer_goes_on_byte_for_byte(name: str, after: int) -> None:
    groups: list[str] = [] if name == "LBFGS" else GROUPS
    whole, parted = (
        _uninterrupted(name, groups=groups),
        _interrupted(name, groups=groups, after=after),
    )
    assert [key for key in whole if not torch.equal(whole[key], parted[key])] == []


@pytest.mark.parametrize(
    "scheduler", ["OneCycleLR()", "ReduceLROnPlateau(patience=0)", "WarmupCosineLR(1)"]
)
@pytest.mark.parametrize("name", ["SGD", "Muon", "RMSprop"])
def test_every_kind_of_schedule_goes_on_with_groups_that_come_later(
    name: str, scheduler: str
) -> None:
    how = {"groups": GROUPS, "scheduler": scheduler}
    whole, parted = _uninterrupted(name, **how), _interrupted(name, after=1, **how)
    assert [key for key in whole if not torch.equal(whole[key], parted[key])] == []


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.parts if name != "LBFGS"])
def test_a_layer_stays_as_it_is_until_its_epoch_and_then_moves(name: str) -> None:
    session = Session(name, groups=GROUPS)
    begin = session.model[1].weight.detach().clone()
    session.train(range(1, 2))
    in_between, gradient = session.model[1].weight.detach().clone(), session.model[1].weight.grad
    session.train(range(2, 3))
    assert torch.equal(in_between, begin)
    assert gradient is None
    assert not torch.equal(session.model[1].weight, begin)


def test_the_rate_of_a_late_group_follows_the_run_and_does_not_begin_anew() -> None:
    session = Session("SGD", groups=GROUPS)
    session.train(range(1, 2))
    early = session.schedule.rates(session.prepared.optimizer)
    session.train(range(2, 3))
    late = session.schedule.rates(session.prepared.optimizer)
    assert "from epoch 2" not in early
    assert late["from epoch 2"] == late["all"]
    assert late["lr=0.025"] == 0.5 * late["all"]


def test_unfreezing_names_what_it_added_and_what_is_still_frozen() -> None:
    model = _model("SGD")
    groups = ["0: unfreeze=3, lr=0.1x", "1: unfreeze=2", "1.bias: frozen"]
    prepared = build_optimizer(parse("SGD()"), model, lr=0.5, groups=groups)
    assert names_of(prepared) == ("all", "from epoch 2", "from epoch 3, lr=0.05")
    assert prepared.frozen == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert prepared.unfreeze(1) == ()
    assert prepared.unfreeze(2) == ("from epoch 2",)
    assert (prepared.frozen, model[1].weight.requires_grad) == (
        ("0.weight", "0.bias", "1.bias"),
        True,
    )
    assert prepared.unfreeze(3) == ("from epoch 3, lr=0.05",)
    assert (prepared.frozen, prepared.waiting) == (("1.bias",), ())


def test_a_later_line_says_whether_and_when_a_layer_trains() -> None:
    def first_epochs(*groups: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        prepared = build_optimizer(parse("SGD()"), _model("SGD"), lr=0.5, groups=groups)
        return prepared.frozen, tuple(waiting.epoch for waiting in prepared.waiting)

    assert first_epochs("1: unfreeze=2", "1: frozen") == (("1.weight", "1.bias"), ())
    assert first_epochs("1: frozen", "1: unfreeze=2") == (("1.weight", "1.bias"), (2,))
    assert first_epochs("1: unfreeze=2", "1: lr=3x") == (("1.weight", "1.bias"), (2,))
    assert first_epochs("1: unfreeze=2", "1: unfreeze=1") == ((), ())


def test_batchnorm_of_a_frozen_part_keeps_its_statistics_until_it_is_unfrozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    prepared = build_optimizer(parse("SGD()"), model, lr=0.5, groups=["1: unfreeze=2"])
    counted = []
    for epoch in (1, 2):
        prepared.unfreeze(epoch)
        model.train()
        freeze_statistics(model, prepared.frozen)
        model(torch.randn(4, 2))
        counted.append(model[1].num_batches_tracked.item())
    assert counted == [0, 1]


def test_muon_takes_in_matrices_where_it_had_none() -> None:
    model = _model("Muon")
    prepared = build_optimizer(parse("Muon()"), model, lr=0.5, groups=["*.weight: unfreeze=2"])
    assert names_of(prepared) == ("AdamW, weight_decay=0", "from epoch 2", "AdamW, from epoch 2")
    prepared.unfreeze(2)
    assert [group["param_names"] for group in prepared.optimizer.param_groups] == [
        ["0.bias", "1.bias", "3.bias"],
        ["3.weight"],
        ["0.weight", "1.weight"],
    ]


@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_the_trained_parameters_are_the_models_own(name: str) -> None:
    model = _model(name)
    prepared = build_optimizer(
        parse(_call(name)), model, lr=0.5, groups=["0: unfreeze=2", "1: excluded"]
    )
    first = {id(parameter) for parameter in prepared.trained}
    prepared.unfreeze(2)
    assert first == {id(model[3].weight), id(model[3].bias)}
    assert {id(parameter) for parameter in prepared.trained} - first == {
        id(model[0].weight),
        id(model[0].bias),
    }
