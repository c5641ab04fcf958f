import io
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ptkit.core.training.optimization.averaging import WeightAverage


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 2))


def _train(
    model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, *, steps: range
) -> None:
    for step in steps:
        images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        average.update()


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_average_is_the_closed_form() -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 0.0)
    average = WeightAverage(weight, decay=0.25)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(weight.weight, value)
        average.update()
    # Decays: 1/10, 2/11, and then 0.25, as 3/12 is no smaller.
    first = 0.9 * 1
    second = first * 2 / 11 + 2 * 9 / 11
    assert average.state_dict()["averages"]["weight"].item() == pytest.approx(
        second * 0.25 + 3 * 0.75
    )


def test_the_averages_are_in_the_model_for_a_while_and_every_byte_comes_back(
    model: nn.Module,
) -> None:
    average = WeightAverage(model, decay=0.9)
    _train(model, average, torch.optim.SGD(model.parameters(), lr=0.1), steps=range(5))
    before, averages = _copy(model), average.state_dict()["averages"]
    with average.applied():
        inside = _copy(model)
    after = _copy(model)
    assert all(torch.equal(inside[name], averages[name]) for name in averages)
    assert not torch.equal(inside["3.weight"], before["3.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_averages_leave_the_model_after_an_error(model: nn.Module) -> None:
    average = WeightAverage(model, decay=0.9)
    _train(model, average, torch.optim.SGD(model.parameters(), lr=0.1), steps=range(2))
    before = _copy(model)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert torch.equal(model[3].weight, before["3.weight"])


def test_batchnorm_statistics_are_the_models_own(model: nn.Module) -> None:
    average = WeightAverage(model, decay=0.9)
    _train(model, average, torch.optim.SGD(model.parameters(), lr=0.1), steps=range(3))
    before = _copy(model)
    with average.applied():
        inside = _copy(model)
    names = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert all(torch.equal(inside[name], before[name]) for name in names)
    assert inside["1.num_batches_tracked"] == 3


def test_training_goes_on_as_if_the_averages_had_never_stood_there(model: nn.Module) -> None:
    start = _copy(model)
    ends = []
    for looks in (False, True):
        model.load_state_dict(start)
        average = WeightAverage(model, decay=0.9)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        for step in range(4):
            _train(model, average, optimizer, steps=range(step, step + 1))
            with average.applied() if looks else nullcontext():
                model.eval()(torch.zeros(1, 3, 4, 4))
            model.train()
        ends.append(_copy(model) | average.state_dict()["averages"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_saved_average_goes_on_exactly(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    whole = WeightAverage(model, decay=0.9)
    _train(model, whole, optimizer, steps=range(3))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = WeightAverage(model, decay=0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for average in (whole, resumed):
        torch.manual_seed(1)
        nn.init.normal_(model[3].weight)
        average.update()
    first, second = whole.state_dict()["averages"], resumed.state_dict()["averages"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.num_updates == 4


def test_frozen_weights_are_averaged_once_they_move(model: nn.Module) -> None:
    model[0].requires_grad_(False)
    average = WeightAverage(model, decay=0.0)
    _train(model, average, torch.optim.SGD(model[3].parameters(), lr=0.1), steps=range(1))
    frozen = torch.equal(average.state_dict()["averages"]["0.weight"], model[0].weight)
    model[0].requires_grad_(True)
    _train(model, average, torch.optim.SGD(model.parameters(), lr=0.1), steps=range(2))
    assert frozen
    assert torch.equal(average.state_dict()["averages"]["0.weight"], model[0].weight)


def test_an_average_of_another_model_is_refused(model: nn.Module) -> None:
    other = WeightAverage(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(KeyError, match="other parameters"):
        other.load_state_dict(WeightAverage(model, decay=0.9).state_dict())


def test_an_average_that_restarts_forgets_what_was_before(model: nn.Module) -> None:
    average = WeightAverage(model, decay=0.9)
    _train(model, average, torch.optim.SGD(model.parameters(), lr=0.1), steps=range(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    average.restart()
    with average.applied():
        assert all((parameter == 3).all() for parameter in model.parameters())
    assert average.num_updates == 0
