"""Where the time of a run goes: the parts of a step, and what lies between the epochs.

The loop calls a clock when a part of its work ends. The clock of an ordinary run does nothing.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ptkit.core.device import wait_for

# Parts of a step, and in words.
STEP = {
    "data": "waiting for data",
    "copy": "copy, normalise",
    "forward": "forward, loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "rest": "the rest",
}
# What lies between the epochs' steps.
BETWEEN = {"validation": "validation", "records": "checkpoints, logs"}

# The share of a step above which a part limits the speed.
_MUCH = 0.15
# On a GPU: marks that wait for the device before those that it has passed are read.
_MARKS_AT_ONCE = 1024


class Clock:
    """Measures nothing."""

    def start(self) -> None:
        """Begin to measure."""

    def lap(self, part: str) -> None:
        """Count all work since the last lap as this part, a key of STEP or BETWEEN."""

    def profile(self) -> "Profile | None":
        """Return where the time went, or None if it was not measured; may wait for the device."""
        return None


NO_CLOCK = Clock()


class Stopwatch(Clock):
    """Reads the time at every lap: for devices that work before the program continues."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget what was before."""
        self._seconds = dict.fromkeys((*STEP, *BETWEEN), 0.0)
        self._num_steps = 0
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to the part."""
        now = time.perf_counter()
        self._add(part, now - self._last)
        self._last = now

    def profile(self) -> "Profile":
        """Return where the time went."""
        return Profile(self._num_steps, dict(self._seconds))

    def _add(self, part: str, seconds: float) -> None:
        self._seconds[part] += seconds
        # A step ends with its optimizer, however many batches it has.
        self._num_steps += part == "optimizer"


class DeviceStopwatch(Stopwatch):
    """Queues a mark on the device at every lap, and reads its time when the device has passed it.

    Nothing waits. Time in which the device has no work belongs to the part that it waits for.

    new_mark: queues a mark, which has `query` and `elapsed_time` as torch.cuda.Event does.
    """

    def __init__(self, new_mark: Callable[[], Any], wait: Callable[[], None]) -> None:
        self._new_mark, self._wait = new_mark, wait
        super().__init__()

    def start(self) -> None:
        """Forget what was before."""
        super().start()
        self._marks: deque[tuple[str, Any]] = deque()
        self._passed = self._new_mark()

    def lap(self, part: str) -> None:
        """Mark the end of the part."""
        self._marks.append((part, self._new_mark()))
        if len(self._marks) >= _MARKS_AT_ONCE:
            self._read()

    def profile(self) -> "Profile":
        """Wait for the device and return where its time went."""
        self._wait()
        self._read()
        return super().profile()

    def _read(self) -> None:
        while self._marks and self._marks[0][1].query():
            part, mark = self._marks.popleft()
            self._add(part, self._passed.elapsed_time(mark) / 1000)
            self._passed = mark


def stopwatch(device: torch.device) -> Stopwatch:
    """Return the clock with which a run on this device is profiled."""
    if device.type == "cpu":
        return Stopwatch()
    module = getattr(torch, device.type)

    def new_mark() -> Any:
        mark = module.Event(enable_timing=True)
        mark.record()
        return mark

    return DeviceStopwatch(new_mark, functools.partial(wait_for, device))


@dataclass(frozen=True)
class Profile:
    """Seconds of every part of STEP and BETWEEN; together they are the whole of the training."""

    num_steps: int
    seconds: Mapping[str, float]

    @property
    def of_steps(self) -> float:
        """The seconds of all steps."""
        return sum(self.seconds[part] for part in STEP)

    def share(self, *parts: str) -> float:
        """Return the share of some parts in the steps' time, 0..1."""
        return sum(self.seconds[part] for part in parts) / max(self.of_steps, 1e-9)

    @property
    def verdict(self) -> str:
        """What limits the speed, in one sentence."""
        model, data = self.share("forward", "backward"), self.share("data", "copy")
        rest = self.share("rest")
        if data >= _MUCH and self.share("data") >= self.share("copy"):
            return (
                f"waiting for data takes {data:.0%} of a step: more --workers, data.cache=ram or"
                " disk, cheaper transforms or smaller images would help"
            )
        if data >= _MUCH:
            return f"copying and normalising takes {data:.0%} of a step: smaller images would help"
        if self.share("optimizer") >= _MUCH:
            return (
                f"the optimizer takes {self.share('optimizer'):.0%} of a step: a larger"
                " --batch-size needs fewer steps"
            )
        if rest >= _MUCH:
            return (
                f"neither the model nor data but the work around them takes {rest:.0%} of a step:"
                " raise --batch-size"
            )
        return f"the model takes {model:.0%} of a step: the loader does not limit the speed"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: seconds and shares of the parts, and the verdict."""
        step = {part: {"seconds": self.seconds[part], "share": self.share(part)} for part in STEP}
        return {
            "num_steps": self.num_steps,
            "seconds": sum(self.seconds.values()),
            "step": step,
            "between": {part: {"seconds": self.seconds[part]} for part in BETWEEN},
            "verdict": self.verdict,
        }
