"""Where the time of a run goes: nothing is lost, and the verdict names what limits."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists

from ptkit.core.config.layers import resolve
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.profiling import BETWEEN, STEP, DeviceStopwatch, Profile, Stopwatch
from ptkit.core.training.session import run


@dataclass
class Queue:
    """A device whose work is not done before it is told to."""

    now: float = 0.0
    done_up_to: float = 0.0

    def mark(self) -> "Mark":
        return Mark(self, self.now)

    def finish(self) -> None:
        self.done_up_to = self.now


@dataclass
class Mark:
    queue: Queue
    at: float

    def query(self) -> bool:
        return self.at <= self.queue.done_up_to

    def elapsed_time(self, other: "Mark") -> float:
        return (other.at - self.at) * 1000


def profile(**seconds: float) -> Profile:
    return Profile(10, dict.fromkeys((*STEP, *BETWEEN), 0.0) | seconds)


def test_every_moment_belongs_to_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 3.5, 7.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Stopwatch()
    for part in ("data", "forward", "optimizer", "records"):
        clock.lap(part)
    found = clock.profile()
    assert {part: value for part, value in found.seconds.items() if value} == {
        "data": 1.0,
        "forward": 2.0,
        "optimizer": 0.5,
        "records": 4.0,
    }
    assert (found.num_steps, found.of_steps) == (1, 3.5)


def test_a_device_is_not_waited_for_before_the_end() -> None:
    queue = Queue()
    clock = DeviceStopwatch(queue.mark, queue.finish)
    clock.start()
    for _ in range(600):
        for part, seconds in (("data", 0.5), ("forward", 1.0), ("optimizer", 0.25)):
            queue.now += seconds
            clock.lap(part)
    assert queue.done_up_to == 0
    found = clock.profile()
    assert found.num_steps == 600
    assert [found.seconds[part] for part in ("data", "forward", "optimizer")] == [300, 600, 150]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"forward": 40, "backward": 54, "data": 6}, "the model takes 94% of a step"),
        (
            {"forward": 59, "data": 35, "copy": 6},
            "waiting for data takes 41% of a step: more --workers",
        ),
        ({"forward": 70, "copy": 30}, "copying and normalising takes 30%"),
        ({"forward": 70, "optimizer": 30}, "the optimizer takes 30%"),
        ({"forward": 70, "rest": 30}, "the work around them takes 30%"),
    ],
)
def test_the_verdict_names_what_limits(seconds: dict[str, float], words: str) -> None:
    assert words in profile(**seconds).verdict


def test_a_profiled_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_lists(tmp_path))
    weights = []
    for is_profiled in (False, True):
        asked = {
            "train": {"epochs": 1, "batch_size": 16, "accumulate": 2, "profile": is_profiled},
            "log": {"tensorboard": False, "pictures": False},
        }
        result = run(resolve(asked), watch=Unwatched())
        weights.append(torch.load(result.checkpoint, weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert not (tmp_path / "runs/1/profile.json").exists()
    found = json.loads((tmp_path / "runs/2/profile.json").read_text())
    assert found["num_steps"] == 2
    assert all(part["seconds"] > 0 for part in found["step"].values())
    assert sum(part["share"] for part in found["step"].values()) == pytest.approx(1)
    parts = (*found["step"].values(), *found["between"].values())
    assert sum(part["seconds"] for part in parts) == pytest.approx(found["seconds"])
