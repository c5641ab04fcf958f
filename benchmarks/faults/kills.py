"""Kill runs at random moments, again and again, and resume them until the end: nothing may be lost.

python benchmarks/faults/kills.py --number 1000
"""

import os
import random
import signal
import time
from pathlib import Path

from children import QUICK, difference, exit_code, forked, number_from, scratch, train

# In which a run saves whole epochs, and at nearly every moment.
EVERY = ("1", "2s")


def main() -> None:
    number, draws = number_from(__doc__, default=1000), random.Random(0)
    kills = runs = 0
    failures: list[str] = []
    with scratch():
        begin = time.monotonic()
        failures += _ended("whole", "1")
        whole_s = time.monotonic() - begin
        while kills < number:
            runs += 1
            name, every = f"run{runs}", EVERY[runs % 2]
            # A killed run saves nothing that lasts for ever: the last attempt is left alone.
            for _attempt in range(12):
                # Killed when it was done, and before its process ended.
                if _is_finished(name):
                    break
                child = forked(
                    lambda name=name, every=every: train(name, save_every=every, **QUICK)
                )
                time.sleep(draws.uniform(0, whole_s))
                # Of a child that has ended there is still its entry, until it is waited for.
                os.killpg(child, signal.SIGKILL) if _has_group(child) else None
                code = exit_code(child)
                if code == 0:
                    break
                if code != -signal.SIGKILL:
                    failures.append(f"{name} ended with {code}")
                    break
                kills += 1
            failures += _ended(name, every)
            if fault := difference("whole", name):
                failures.append(f"{name}: {fault}")
    print(
        f"kills: {kills} kills in {runs} runs, all resumed: "
        + (
            f"FAILED {len(failures)}: {failures[:3]}"
            if failures
            else "weights, metrics and events equal"
        )
    )
    raise SystemExit(bool(failures))


def _has_group(child: int) -> bool:
    try:
        return os.getpgid(child) == child
    except ProcessLookupError:
        return False


def _ended(name: str, every: str) -> list[str]:
    """Go on with a run until its end."""
    if _is_finished(name):
        return []
    code = exit_code(forked(lambda: train(name, save_every=every, **QUICK)))
    return [f"{name} ended with {code}"] if code else []


def _is_finished(name: str) -> bool:
    run = Path("runs", name)
    return (run / "last.pkl").exists() and not (run / ".running").exists()


if __name__ == "__main__":
    main()
