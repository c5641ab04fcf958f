"""Interrupt runs of many settings at a step, resume them, and compare them with runs that were not.

python benchmarks/faults/resume_matrix.py --number 60
"""

import itertools
import os
import random
import signal
from typing import Any

from children import QUICK, difference, exit_code, forked, number_from, scratch, train

import ptkit
from ptkit.core.errors import InterruptedRunError
from ptkit.core.training.observers import Watcher

OPTIMIZERS = ("SGD(momentum=0.9)", "AdamW()", "Muon()", "RMSprop()", "Adagrad()", "NAdam()")
SCHEDULERS = ("CosineAnnealingLR()", "OneCycleLR()", "ReduceLROnPlateau(patience=0)", "none")
WORKERS: tuple[dict[str, Any], ...] = (
    {"cache": "ram"}, {"workers": 1, "cache": "off"}, {"workers": 2, "cache": "off"},
    {"workers": 4, "cache": "off"},
)  # fmt: skip
AVERAGES: tuple[dict[str, Any], ...] = ({}, {"ema": 0.9})
STEPS: tuple[dict[str, Any], ...] = ({}, {"accumulate": 2}, {"batch_size": 7, "drop_last": True})


def main() -> None:
    number, draws = number_from(__doc__, default=60), random.Random(0)
    every = list(itertools.product(OPTIMIZERS, SCHEDULERS, WORKERS, AVERAGES, STEPS))
    failures = []
    with scratch():
        for index, chosen in enumerate(draws.sample(every, number)):
            optimizer, scheduler, *others = chosen
            settings = QUICK | {"optimizer": optimizer, "scheduler": scheduler, "epochs": 2}
            for other in others:
                settings |= other
            # In which the images of a step are transformed at random.
            settings |= {"augment": "natural"}
            whole, cut = f"whole{index}", f"cut{index}"
            code = exit_code(forked(lambda name=whole, s=settings: train(name, **s)))
            stops = {(draws.randint(1, 2), draws.randint(1, 3)) for _ in range(2)}
            code = code or exit_code(forked(lambda n=cut, s=settings, at=stops: _stopped(n, s, at)))
            fault = f"ended with {code}" if code else difference(whole, cut)
            if fault:
                failures.append(f"{settings}, stopped at {sorted(stops)}: {fault}")
    verdict = f"FAILED {len(failures)}: {failures[:2]}" if failures else "all equal to the last bit"
    print(f"resume matrix: {number} settings, each interrupted and resumed: {verdict}")
    raise SystemExit(bool(failures))


def _stopped(name: str, settings: dict[str, Any], stops: set[tuple[int, int]]) -> None:
    """Train with interruptions at some (epoch, step), until the end."""

    class Stopper(Watcher):
        def step(self, progress: Any) -> None:
            if (place := (progress.epoch, progress.step)) in stops:
                stops.discard(place)
                os.kill(os.getpid(), signal.SIGTERM)

    resume = None
    while True:
        try:
            if resume is None:
                ptkit.train(name=name, watch=Stopper(), **settings)
            else:
                ptkit.train(resume=resume, watch=Stopper())
            return
        except InterruptedRunError:
            resume = f"runs/{name}"


if __name__ == "__main__":
    main()
