"""Where a command says a rate: `ptkit diagnose` and the verdicts at the end of a run share it."""

import shlex

from ptkit.core.config.dependents import one_cycle, one_cycle_text


def rate_flag(lr: float, schedule: str | None, *, factor: float, digits: int = 3) -> str:
    """Return the flag for so many times the rate of a run, to so many digits.

    schedule: the run's call; for OneCycleLR(max_lr=...) the flag changes max_lr.
    """

    def scaled(rate: float) -> float:
        return float(f"{factor * rate:.{digits}g}")

    if (found := one_cycle(schedule)) is None:
        return f"--lr {scaled(lr):.3g}"
    rates: float | list[float] | tuple[float, ...] = found["max_lr"]
    # One for each group.
    new = [scaled(rate) for rate in rates] if isinstance(rates, list | tuple) else scaled(rates)
    return f"--scheduler {shlex.quote(one_cycle_text({**found, 'max_lr': new}))}"
