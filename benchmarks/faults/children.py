"""What the fault scripts share: a run in a child process that has everything imported, and the
comparison of what two runs left.

Children are forked, as importing torch takes longer than a run; the parent computes nothing, so no
thread of torch's exists that a child would lack.
"""

import argparse
import csv
import faulthandler
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before torch: a pool of threads would not be there in a child, which would wait for it.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tiny_data import make_lists

import ptkit
from ptkit.core.errors import PtkitError
from ptkit.core.training import session  # noqa: F401, children need not import it
from ptkit.looking import end_of_run  # noqa: F401

# Of what a child died that raised no error of ptkit's.
CRASHED = 70
_HANGS_S = 60
QUICK: dict[str, Any] = {
    "epochs": 3, "batch_size": 8, "device": "cpu", "pictures": False, "graph": False,
}  # fmt: skip


def number_from(description: str | None, *, default: int) -> int:
    """Return --number of the command line: how many faults are injected."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=default, help="how many faults")
    found: int = parser.parse_args().number
    return found


@contextmanager
def scratch() -> Iterator[Path]:
    """Change into a new folder with lists and images."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(make_lists(Path(folder)))
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def forked(work: Callable[[], object]) -> int:
    """Do some work in a child process; return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    # Its own group: worker processes end with it.
    os.setsid()
    status = CRASHED
    # A child that hangs says where, and is a failure.
    faulthandler.dump_traceback_later(_HANGS_S, exit=True)
    try:
        work()
        status = 0
    except PtkitError as error:
        status = error.exit_code
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def exit_code(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(name: str, **settings: Any) -> None:
    """Begin a run, or go on with it."""
    run = Path("runs", name)
    if (run / "config.toml").exists():
        ptkit.train(resume=run)
    else:
        ptkit.train(name=name if not run.exists() else None, **settings)


def difference(one: str, other: str) -> str | None:
    """Return how the files that two runs left differ, or None."""
    a, b = Path("runs", one), Path("runs", other)
    for file in ("last.pkl", "ckpt.pkl"):
        states = [torch.load(run / file, weights_only=True)["state_dict"] for run in (a, b)]
        if states[0].keys() != states[1].keys():
            return f"{file} has other tensors"
        for name, tensor in states[0].items():
            if not torch.equal(tensor, states[1][name]):
                return f"{name} of {file} differs"
    if _rows(a) != _rows(b):
        return "metrics.csv differs"
    if _events(a) != _events(b):
        return "TensorBoard's events differ"
    left = {p.name for p in b.iterdir()} - {p.name for p in a.iterdir()} - {"previous.pkl"}
    return f"left over: {', '.join(left)}" if left else None


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]


def _events(run: Path) -> list[tuple[str, str, int]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return sorted(
        (file.parent.relative_to(run).as_posix(), value.tag, event.step)
        for file in run.glob("tensorboard/**/events*")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    )
