"""Train onto disks of many sizes that fill up, with the events on the same disk or alone on it. A
run ends with exit code 74 and does not hang, and what was saved before is good.

Needs root on Linux, to mount the disks: python benchmarks/faults/full_disk.py --number 32
"""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from children import QUICK, exit_code, forked, number_from, scratch

import ptkit
from ptkit.core.errors import CheckpointError
from ptkit.core.models.checkpoints import read_checkpoint

SIZES_KB = (4, 8, 16, 32, 64, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 4000)
# A whole run takes about two.
WITHIN_S = 30.0


def main() -> None:
    number = number_from(__doc__, default=2 * len(SIZES_KB))
    pairs = [(size, place) for size in SIZES_KB for place in ("run", "events")]
    failures, told = [], 0
    with scratch():
        for size, place in random.Random(0).sample(pairs, min(number, len(pairs))):
            with _disk(size) as disk:
                begin = time.monotonic()
                code = exit_code(forked(lambda disk=disk, place=place: _train(disk, place)))
                fault = _fault(
                    code, time.monotonic() - begin, disk if place == "run" else Path("runs")
                )
            told += code == 74
            if fault:
                failures.append(f"{size} kB for the {place}: {fault}")
    verdict = (
        f"FAILED {len(failures)}: {failures[:3]}" if failures else "the rest had room; no hang"
    )
    print(f"full disk: {told} runs ended with 74, {verdict}")
    raise SystemExit(bool(failures))


@contextmanager
def _disk(size_kb: int) -> Iterator[Path]:
    folder = Path("disk")
    folder.mkdir(exist_ok=True)
    options = f"size={size_kb}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _train(disk: Path, place: str) -> None:
    settings: dict[str, Any] = QUICK | {"model": "lenet()", "pictures": True, "epochs": 6}
    if place == "run":
        ptkit.train(out=disk, **settings)
    else:
        ptkit.train(log_folder=disk, **settings)


def _fault(code: int, seconds: float, runs: Path) -> str | None:
    if code not in (0, 74):
        return f"ended with {code}"
    if seconds > WITHIN_S:
        return f"took {seconds:.0f} s"
    for state in runs.glob("*/*.pkl"):
        try:
            read_checkpoint(state)
        except CheckpointError as error:
            return str(error)
    left = list(runs.glob("*/.*.????????"))
    return f"left over: {left}" if left else None


if __name__ == "__main__":
    main()
