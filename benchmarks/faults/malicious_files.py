"""Malicious files of weights, each opened by `ptkit` in a process of its own: exit code 4,
one line, nothing run, at most 1 GB and 10 s.

python benchmarks/faults/malicious_files.py [EVERY]    EVERY: 1 for all files, n for every n-th
"""

import itertools
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ptkit.core.models.zoo import build_model

MOST_KB, MOST_SECONDS = 1 << 20, 10.0
CANARY = "ran"


class Runs:
    """Runs something when it is unpickled."""

    def __init__(self, how: Callable[..., Any], *arguments: Any) -> None:
        self.what = how, arguments

    def __reduce__(self) -> Any:
        return self.what


def payloads() -> dict[str, Any]:
    """Return objects that belong in no file of weights, by name."""
    around: dict[str, Any] = {}
    around["again"] = [around]
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    return {
        "system": Runs(os.system, f"touch {CANARY}"),
        "eval": Runs(eval, f"open({CANARY!r}, 'w')"),
        "exec": Runs(exec, f"open({CANARY!r}, 'w')"),
        "open": Runs(open, CANARY, "w"),
        "import": Runs(__import__, CANARY),
        "process": Runs(subprocess.getoutput, f"touch {CANARY}"),
        "sparse": torch.eye(3).to_sparse(),
        "rows": torch.eye(3).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.ones(3, device="meta"),
        "expanded": torch.ones(1).expand(1_000_000, 1_000_000),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "itself": around,
        "deep": deep,
        "long number": 10**5000,
    }


def files() -> Iterator[tuple[str, bytes]]:
    """Yield a name and the bytes of each file."""
    model, call = build_model("lenet", num_classes=3, size=32, seed=0)
    whole: dict[str, Any] = {
        "format": "ptkit.checkpoint", "format_version": 1, "ptkit_version": "0", "kind": "best",
        "model": {"call": call, "num_classes": 3}, "classes": ["a", "b", "c"],
        "task": {"kind": "single-label", "activation": "softmax"},
        "pipeline": {"calls": ["Resize((32, 32))", "ToTensor()"], "size": 32},
        "state_dict": model.state_dict(),
    }  # fmt: skip
    for name, odd in payloads().items():
        places = {
            "weights": {"fc.weight": torch.ones(2, 2), "odd": odd},
            "optimizer": {"state_dict": model.state_dict(), "optimizer": [odd]},
            "checkpoint": {**whole, "metrics": {"loss": odd}},
        }
        for place, contents in places.items():
            for form in ("zip", "legacy"):
                yield f"{name} in {place}, {form}", saved(contents, is_zip=form == "zip")
        if isinstance(odd, Runs):
            yield f"{name}, a plain pickle", pickle.dumps(odd)
    for key in whole:
        if not key.startswith("format") and key != "ptkit_version":
            for wrong in (3, [], {"a": [1]}):
                yield f"{key} is {wrong}", saved({**whole, key: wrong})
    for text in ("mobilenet_v2(width_mult=1e6)", "resnet20(num_classes=9999999)", "os:system('x')",
                 "vit_b_16(image_size=1600000)", "a(" * 3000 + ")" * 3000):  # fmt: skip
        yield f"model {text[:40]}", saved({**whole, "model": {"call": text, "num_classes": 3}})
    for calls in (["Resize((90000, 90000))"], ["Pad(4000)"] * 5):
        yield f"pipeline {calls[0]}", saved({**whole, "pipeline": {"calls": calls}})


def saved(contents: Any, *, is_zip: bool = True) -> bytes:
    """Return the bytes that torch.save writes."""
    with tempfile.NamedTemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(contents, file.name, _use_new_zipfile_serialization=is_zip)
        return Path(file.name).read_bytes()


def fault_of(data: bytes, folder: Path) -> str | None:
    """Open a file in a process of its own and say what went wrong, if anything."""
    (folder / "sent.pkl").write_bytes(data)
    begin = time.monotonic()
    command = [sys.executable, "-m", "ptkit", "viz-weights", "sent.pkl"]
    if b"model" in data:
        command = [sys.executable, "-m", "ptkit", "predict", "sent.pkl", "."]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "it took more than 60 s"
    seconds = time.monotonic() - begin
    if (folder / CANARY).exists():
        return "its code was run"
    if done.returncode != 4 or len(done.stderr.splitlines()) != 1:
        return f"exit code {done.returncode}: {done.stderr[-200:]}"
    return f"it took {seconds:.0f} s" if seconds > MOST_SECONDS else None


def main(every: int) -> None:
    faults, count = 0, 0
    # torch says of sparse and quantised tensors that they are in beta, or deprecated.
    warnings.simplefilter("ignore")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in itertools.islice(files(), 0, None, every):
            count += 1
            if fault := fault_of(data, Path(folder)):
                faults += 1
                print(f"{name}: {fault}")
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    is_bad = faults or most > MOST_KB
    verdict = "FAILED" if is_bad else "passed"
    print(
        f"{verdict}: {count - faults} of {count} files refused in one line,"
        f" nothing run; at most {most / 1024:.0f} MB"
    )
    sys.exit(bool(is_bad))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
