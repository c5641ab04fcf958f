import math

import pytest
import torch

from ptkit.core.errors import UsageError
from ptkit.core.training.schedules import SCHEDULERS, Schedule, build_schedule

EPOCHS, STEPS = 6, 5
CALLS = [
    "StepLR(2)",
    "MultiStepLR([2, 4])",
    "ExponentialLR(0.9)",
    "CosineAnnealingLR()",
    "ReduceLROnPlateau(patience=0)",
    'LambdaLR("0.5 ** epoch")',
    "OneCycleLR()",
    "CosineAnnealingWarmRestarts(2)",
    "LinearLR()",
    "PolynomialLR()",
    "none",
]


def _optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in (0.1, 1.0)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def _schedule(call: str, optimizer: torch.optim.Optimizer, *, warmup: float = 0.0, per: str = "auto") -> Schedule:
    return build_schedule(call, optimizer, per=per, warmup=warmup, metric="loss", epochs=EPOCHS, steps_per_epoch=STEPS)


def _rates(schedule: Schedule, optimizer: torch.optim.Optimizer, *, epochs: range = range(EPOCHS)) -> list[list[float]]:
    """Return the rates of both groups, step by step; the validation loss falls in the first two epochs only."""
    rates = []
    for epoch in epochs:
        for _ in range(STEPS):
            schedule.set_rates(optimizer)
            rates.append([group["lr"] for group in optimizer.param_groups])
            schedule.after_step()
        schedule.after_epoch(valid_loss=max(1.0 - epoch, 0.0), valid_accuracy=0.5)
    return rates


def test_every_schedule_of_the_list_is_tried() -> None:
    assert {call.split("(")[0] for call in CALLS} == {*SCHEDULERS.parts, "none"}


@pytest.mark.parametrize("call", CALLS)
def test_all_groups_keep_their_proportion(call: str) -> None:
    optimizer = _optimizer()
    rates = _rates(_schedule(call, optimizer), optimizer)
    assert all(b == pytest.approx(10 * a) for a, b in rates)


@pytest.mark.parametrize("call", CALLS)
def test_a_saved_schedule_goes_on_exactly(call: str) -> None:
    whole_optimizer = _optimizer()
    whole = _rates(_schedule(call, whole_optimizer, warmup=0.3), whole_optimizer)
    first_optimizer, second_optimizer = _optimizer(), _optimizer()
    first = _schedule(call, first_optimizer, warmup=0.3)
    half = _rates(first, first_optimizer, epochs=range(3))
    second = _schedule(call, second_optimizer, warmup=0.3)
    second.load_state_dict(first.state_dict())
    assert half + _rates(second, second_optimizer, epochs=range(3, EPOCHS)) == whole


def test_step_epoch_and_cosine_rates_are_the_textbooks() -> None:
    optimizer = _optimizer()
    by_epoch = [rate for rate, _ in _rates(_schedule("StepLR(2, gamma=0.5)", optimizer), optimizer)][::STEPS]
    assert by_epoch == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    optimizer = _optimizer()
    cosine = [rate for rate, _ in _rates(_schedule("CosineAnnealingLR()", optimizer), optimizer)]
    total = EPOCHS * STEPS
    assert cosine == pytest.approx([0.05 * (1 + math.cos(math.pi * t / total)) for t in range(total)])


def test_plateau_waits_for_the_loss_to_stop_falling() -> None:
    optimizer = _optimizer()
    rates = [rate for rate, _ in _rates(_schedule("ReduceLROnPlateau(patience=0)", optimizer), optimizer)][::STEPS]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.001, 0.0001])


def test_one_cycle_moves_the_momentum_too() -> None:
    optimizer = _optimizer()
    schedule = _schedule("OneCycleLR()", optimizer)
    schedule.set_rates(optimizer)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


@pytest.mark.parametrize("call", ["StepLR(2)", "ReduceLROnPlateau()", "none"])
def test_warm_up_rises_linearly_in_front_of_any_schedule(call: str) -> None:
    optimizer = _optimizer()
    rates = [rate for rate, _ in _rates(_schedule(call, optimizer, warmup=1 / 3), optimizer, epochs=range(2))]
    assert rates == pytest.approx([0.1 * (step + 1) / 10 for step in range(10)])


def test_a_schedule_can_be_stepped_per_step() -> None:
    optimizer = _optimizer()
    rates = [rate for rate, _ in _rates(_schedule("ExponentialLR(0.5)", optimizer, per="step"), optimizer)]
    assert rates[:3] == pytest.approx([0.1, 0.05, 0.025])


def test_a_longer_run_goes_on_where_the_longer_schedule_would_be() -> None:
    optimizer, longer = _optimizer(), _optimizer()
    first = _schedule("CosineAnnealingLR()", optimizer)
    _rates(first, optimizer, epochs=range(3))
    long = build_schedule(
        "CosineAnnealingLR()", longer, per="auto", warmup=0, metric="loss", epochs=12, steps_per_epoch=5
    )
    long.go_on_from(first.state_dict(), epochs_done=3)
    long.set_rates(longer)
    assert longer.param_groups[0]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(
    ("call", "per", "message"),
    [
        ("StepLR()", "auto", "step_size"),
        ("StepLR(stepsize=2)", "auto", "did you mean step_size"),
        ("CosineLR()", "auto", "no schedule is called CosineLR"),
        ("ReduceLROnPlateau()", "step", "once an epoch"),
        ("StepLR(2, last_epoch=3)", "auto", "--resume"),
        ('LambdaLR("__import__(1)")', "auto", "only numbers, epoch"),
        ('LambdaLR("9 ** 9 ** 9")', "auto", "out of range"),
        ("LambdaLR()", "auto", "needs a function"),
        ('LambdaLR(["epoch", "epoch", "epoch"])', "auto", "3 functions, the optimizer 2"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(call: str, per: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        _schedule(call, _optimizer(), per=per)
