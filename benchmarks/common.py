"""Timing two programs in turns, and one Markdown row per comparison."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HEADER = "| what | ptkit, s | peer, s | ratio | goal |\n|---|---|---|---|---|"


def machine() -> str:
    """Return processor, cores and Python version in one line."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def run_process(command: Sequence[str | Path], *, cwd: Path | None = None) -> None:
    """Run a program to its end, its output thrown away.

    Raises:
        SystemExit: it failed; its output is the message.
    """
    # Installed programs have their bytecode; the warm-up round writes ours.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def in_turns(runs: Mapping[str, Callable[[int], object]], *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each run, all of them once a round, so that a slow moment of the machine hits all.

    Each run gets the number of its round; -1 is a warm-up that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(what: str, ours: Sequence[float], peer: Sequence[float], *, goal: float) -> None:
    """Print a row with medians, spreads (smallest to largest) and the ratio of the medians; goal is the largest ratio.

    The environment variable BENCH_OUT names a file that also gets the row as a JSON line.
    """
    ratio = statistics.median(ours) / statistics.median(peer)
    mark = "yes" if ratio <= goal else "NO"
    print(f"| {what} | {_shown(ours)} | {_shown(peer)} | {ratio:.2f} | ≤ {goal:g}: {mark} |", flush=True)
    if file := os.environ.get("BENCH_OUT"):
        row = {
            "what": what,
            "ours_s": list(ours),
            "peer_s": list(peer),
            "ratio": ratio,
            "goal": goal,
            "machine": machine(),
        }
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def _shown(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
