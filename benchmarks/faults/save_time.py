"""Measure what reading a state back adds to saving it: with the check and without, in turns.

python benchmarks/faults/save_time.py --number 20
"""

import statistics
import time
from functools import partial
from pathlib import Path

from children import number_from, scratch

from ptkit.core.files import write_atomically
from ptkit.core.models import checkpoints
from ptkit.core.models.zoo import build_model


def main() -> None:
    number = number_from(__doc__, default=20)
    model, call = build_model("resnet18()", num_classes=10, size=64, seed=0)
    contents = {
        "format": checkpoints.FORMAT, "format_version": checkpoints.FORMAT_VERSION,
        "ptkit_version": "0", "kind": "last", "model": {"call": call, "num_classes": 10},
        "classes": list("abcdefghij"), "task": {"activation": "softmax"},
        "pipeline": {"calls": []}, "state_dict": dict(model.state_dict()),
    }  # fmt: skip
    checked, unchecked = [], []
    with scratch():
        for _ in range(number):
            checked.append(_seconds(partial(checkpoints.save_checkpoint, Path("a"), contents)))
            write = partial(checkpoints._write, contents)
            unchecked.append(_seconds(partial(write_atomically, Path("b"), write)))
        size = Path("a").stat().st_size / 1e6
    a, b = statistics.median(checked), statistics.median(unchecked)
    print(
        f"save time: reading back adds {1000 * (a - b):.0f} ms to {1000 * b:.0f} ms"
        f" ({size:.0f} MB), in the writer's thread"
    )


def _seconds(work: partial[None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
