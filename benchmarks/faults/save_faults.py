"""Break the saving of a state at each of its system calls, in every way: a good state remains.

python benchmarks/faults/save_faults.py --number 1000000
"""

import builtins
import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from children import exit_code, forked, number_from, scratch

from ptkit.core.errors import StorageError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.zoo import build_model

KINDS = ("kill before", "kill after", "EIO", "ENOSPC", "EACCES", "short write")
OS_CALLS = ("open", "close", "fsync", "replace", "link", "unlink", "stat", "mkdir")
KILLED, TOLD = 9, 0


class Fault:
    """Counts system calls, and breaks one of them."""

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.count = at, kind, -1

    def call(self, real: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self.count += 1
        if self.count != self.at:
            return real(*arguments, **more)
        if self.kind == "kill before":
            os._exit(KILLED)
        if self.kind == "kill after":
            real(*arguments, **more)
            os._exit(KILLED)
        if self.kind == "short write":
            # As a disk that fills up: a part is there, then the error.
            if getattr(real, "__name__", "") == "write" and len(arguments[0]) > 1:
                real(arguments[0][: len(arguments[0]) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))

    def install(self) -> None:
        """Put this between ptkit and the system."""
        for name in OS_CALLS:
            real = getattr(os, name)
            setattr(os, name, lambda *a, _real=real, **k: self.call(_real, *a, **k))
        real_open = builtins.open
        builtins.open = lambda *a, **k: _File(self.call(real_open, *a, **k), self)  # type: ignore[assignment]


class _File:
    """An open file whose calls are counted."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_error: object) -> None:
        self._fault.call(self._file.close)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._file, name)
        if name in ("write", "flush", "read", "seek"):
            return lambda *a, **k: self._fault.call(real, *a, **k)
        return real


def main() -> None:
    number = number_from(__doc__, default=1_000_000)
    failures, pairs = [], 0
    with scratch():
        model, call = build_model("lenet()", num_classes=3, size=16, seed=0)
        states = [_state(model, call, epoch=epoch) for epoch in (1, 2, 3)]
        num_calls = _num_calls(states)
        for at in range(num_calls):
            for kind in KINDS:
                if pairs < number:
                    pairs += 1
                    if fault := _fault_of(states, at, kind):
                        failures.append(f"call {at}, {kind}: {fault}")
    verdict = f"FAILED {len(failures)}: {failures[:3]}" if failures else "a good state remains"
    print(
        f"save faults: {pairs} pairs of {num_calls} system calls and {len(KINDS)} faults: {verdict}"
    )
    raise SystemExit(bool(failures))


def _state(model: Any, call: str, *, epoch: int) -> dict[str, Any]:
    weights = {name: torch.full_like(value, epoch) for name, value in model.state_dict().items()}
    return {
        "kind": "last", "model": {"call": call, "num_classes": 3}, "classes": ["a", "b", "c"],
        "task": {"activation": "softmax"}, "pipeline": {"calls": []}, "state_dict": weights,
        "train": {"epoch": epoch},
    }  # fmt: skip


def _fault_of(states: list[dict[str, Any]], at: int, kind: str) -> str | None:
    """Save three states one after the other, the third with a fault; say what is wrong then."""
    for file in Path().glob("*.pkl"):
        file.unlink()
    _save(states[0])
    _save(states[1])
    code = exit_code(forked(lambda: _broken(states[2], Fault(at, kind))))
    if code not in (TOLD, KILLED):
        return f"ended with {code}"
    found = {name: _epoch_of(Path(name)) for name in ("last.pkl", "previous.pkl")}
    if code == TOLD and not any(found.values()):
        return f"no good state is left: {found}"
    good = [epoch for epoch in found.values() if epoch]
    if not good or max(good) < 2:
        return f"the newest good state is lost: {found}"
    # Whoever comes next can save.
    for file in Path().glob(".last.pkl.*"):
        file.unlink()
    _save(states[2])
    return None if _epoch_of(Path("last.pkl")) == 3 else "the next state cannot be saved"


def _broken(state: dict[str, Any], fault: Fault) -> None:
    fault.install()
    # Any other error is a failure of its own.
    with contextlib.suppress(StorageError):
        _save(state)


def _save(state: dict[str, Any]) -> None:
    save_checkpoint(Path("last.pkl"), state, previous=Path("previous.pkl"))


def _epoch_of(file: Path) -> int | None:
    """Return the epoch of a whole state; None where there is none."""
    if not file.exists():
        return None
    state = read_checkpoint(file)
    epoch: int = state["train"]["epoch"]
    assert all(bool((tensor == epoch).all()) for tensor in state["state_dict"].values())
    return epoch


def _num_calls(states: list[dict[str, Any]]) -> int:
    """Return how many system calls a save makes."""
    _save(states[0])

    def count() -> None:
        fault = Fault(-1, "")
        fault.install()
        _save(states[1])
        os._exit(100 + fault.count)

    return exit_code(forked(count)) - 99


if __name__ == "__main__":
    main()
