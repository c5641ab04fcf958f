"""Where a command says a rate: `ptkit diagnose` and the verdicts at the end of a run share it."""

import re
import shlex

from ptkit.core.config.dependents import MAX_LR, has_max_lr

_NUMBER = re.compile(r"[\d.]+(?:[eE][-+]?\d+)?")


def rate_flag(lr: float, schedule: str | None, *, factor: float, digits: int = 3) -> str:
    """Return the flag for so many times the rate of a run, to so many digits.

    schedule: the run's call; of OneCycleLR with a max_lr that is changed.
    """

    def scaled(rate: float) -> str:
        return f"{float(f'{factor * rate:.{digits}g}'):.3g}"

    def in_call(found: re.Match[str]) -> str:
        rates = _NUMBER.sub(lambda number: scaled(float(number[0])), found[2])
        return found[1] + rates

    if schedule and has_max_lr(schedule):
        return f"--scheduler {shlex.quote(MAX_LR.sub(in_call, schedule, count=1))}"
    return f"--lr {scaled(lr)}"
