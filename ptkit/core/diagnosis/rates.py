"""Where a command says a rate: `ptkit diagnose` and the verdicts at the end of a run share it."""

import re
import shlex

# The max_lr of a call, by name or as its first argument: a number, or one for each group.
_LARGEST = re.compile(
    r"(\bmax_lr\s*=\s*|(?<=^OneCycleLR\()(?=\s*[\d.(\[]))(\[[^]]*\]|\([^)]*\)|[^,()]+)"
)
_NUMBER = re.compile(r"[\d.]+(?:[eE][-+]?\d+)?")


def rate_flag(lr: float, schedule: str | None, *, factor: float, digits: int = 3) -> str:
    """Return the flag for so many times the rate of a run, to so many digits.

    schedule: the run's call. OneCycleLR with a max_lr of its own does not look at --lr.
    """

    def scaled(rate: float) -> str:
        return f"{float(f'{factor * rate:.{digits}g}'):.3g}"

    def in_call(found: re.Match[str]) -> str:
        rates = _NUMBER.sub(lambda number: scaled(float(number[0])), found[2])
        return found[1] + rates

    if schedule and schedule.startswith("OneCycleLR") and _LARGEST.search(schedule):
        return f"--scheduler {shlex.quote(_LARGEST.sub(in_call, schedule, count=1))}"
    return f"--lr {scaled(lr)}"
