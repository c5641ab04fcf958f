"""Which of the processes that do one job together this is; free of torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ptkit.core.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """One of `num_ranks` processes, counted from 0; local: on its own machine.

    restarts: how often the job was started again, which torchrun counts.
    """

    number: int = 0
    num_ranks: int = 1
    local: int = 0
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and prints."""
        return self.number == 0

    @property
    def is_alone(self) -> bool:
        return self.num_ranks == 1

    def part_of(self, count: int) -> slice:
        """Return which of `count` things in a row are this rank's; the first ranks have one more
        where the number does not divide evenly.
        """
        least, more = divmod(count, self.num_ranks)
        start = self.number * least + min(self.number, more)
        return slice(start, start + least + (self.number < more))

    def parts_of(self, count: int) -> list[int]:
        """Return how many of `count` things each rank has, see `part_of`."""
        parts = (Rank(k, self.num_ranks).part_of(count) for k in range(self.num_ranks))
        return [part.stop - part.start for part in parts]


ALONE = Rank()
_joined: ContextVar[Rank] = ContextVar("rank", default=ALONE)


def here() -> Rank:
    """Return which rank this process is in the work that it has joined; ALONE outside of any."""
    return _joined.get()


@contextmanager
def being(rank: Rank) -> Iterator[None]:
    """Let `here` return `rank` in a block."""
    token = _joined.set(rank)
    try:
        yield
    finally:
        _joined.reset(token)


def rank_of_environment() -> Rank:
    """Return which rank torchrun, or who else set its variables, made this process.

    Raises:
        UsageError: some variables are missing, or are no numbers.
    """
    size = _number("WORLD_SIZE", 1)
    restarts = _number("TORCHELASTIC_RESTART_COUNT", 0)
    if size <= 1:
        return Rank(restarts=restarts)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UsageError(
                f"WORLD_SIZE is {size}, and {name} is not set: start several processes with"
                " torchrun, or unset WORLD_SIZE"
            )
    number = _number("RANK", 0)
    return Rank(number, size, _number("LOCAL_RANK", 0), restarts)


def refuse_several(command: str) -> None:
    """Refuse to run what is the work of one process in several.

    Raises:
        UsageError: there are several.
    """
    rank = rank_of_environment()
    if not rank.is_alone:
        text = (
            f"ptkit {command} is the work of one process, and WORLD_SIZE is {rank.num_ranks}: start"
            " it without torchrun"
        )
        # All find it, and one says it.
        raise UsageError(text if rank.is_main else "")


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    if not value:
        return default
    if not value.isdecimal():
        raise UsageError(f"the environment variable {name} must be a number, found {value!r}")
    return int(value)
