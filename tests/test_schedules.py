import io
import math
import re
from pathlib import Path

import pytest
import torch

from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.training.optimization.optimizers import build_optimizer
from ptkit.core.training.optimization.schedules import (
    SCHEDULERS,
    Schedule,
    build_schedule,
    rate_of_run,
)

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
    "WarmupCosineLR(2)",
    "none",
]


def _optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in (0.1, 1.0)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def _schedule(
    call: str, optimizer: torch.optim.Optimizer, *, warmup: float = 0.0, per: str = "auto"
) -> Schedule:
    return build_schedule(
        SchedulerSettings(call, per, warmup), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
    )


def _rates(
    schedule: Schedule, optimizer: torch.optim.Optimizer, *, epochs: range = range(EPOCHS)
) -> list[list[float]]:
    """Return the rates of both groups, step by step; the validation loss falls in the first two
    epochs only.
    """
    rates = []
    for epoch in epochs:
        for _ in range(STEPS):
            schedule.set_rates(optimizer)
            rates.append([group["lr"] for group in optimizer.param_groups])
            schedule.after_step()
        schedule.after_epoch(valid_loss=max(1.0 - epoch, 0.0), metrics={"accuracy": 0.5})
    return rates


def test_every_schedule_of_the_list_is_tried() -> None:
    assert {call.split("(")[0] for call in CALLS} == {*SCHEDULERS.parts, "none"}


@pytest.mark.parametrize("call", CALLS)
def test_all_groups_keep_their_proportion(call: str) -> None:
    optimizer = _optimizer()
    rates = _rates(_schedule(call, optimizer), optimizer)
    assert all(b == pytest.approx(10 * a) for a, b in rates)


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("call", CALLS)
def test_a_saved_schedule_goes_on_exactly(call: str, per: str) -> None:
    how = {"warmup": 0.3, "per": "epoch" if call.startswith("Reduce") else per}
    whole_optimizer = _optimizer()
    whole = _rates(_schedule(call, whole_optimizer, **how), whole_optimizer)  # type: ignore[arg-type]
    first_optimizer, second_optimizer = _optimizer(), _optimizer()
    first = _schedule(call, first_optimizer, **how)  # type: ignore[arg-type]
    half = _rates(first, first_optimizer, epochs=range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = _schedule(call, second_optimizer, **how)  # type: ignore[arg-type]
    second.load_state_dict(torch.load(file, weights_only=True))
    assert half + _rates(second, second_optimizer, epochs=range(3, EPOCHS)) == whole


def test_step_epoch_and_cosine_rates_are_the_textbooks() -> None:
    optimizer = _optimizer()
    by_epoch = [
        rate for rate, _ in _rates(_schedule("StepLR(2, gamma=0.5)", optimizer), optimizer)
    ][::STEPS]
    assert by_epoch == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    optimizer = _optimizer()
    cosine = [rate for rate, _ in _rates(_schedule("CosineAnnealingLR()", optimizer), optimizer)]
    total = EPOCHS * STEPS
    assert cosine == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * t / total)) for t in range(total)]
    )


def test_plateau_waits_for_the_loss_to_stop_falling() -> None:
    optimizer = _optimizer()
    rates = [
        rate for rate, _ in _rates(_schedule("ReduceLROnPlateau(patience=0)", optimizer), optimizer)
    ][::STEPS]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.001, 0.0001])


def test_one_cycle_moves_the_momentum_too() -> None:
    optimizer = _optimizer()
    schedule = _schedule("OneCycleLR()", optimizer)
    schedule.set_rates(optimizer)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


@pytest.mark.parametrize("call", ["StepLR(2)", "ReduceLROnPlateau()", "none"])
def test_warm_up_rises_linearly_in_front_of_any_schedule(call: str) -> None:
    optimizer = _optimizer()
    rates = [
        rate
        for rate, _ in _rates(_schedule(call, optimizer, warmup=1 / 3), optimizer, epochs=range(2))
    ]
    assert rates == pytest.approx([0.1 * (step + 1) / 10 for step in range(10)])


def test_a_schedule_can_be_stepped_per_step() -> None:
    optimizer = _optimizer()
    rates = [
        rate
        for rate, _ in _rates(_schedule("ExponentialLR(0.5)", optimizer, per="step"), optimizer)
    ]
    assert rates[:3] == pytest.approx([0.1, 0.05, 0.025])


def test_a_longer_run_goes_on_where_the_longer_schedule_would_be() -> None:
    optimizer, longer = _optimizer(), _optimizer()
    first = _schedule("CosineAnnealingLR()", optimizer)
    _rates(first, optimizer, epochs=range(3))
    long = build_schedule(
        SchedulerSettings("CosineAnnealingLR()", warmup=0),
        longer,
        epochs=12,
        steps_per_epoch=5,
    )
    long.resume_from(first.state_dict(), epochs_done=3)
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
        ('LambdaLR("1 - 0.3 * epoch")', "auto", "at epoch 4 is -0.2; a rate cannot be below 0"),
        ('LambdaLR("log(epoch)")', "auto", "at epoch 0"),
        ('LambdaLR("epoch", patience=3)', "auto", "no argument patience"),
        ('LambdaLR("(" )', "auto", "is not an expression"),
        ('LambdaLR("math:pi")', "auto", "not a function"),
        ('LambdaLR("math:nothing")', "auto", "math has no nothing"),
        ("OneCycleLR(max_lr=0.5)", "auto", "though they have different ones"),
        ("OneCycleLR(total_steps=7)", "auto", "7 steps long, but the run has 30"),
        ("WarmupCosineLR(6)", "auto", "leave nothing for the cosine in a run of 6 epochs"),
        (
            "WarmupCosineLR(1, delay_epochs=[0, 5])",
            "auto",
            "a delay of 5 and a warm-up of 1 epochs leave nothing",
        ),
        ("WarmupCosineLR(1, [0, 1, 2])", "auto", "3 values for 2 parameter groups"),
        ("ReduceLROnPlateau(mode='max')", "auto", "the best loss is the minimum"),
        ("ReduceLROnPlateau(min_lr=[0.1])", "auto", "1 values for 2 parameter groups"),
        (
            'LambdaLR(["epoch", "epoch", "epoch"])',
            "auto",
            "3 values for 2 parameter groups: group 0; group 1",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(call: str, per: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        _schedule(call, _optimizer(), per=per)


# ------------------------------------------------------------------------- PyTorch's own, in epochs


@pytest.mark.parametrize(
    "call",
    [
        "StepLR(2, gamma=0.5)",
        "MultiStepLR([1, 3], gamma=0.3)",
        "ExponentialLR(0.7)",
        "CosineAnnealingLR(4, eta_min=0.01)",
        "CosineAnnealingWarmRestarts(2, T_mult=2, eta_min=0.01)",
        "LinearLR(start_factor=0.5, end_factor=0.25, total_iters=3)",
        "PolynomialLR(total_iters=4, power=2.0)",
    ],
)
def test_a_length_in_a_call_is_in_epochs_as_in_pytorchs_examples(call: str) -> None:
    optimizer, theirs = _optimizer(), _optimizer()
    ours = [rate for rate, _ in _rates(_schedule(call, optimizer), optimizer)]
    scheduler = eval(
        call.replace("(", "(theirs, ", 1), {"theirs": theirs} | vars(torch.optim.lr_scheduler)
    )
    expected = []
    for _ in range(EPOCHS):
        expected += [theirs.param_groups[0]["lr"]] * STEPS
        theirs.step()
        scheduler.step()
    assert ours == expected


# For each argument a call with another value than in the first one.
CHANGED = [
    ("StepLR(2)", "StepLR(3)"),
    ("StepLR(2)", "StepLR(2, gamma=0.5)"),
    ("MultiStepLR([2])", "MultiStepLR([3])"),
    ("MultiStepLR([2])", "MultiStepLR([2], gamma=0.5)"),
    ("ExponentialLR(0.9)", "ExponentialLR(0.8)"),
    ("CosineAnnealingLR()", "CosineAnnealingLR(T_max=3)"),
    ("CosineAnnealingLR()", "CosineAnnealingLR(eta_min=0.05)"),
    ("ReduceLROnPlateau(patience=0)", "ReduceLROnPlateau(patience=1)"),
    ("ReduceLROnPlateau(patience=0)", "ReduceLROnPlateau(patience=0, factor=0.5)"),
    (
        "ReduceLROnPlateau(patience=0)",
        "ReduceLROnPlateau(patience=0, threshold=1.5, threshold_mode='abs')",
    ),
    (
        "ReduceLROnPlateau(patience=0, threshold=0.5)",
        "ReduceLROnPlateau(patience=0, threshold=2.0)",
    ),
    ("ReduceLROnPlateau(patience=0)", "ReduceLROnPlateau(patience=0, cooldown=1)"),
    ("ReduceLROnPlateau(patience=0)", "ReduceLROnPlateau(patience=0, min_lr=0.05)"),
    (
        "ReduceLROnPlateau(patience=0, min_lr=0.05)",
        "ReduceLROnPlateau(patience=0, min_lr=[0.05, 0.5])",
    ),
    ("ReduceLROnPlateau(patience=0)", "ReduceLROnPlateau(patience=0, eps=0.5)"),
    ("LambdaLR('0.5 ** epoch')", "LambdaLR('0.4 ** epoch')"),
    ("LambdaLR('0.5 ** epoch')", "LambdaLR(['0.5 ** epoch', '1'])"),
    ("OneCycleLR()", "OneCycleLR(max_lr=[0.2, 0.3])"),
    ("OneCycleLR()", "OneCycleLR(total_steps=60)"),
    ("OneCycleLR()", "OneCycleLR(epochs=9)"),
    ("OneCycleLR()", "OneCycleLR(steps_per_epoch=9)"),
    ("OneCycleLR()", "OneCycleLR(pct_start=0.5)"),
    ("OneCycleLR()", "OneCycleLR(anneal_strategy='linear')"),
    ("OneCycleLR()", "OneCycleLR(cycle_momentum=False)"),
    ("OneCycleLR()", "OneCycleLR(base_momentum=0.5)"),
    ("OneCycleLR()", "OneCycleLR(max_momentum=0.99)"),
    ("OneCycleLR()", "OneCycleLR(div_factor=5.0)"),
    ("OneCycleLR()", "OneCycleLR(final_div_factor=5.0)"),
    ("OneCycleLR()", "OneCycleLR(three_phase=True)"),
    ("CosineAnnealingWarmRestarts(2)", "CosineAnnealingWarmRestarts(3)"),
    ("CosineAnnealingWarmRestarts(2)", "CosineAnnealingWarmRestarts(2, T_mult=2)"),
    ("CosineAnnealingWarmRestarts(2)", "CosineAnnealingWarmRestarts(2, eta_min=0.05)"),
    ("LinearLR()", "LinearLR(start_factor=0.5)"),
    ("LinearLR()", "LinearLR(end_factor=0.5)"),
    ("LinearLR()", "LinearLR(total_iters=3)"),
    ("PolynomialLR()", "PolynomialLR(total_iters=3)"),
    ("PolynomialLR()", "PolynomialLR(power=2.0)"),
    ("WarmupCosineLR(2)", "WarmupCosineLR(warmup_epochs=1)"),
    ("WarmupCosineLR(2)", "WarmupCosineLR(2, delay_epochs=1)"),
    ("WarmupCosineLR(2)", "WarmupCosineLR(2, cosine_epochs=2)"),
    ("WarmupCosineLR(2)", "WarmupCosineLR(2, min_factor=0.1)"),
]


def _steps(call: str) -> list[tuple[float, float, float]]:
    """Return both rates and the momentum, step by step."""
    optimizer = _optimizer()
    schedule = _schedule(call, optimizer)
    found = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            schedule.set_rates(optimizer)
            first, second = optimizer.param_groups
            found.append((first["lr"], second["lr"], first["momentum"]))
            schedule.after_step()
        schedule.after_epoch(valid_loss=max(2.0 - epoch, 1.0), metrics={})
    return found


def test_every_argument_that_a_user_can_give_is_tried() -> None:
    offered = {
        (name, argument.name)
        for name in SCHEDULERS.parts
        for argument in SCHEDULERS.arguments(name)
    }
    text = " ".join(call for _, call in CHANGED)
    named = {
        (call.partition("(")[0], name)
        for _, call in CHANGED
        for name in re.findall(r"(\w+)=", call)
    }
    first = {
        "StepLR": "step_size",
        "MultiStepLR": "milestones",
        "ExponentialLR": "gamma",
        "LambdaLR": "lr_lambda",
    }
    # Given by its place; or tested below, as it must fit what is watched.
    elsewhere = {
        *first.items(),
        ("CosineAnnealingWarmRestarts", "T_0"),
        ("ReduceLROnPlateau", "mode"),
    }
    assert all(f"{name}(" in text for name, _ in offered)
    assert offered == named | elsewhere


@pytest.mark.parametrize(("plain", "changed"), CHANGED, ids=[changed for _, changed in CHANGED])
def test_every_argument_takes_effect(plain: str, changed: str) -> None:
    assert _steps(plain) != _steps(changed)


# ------------------------------------------------------------------------------- metrics and groups


def _plateau(
    metric: str,
    values: list[float],
    modes: dict[str, str],
    call: str = "ReduceLROnPlateau(patience=0)",
):
    optimizer = _optimizer()
    schedule = build_schedule(
        SchedulerSettings(call, warmup=0, metric=metric),
        optimizer,
        epochs=9,
        steps_per_epoch=1,
        metric_modes=modes,
    )
    rates = []
    for value in values:
        schedule.set_rates(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.after_epoch(valid_loss=1.0, metrics={metric: value})
    return rates


def test_plateau_watches_any_metric_in_its_own_direction() -> None:
    values = [0.5, 0.4, 0.6, 0.7]
    assert _plateau("f1", values, {"accuracy": "max", "f1": "max"}) == pytest.approx(
        [0.1, 0.1, 0.01, 0.01]
    )
    assert _plateau("mae", values, {"mae": "min"}) == pytest.approx([0.1, 0.1, 0.1, 0.01])
    assert _plateau(
        "mae", values, {"mae": "min"}, "ReduceLROnPlateau('min', patience=0)"
    ) == pytest.approx([0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("call", "metric", "message"),
    [
        (
            "ReduceLROnPlateau()",
            "acuracy",
            "one of loss, accuracy, found 'acuracy'; did you mean accuracy",
        ),
        ("StepLR(2)", "accuracy", "only ReduceLROnPlateau watches a metric, not StepLR"),
        ("none", "accuracy", "only ReduceLROnPlateau watches a metric, not none"),
        ("ReduceLROnPlateau('min')", "accuracy", "the best accuracy is the maximum"),
    ],
)
def test_a_metric_that_cannot_be_watched_is_refused(call: str, metric: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_schedule(
            SchedulerSettings(call, warmup=0, metric=metric),
            _optimizer(),
            epochs=2,
            steps_per_epoch=2,
        )


def _named(*groups: dict[str, object]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], **group} for group in groups], lr=1.0
    )


def test_groups_are_paired_by_their_names() -> None:
    whole = _named({"name": "a", "lr": 1.0}, {"name": "b", "lr": 2.0})
    schedule = _schedule("ExponentialLR(0.5)", whole)
    part = _named({"name": "b", "lr": 9.0})
    schedule.set_rates(part)
    assert schedule.rates(part) == {"b": 2.0}


def test_a_list_may_have_one_item_for_each_group_that_the_user_made() -> None:
    optimizer = _named(
        {"name": "all", "family": "all"},
        {"name": "weight_decay=0", "family": "all"},
        {"name": "lr=2", "family": "lr=2"},
        {"name": "lr=2, weight_decay=0", "family": "lr=2"},
    )
    schedule = _schedule('LambdaLR(["1", "0.5"])', optimizer)
    schedule.set_rates(optimizer)
    assert list(schedule.rates(optimizer).values()) == [1.0, 1.0, 0.5, 0.5]


def test_one_cycle_moves_momentum_and_betas_of_one_optimizer() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    prepared = build_optimizer(parse("Muon(momentum=0.5)"), layer, lr=0.1)
    schedule = _schedule("OneCycleLR()", prepared)  # type: ignore[arg-type]
    schedule.set_rates(prepared.optimizer)
    muon, adamw = prepared.param_groups[0], prepared.param_groups[-1]
    assert (muon["momentum"], adamw["betas"]) == (0.95, (0.95, 0.999))
    assert "betas" not in muon


def test_one_cycle_leaves_optimizers_without_momentum_alone() -> None:
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = _schedule("OneCycleLR()", optimizer)
    schedule.set_rates(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


# ---------------------------------------------------------------------------------------- functions


@pytest.fixture
def rates_file(tmp_path: Path) -> str:
    file = tmp_path / "rates.py"
    file.write_text(
        "import math\n"
        "from torch.optim.lr_scheduler import LRScheduler\n"
        "def half(epoch): return 0.5 ** epoch\n"
        "def sinks(epoch): return 1 - epoch\n"
        "def breaks(epoch): return [][epoch]\n"
        "class Halving(LRScheduler):\n"
        "    def __init__(self, optimizer, factor=0.5):\n"
        "        self.factor = factor\n"
        "        super().__init__(optimizer)\n"
        "    def get_lr(self): return [b * self.factor ** self.last_epoch for b in self.base_lrs]\n"
        "class Hoarding(Halving):\n"
        "    def __init__(self, optimizer):\n"
        "        super().__init__(optimizer)\n"
        "        self.lock = {1, 2}\n"
        "def number(optimizer): return 3\n"
    )
    return str(file)


def _by_epoch(call: str, **how: str) -> list[float]:
    optimizer = _optimizer()
    return [rate for rate, _ in _rates(_schedule(call, optimizer, **how), optimizer)][::STEPS]  # type: ignore[arg-type]


def test_lambda_takes_a_function_of_a_file(rates_file: str) -> None:
    assert _by_epoch(f'LambdaLR("{rates_file}:half")') == pytest.approx(
        [0.1 * 0.5**k for k in range(EPOCHS)]
    )


def test_lambda_takes_conditions() -> None:
    text = 'LambdaLR("1 if epoch < 2 else max(0.1, 0.5 ** (epoch - 1))")'
    assert _by_epoch(text) == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.0125, 0.01])


def test_an_expression_means_the_same_per_step_but_smoothly() -> None:
    optimizer = _optimizer()
    rates = [
        rate
        for rate, _ in _rates(
            _schedule('LambdaLR("0.5 ** epoch")', optimizer, per="step"), optimizer
        )
    ]
    assert rates == pytest.approx([0.1 * 0.5 ** (step / STEPS) for step in range(EPOCHS * STEPS)])


@pytest.mark.parametrize(
    ("name", "message"),
    [("sinks", "the rate -0.1"), ("breaks", "the function failed at 0: IndexError")],
)
def test_a_function_that_gives_no_rate_is_an_error(
    name: str, message: str, rates_file: str
) -> None:
    optimizer = _optimizer()
    with pytest.raises(UsageError, match=message):
        _rates(_schedule(f'LambdaLR("{rates_file}:{name}")', optimizer), optimizer)


def test_a_users_own_schedule_is_stepped_once_an_epoch(rates_file: str) -> None:
    found = _by_epoch(f"{rates_file}:Halving(factor=0.25)")
    assert found == pytest.approx([0.1 * 0.25**k for k in range(EPOCHS)])


def test_a_schedule_of_torch_that_is_not_listed_goes_by_its_module() -> None:
    found = _by_epoch("torch.optim.lr_scheduler:ConstantLR(factor=0.5, total_iters=2)")
    assert found == pytest.approx([0.05, 0.05, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number()", "must be an LRScheduler"),
        ("Halving(gamma=1)", "no argument gamma"),
        ("Halvin()", "did you mean Halving"),
        ("Hoarding()", "holds a set, which a checkpoint cannot hold"),
    ],
)
def test_a_users_class_that_is_not_a_schedule_is_refused(
    name: str, message: str, rates_file: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _schedule(f"{rates_file}:{name}", _optimizer())


@pytest.mark.parametrize(("warmup", "steps"), [(0.5, 6), (1, 12), (4, 4), (100, 6)])
def test_a_warmup_above_one_is_a_number_of_steps_and_at_most_half_the_run(warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    asked = SchedulerSettings("none", warmup=warmup)
    assert build_schedule(asked, optimizer, epochs=3, steps_per_epoch=4).warmup_steps == steps


@pytest.mark.parametrize(
    ("call", "lr", "rate"),
    [
        ("OneCycleLR(max_lr=0.5)", None, 0.5),
        ("OneCycleLR(0.5)", 0.5, 0.5),
        # What a file has beside it.
        ("OneCycleLR(0.5)", 0.2, 0.5),
        ("OneCycleLR(max_lr=[0.1, 0.5])", None, 0.5),
        ("OneCycleLR()", 0.2, 0.2),
        ("StepLR(3)", None, None),
        ("none", 0.2, 0.2),
    ],
)
def test_a_run_has_the_rate_that_its_schedule_names(
    call: str, lr: float | None, rate: float | None
) -> None:
    assert rate_of_run(SchedulerSettings(call=call), lr=lr, is_scaled=False) == rate


def test_a_rate_of_the_schedule_is_not_scaled() -> None:
    with pytest.raises(UsageError, match="give it as --lr"):
        rate_of_run(SchedulerSettings(call="OneCycleLR(max_lr=0.5)"), lr=0.5, is_scaled=True)
