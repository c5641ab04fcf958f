import numpy as np
import pytest

from ptkit.core.training.optimization.schedule_preview import preview_schedule
from ptkit.plots.saving import pixels
from ptkit.plots.schedule import schedule_figure


def _figure(call: str, *, epochs: int = 10):  # type: ignore[no-untyped-def]
    found = preview_schedule(call, epochs=epochs)
    return schedule_figure(
        found.call,
        found.epochs,
        found.rates,
        plain_rates=found.plain_rates,
        num_epochs=epochs,
        notes=found.notes,
    )


def _texts(call: str) -> list[str]:
    return [text.get_text() for text in _figure(call).texts]


def test_there_are_as_many_groups_as_the_lists_have_items() -> None:
    calls = [
        "StepLR(3)",
        "WarmupCosineLR(1, [0, 2, 4])",
        "OneCycleLR([0.1, 1.0])",
        "ReduceLROnPlateau(min_lr=[0.1, 0])",
    ]
    assert [preview_schedule(call, epochs=10).rates.shape[1] for call in calls] == [1, 3, 2, 2]


def test_the_rates_are_those_of_a_run_with_and_without_its_warm_up() -> None:
    found = preview_schedule("StepLR(5)", epochs=10)
    per_epoch = len(found.rates) // 10
    assert found.plain_rates[::per_epoch, 0] == pytest.approx([1.0] * 5 + [0.1] * 5)
    assert found.rates[:per_epoch, 0] == pytest.approx(np.arange(1, per_epoch + 1) / per_epoch)
    assert np.array_equal(found.rates[per_epoch:], found.plain_rates[per_epoch:])


def test_a_schedule_that_warms_up_by_itself_gets_no_other_warm_up() -> None:
    found = preview_schedule("OneCycleLR()", epochs=10)
    assert np.array_equal(found.rates, found.plain_rates)
    assert found.notes == ("Stepped every step.",)


def test_a_length_in_steps_is_drawn_with_that_many_steps() -> None:
    assert len(preview_schedule("OneCycleLR(total_steps=70)", epochs=10).rates) == 70
    assert len(preview_schedule("OneCycleLR(1, 70)", epochs=10).rates) == 70
    assert len(preview_schedule("OneCycleLR(steps_per_epoch=3)", epochs=10).rates) == 30


def test_the_title_has_the_numbers() -> None:
    title = (
        "WarmupCosineLR(2, min_factor=0.1): rate 1 at most, after 2 epochs, 0.1 at the end of 10"
    )
    assert " ".join(_texts("WarmupCosineLR(2, min_factor=0.1)")).startswith(title)
    title = "OneCycleLR(0.5, pct_start=0.0): rate 0.5 at first, 2e−6 at the end of 10 epochs"
    assert " ".join(_texts("OneCycleLR(0.5, pct_start=0.0)")).startswith(title)


def test_the_picture_says_what_it_supposes() -> None:
    texts = _texts("ReduceLROnPlateau(patience=2, min_lr=0.01)")
    assert "Shown for a validation loss that never improves." in texts
    assert "min_lr is a rate itself: shown for groups whose own rate is 1." in texts


def test_groups_with_the_same_rates_share_a_line() -> None:
    assert {"groups 1, 3", "group 2"} <= {*_texts('LambdaLR(["1", "0.5 ** epoch", "1"])')}


@pytest.mark.parametrize(
    "call", ["none", "StepLR(1)", "WarmupCosineLR(0, [0, 1, 2, 3, 4, 5, 6])", 'LambdaLR("0")']
)
def test_any_schedule_can_be_drawn(call: str) -> None:
    assert pixels(_figure(call)).std() > 0


def test_a_long_run_is_drawn_too() -> None:
    assert pixels(_figure("CosineAnnealingLR()", epochs=20_000)).std() > 0
