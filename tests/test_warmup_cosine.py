import itertools
import math

import pytest
import torch

from ptkit.core.training.optimization.warmup_cosine import WarmupCosineLR


def _rates(
    *, epochs: int, ticks_per_epoch: int = 1, groups: int = 1, **arguments: object
) -> list[tuple[float, ...]]:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    scheduler = WarmupCosineLR(
        optimizer, epochs=epochs, ticks_per_epoch=ticks_per_epoch, **arguments
    )  # type: ignore[arg-type]
    rates = []
    for _ in range(epochs * ticks_per_epoch):
        rates.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return rates


def test_the_rate_rises_linearly_and_falls_in_a_cosine() -> None:
    rates = [rate for (rate,) in _rates(epochs=8, warmup_epochs=4, min_factor=0.2)]
    rise = [0.2 + 0.8 * k / 4 for k in (1, 2, 3, 4)]
    fall = [0.2 + 0.8 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert rates == pytest.approx(rise + fall)


def test_each_group_begins_after_its_own_delay() -> None:
    rates = _rates(epochs=10, groups=2, warmup_epochs=2, delay_epochs=[0, 3], cosine_epochs=5)
    alone = [rate for (rate,) in _rates(epochs=10, warmup_epochs=2, cosine_epochs=5)]
    assert [first for first, _ in rates] == alone
    assert [second for _, second in rates] == pytest.approx([0, 0, 0, *alone[:7]])


def test_the_ramp_ends_where_the_cosine_begins() -> None:
    rates = [
        rate for (rate,) in _rates(epochs=20, ticks_per_epoch=50, warmup_epochs=5, min_factor=0.001)
    ]
    jumps = [abs(b - a) for a, b in itertools.pairwise(rates)]
    # The steepest part is the ramp, whose 250 steps rise by 1 / 250 each.
    assert max(jumps) <= 1 / 250
    assert max(rates) == rates[249] == 1


def test_the_rate_stays_at_its_lowest_after_the_cosine() -> None:
    rates = [rate for (rate,) in _rates(epochs=9, warmup_epochs=1, cosine_epochs=3, min_factor=0.1)]
    assert rates[4:] == pytest.approx([0.1] * 5)


def test_lengths_are_in_epochs_however_often_it_is_stepped() -> None:
    by_step = [
        rate for (rate,) in _rates(epochs=8, ticks_per_epoch=10, warmup_epochs=4, delay_epochs=0.3)
    ]
    assert by_step[:3] == [0, 0, 0]
    assert by_step[3] == pytest.approx(1 / 40)
    assert by_step[42] == pytest.approx(1)
    assert by_step[-1] < 0.01


def test_without_a_warm_up_the_cosine_begins_at_once() -> None:
    assert _rates(epochs=4, warmup_epochs=0)[0] == (1.0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
        ({"min_factor": 2}, "min_factor of 0..1"),
        ({"cosine_epochs": 0}, "cosine_epochs above 0"),
        ({"delay_epochs": -1, "warmup_epochs": 1}, "a delay of -1"),
        ({"delay_epochs": 7}, "leave nothing for the cosine in a run of 10 epochs"),
    ],
)
def test_lengths_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _rates(epochs=10, **arguments)  # type: ignore[arg-type]
