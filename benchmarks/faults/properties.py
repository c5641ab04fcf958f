"""Run the property tests of list files, calls and splits on many generated examples.

python benchmarks/faults/properties.py --number 1000    examples of each property
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from children import number_from

MODULES = ("test_lists", "test_calls", "test_splitting", "test_folds", "test_extending")


def main() -> None:
    number = number_from(__doc__, default=1000)
    # Before the tests are imported, which read it.
    os.environ["PTKIT_EXAMPLES"] = str(number)
    failures = 0
    for module, name, check in properties():
        begin, error = time.perf_counter(), None
        try:
            check()
        except BaseException as found:  # an assertion, or whatever the code raises
            if isinstance(found, KeyboardInterrupt):
                raise
            error = f"{type(found).__name__}: {found}".splitlines()[0][:200]
        failures += error is not None
        verdict = f"FAILED, {error}" if error else f"held, {number:,} of {number:,}"
        words = name.removeprefix("test_").replace("_", " ")
        print(f"{module}: {words}: {verdict} ({time.perf_counter() - begin:.0f} s)", flush=True)
    raise SystemExit(bool(failures))


def properties() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield subject, name and test of each property."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("test_") and hasattr(value, "hypothesis"):
                yield module.removeprefix("test_"), name, value


if __name__ == "__main__":
    main()
