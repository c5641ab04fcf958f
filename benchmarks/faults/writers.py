"""Let two processes do at the same time what only one may do: resume a run, or begin one
of the same name.

python benchmarks/faults/writers.py --number 100
"""

from pathlib import Path

from children import QUICK, difference, exit_code, forked, number_from, scratch, train

import ptkit
from ptkit.core import file_sets
from ptkit.core.errors import InterruptedRunError
from ptkit.core.training.observers import EpochResult, Watcher

REFUSED = 2


class Stopper(Watcher):
    def epoch(self, result: EpochResult, *, is_best: bool) -> None:
        raise InterruptedRunError("stopped")


def main() -> None:
    number = number_from(__doc__, default=100)
    failures = []
    # So that the loser is not the one that waited and came after the winner.
    file_sets._PATIENCE_S = 0.0
    with scratch():
        exit_code(forked(lambda: train("whole", **QUICK)))
        for index in range(number):
            name = f"run{index}"
            work = _begin if index % 2 else _resume
            if work is _resume:
                exit_code(forked(lambda name=name: _stop_after_first(name)))
            children = [forked(lambda name=name, work=work: work(name)) for _ in range(2)]
            codes = sorted(map(exit_code, children))
            fault = difference("whole", name) if codes == [0, REFUSED] else f"ended with {codes}"
            if fault:
                failures.append(f"{work.__name__} {name}: {fault}")
    verdict = (
        f"FAILED {len(failures)}: {failures[:3]}" if failures else f"one won, {number} of {number}"
    )
    print(f"two writers: {verdict}")
    raise SystemExit(bool(failures))


def _stop_after_first(name: str) -> None:
    ptkit.train(name=name, watch=Stopper(), **QUICK)


def _resume(name: str) -> None:
    ptkit.train(resume=Path("runs", name))


def _begin(name: str) -> None:
    ptkit.train(name=name, **QUICK)


if __name__ == "__main__":
    main()
