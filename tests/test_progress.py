"""How far something is, by a clock that the test sets."""

import sys

import pytest
import torch

from ptkit.commands.output import Printer
from ptkit.commands.progress import Pace, bar
from ptkit.commands.train import TrainingScreen
from ptkit.core.parts.calls import parse
from ptkit.core.training.loop import Progress
from ptkit.core.training.observers import EpochResult
from ptkit.core.training.tasks.loss import LabelFacts, Totals
from ptkit.core.training.tasks.losses import build_loss
from ptkit.core.wording import duration

FASTER = ("--size 112 (about a quarter of the work)", "a GPU")


class Clock:
    """Tells the seconds that it is set to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def totals():
    """The sums of an epoch: 64 images with a loss of 1.5."""
    nothing = torch.empty(0)
    facts = LabelFacts("single-label", 3, 100, torch.ones(3), nothing, nothing)
    sums = Totals(build_loss(parse("CrossEntropyLoss()"), facts))
    sums.add(torch.tensor(1.5), over=64, count=64, num_images=64)
    return sums


def make_steps(screen, clock, totals, *, epoch=1, count, num_steps, first_s, step_s):
    begin = clock.now
    for step in range(1, count + 1):
        clock.now += first_s if step == 1 else step_s
        screen.step(Progress(epoch, step, num_steps, totals, clock.now - begin))


def screen_of(clock, *, epochs, num_steps, quiet=False):
    screen = TrainingScreen(Printer(as_json=False, quiet=quiet), clock=clock)
    screen.begin("runs/1", epochs=epochs, num_steps=num_steps, faster=FASTER)
    return screen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (5000, "83 min"), (5400, "1.5 h"),
     (150_000, "41.7 h"), (216_000, "2.5 days")],
)  # fmt: skip
def test_a_duration_has_the_unit_that_people_use(seconds, text):
    assert duration(seconds) == text


def test_the_first_step_of_an_epoch_does_not_count_as_the_pace(clock):
    pace = Pace(3, clock)
    for step in range(1, 6):
        clock.now += 20 if step == 1 else 2
        pace.after_step(1, step, 11)
    assert (pace.epoch_left, pace.epoch_seconds) == (12, 40)
    assert pace.run_left == 12 + 2 * 40


def test_after_a_resume_within_an_epoch_its_own_steps_tell_the_pace(clock):
    pace = Pace(epochs=1, clock=clock)
    for step in range(901, 906):
        clock.now += 5 if step == 901 else 3
        pace.after_step(1, step, num_steps=1000)
    assert pace.is_steady
    assert pace.epoch_left == 95 * 3


def test_a_rate_counts_the_time_before_a_resume_too(clock, totals, capsys):
    screen = screen_of(clock, epochs=1, num_steps=100)
    clock.now += 61
    screen.step(Progress(1, 91, 100, totals, seconds=640.0))
    assert "  0 images/s  " in capsys.readouterr().out


def test_what_an_epoch_takes_after_its_steps_counts_from_the_second_epoch_on(clock):
    pace = Pace(3, clock)
    pace.after_step(1, 1, 1)
    clock.now += 7
    pace.begin_epoch()
    for step in (1, 2):
        clock.now += 1
        pace.after_step(2, step, 5)
    assert pace.run_left == 3 + 7 + (5 + 7)


def test_a_log_has_a_line_a_minute_within_an_epoch(clock, totals, capsys):
    screen = screen_of(clock, epochs=2, num_steps=15)
    make_steps(screen, clock, totals, count=15, num_steps=15, first_s=10, step_s=10)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "epoch 1/2  step 6/15  loss 1.5000  1 images/s  90 s left, 4 min of the run",
        "epoch 1/2  step 12/15  loss 1.5000  1 images/s  30 s left, 3 min of the run",
    ]


def test_short_epochs_have_no_lines_but_their_own(clock, totals, capsys):
    screen = screen_of(clock, epochs=3, num_steps=5)
    for epoch in (1, 2, 3):
        make_steps(screen, clock, totals, epoch=epoch, count=5, num_steps=5, first_s=9, step_s=9)
        screen.epoch(
            EpochResult(epoch, 1.5, 0.5, 1.5, {"accuracy": 0.5}, {"all": 0.1}, (), 45.0, 7.0),
            is_best=True,
        )
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines[1:]] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]


def test_an_epoch_above_ten_minutes_is_announced_with_what_makes_it_faster(clock, totals, capsys):
    screen = screen_of(clock, epochs=15, num_steps=400)
    make_steps(screen, clock, totals, count=8, num_steps=400, first_s=5, step_s=3)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "an epoch will take about 20 min, the rest of the run 5.0 h; faster: --size 112 (about a"
        " quarter of the work); a GPU"
    ]


def test_an_epoch_below_ten_minutes_is_not_announced(clock, totals, capsys):
    screen = screen_of(clock, epochs=1, num_steps=100)
    make_steps(screen, clock, totals, count=19, num_steps=100, first_s=5, step_s=3)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_terminal_has_the_rest_of_the_run_in_its_live_line(clock, totals, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    screen = screen_of(clock, epochs=2, num_steps=10)
    # rich draws by a clock of its own: of several steps nobody knows which it draws.
    make_steps(screen, clock, totals, count=1, num_steps=10, first_s=10, step_s=10)
    screen.end()
    assert "loss 1.5000  6 images/s  90 s left, 3 min of the run" in capsys.readouterr().err


def test_quiet_runs_say_nothing(clock, totals, capsys):
    screen = screen_of(clock, epochs=15, num_steps=400, quiet=True)
    make_steps(screen, clock, totals, count=300, num_steps=400, first_s=5, step_s=3)
    assert capsys.readouterr() == ("", "")


def test_a_pass_over_images_has_a_line_a_minute_in_a_log(clock, capsys):
    with bar("features", 100, clock=clock) as advance:
        for _ in range(10):
            clock.now += 15
            advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "features: 40 of 100, 90 s left",
        "features: 80 of 100, 30 s left",
    ]
