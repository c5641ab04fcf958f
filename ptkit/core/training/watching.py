"""What a run tells while it works; the core itself never prints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptkit.core.models.transfer import TransferReport
from ptkit.core.training.loop import EpochResult, Progress


class Watcher:
    """Hears nothing; commands override what they show."""

    def say(self, text: str) -> None:
        """Hear one line on what was decided."""

    def warn(self, text: str) -> None:
        """Hear one line on what may surprise."""

    def transferred(self, report: TransferReport) -> None:
        """Hear what was taken from old weights."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Watch a pass over `total` images; the function is told how many more are done."""
        yield lambda _count: None

    def begin(self, run: Path, *, epochs: int, num_steps: int) -> None:
        """Hear that training begins."""

    def step(self, progress: Progress) -> None:
        """Hear of one step."""

    def epoch(self, result: EpochResult, *, is_best: bool) -> None:
        """Hear of one epoch."""

    def end(self) -> None:
        """Hear that training ended, well or not."""
