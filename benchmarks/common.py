"""Measure in turns, and report each comparison as a Markdown row and a JSON line for table.py."""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "| what | compared with | ptkit | the other | ratio | goal |\n|---|---|---|---|---|---|"
# Where the rows of this process belong.
_place = {"section": Path(sys.argv[0]).stem, "part": ""}
OUR_LIBRARIES = ("torch", "torchvision", "opencv-python", "numpy", "pillow", "typer")


@dataclass(frozen=True)
class Goal:
    """What the ratio of ptkit's figure to the other's should be."""

    limit: float
    is_least: bool

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.limit:g}"

    def is_reached(self, ratio: float) -> bool:
        return ratio >= self.limit if self.is_least else ratio <= self.limit


def at_most(limit: float) -> Goal:
    return Goal(limit, is_least=False)


def at_least(limit: float) -> Goal:
    return Goal(limit, is_least=True)


# --------------------------------------------------------------------------------- a script's frame


def arguments(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--peers",
        default=os.environ.get("BENCH_PEERS", ROOT / ".bench-venv/bin/python"),
        help="a Python that has the other libraries",
    )
    return parser


def begin(section: str, part: str = "", *, note: str = "") -> None:
    """Print machine and header; rerunning a section and part replaces the rows recorded before."""
    about = {
        "section": section,
        "part": part,
        "machine": machine(),
        "versions": versions(OUR_LIBRARIES),
        "note": note,
    }
    _record({"kind": "begin", "date": datetime.now(UTC).isoformat(timespec="seconds"), **about})
    _place.update(section=section, part=part)
    print(f"{machine()}{'; ' if note else ''}{note}\n\n{HEADER}", flush=True)


def machine() -> str:
    """Return processor, cores, memory, GPU if any, and Python version in one line."""
    info, memory = _lines("/proc/cpuinfo"), _lines("/proc/meminfo")
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    sizes = [
        f", {int(line.split()[1]) / 2**20:.0f} GiB"
        for line in memory
        if line.startswith("MemTotal")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = names[0] if names else platform.processor()
    return f"{processor}, {cores} cores{''.join(sizes)}{_gpu()}, Python {platform.python_version()}"


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed here."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def image_paths(folder: Path, *, limit: int | None = None) -> list[Path]:
    """Return the JPEGs of FOLDER/CLASS/*.jpg in a fixed random order.

    Raises:
        SystemExit: there are none.
    """
    paths = sorted(folder.resolve().glob("*/*.jpg"))
    if not paths:
        raise SystemExit(f"{folder} has no images; expected {folder}/CLASS/*.jpg")
    random.Random(0).shuffle(paths)
    return paths[:limit]


def write_lists(paths: Sequence[Path], folder: Path, *, num_valid: int = 0) -> Path:
    """Write train.txt, valid.txt and classes.txt, and return train.txt.

    The last `num_valid` images are for validation.
    """
    names = sorted({path.parent.name for path in paths})
    lines = [f"{path} {names.index(path.parent.name)}\n" for path in paths]
    cut = len(lines) - num_valid
    (folder / "train.txt").write_text("".join(lines[:cut]))
    (folder / "valid.txt").write_text("".join(lines[cut:]))
    (folder / "classes.txt").write_text("\n".join(names))
    return folder / "train.txt"


def link_tree(paths: Sequence[Path], folder: Path) -> Path:
    """Link images as folder/CLASS/NAME.jpg, for those who read class folders; return folder."""
    for path in paths:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return folder


# ---------------------------------------------------------------------------------------- measuring


def run_process(
    command: Sequence[str | Path], *, cwd: Path | None = None, source: Path | None = None
) -> None:
    """Run a program to its end, its output thrown away.

    source: the tree that ptkit is imported from, if not the one on PYTHONPATH.

    Raises:
        SystemExit: it failed; its output is the message.
    """
    # Installed programs have their bytecode; the warm-up round writes ours.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def in_turns(runs: Mapping[str, Callable[[int], object]], *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each run; a round has each once, so a slow moment hits them all.

    Each run gets the number of its round; -1 is a warm-up that does not count.
    """

    def timed(run: Callable[[int], object], number: int) -> float:
        start = time.perf_counter()
        run(number)
        return time.perf_counter() - start

    return figures_in_turns(
        {name: lambda n, run=run: timed(run, n) for name, run in runs.items()}, rounds=rounds
    )


def figures_in_turns(
    runs: Mapping[str, Callable[[int], float]], *, rounds: int
) -> dict[str, list[float]]:
    """Return the figures that each run returns, as `in_turns` does with seconds."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, rounds):
        for name, run in runs.items():
            figure = run(number)
            if number >= 0:
                figures[name].append(figure)
    return figures


# --------------------------------------------------------------------------------------------- rows


def report(
    what: str,
    ours: Sequence[float] | str,
    other: Sequence[float] | str,
    *,
    against: str,
    goal: Goal | None = None,
    unit: str = "s",
) -> None:
    """Print and record a row: medians with the smallest and largest, and the median ratio.

    ours, other: the figures of each round, or why there are none. Where both have the same number
    of rounds, the ratio is the median over the rounds, which a drift of the machine does not
    change; otherwise it is that of the medians.
    """
    row = {"what": what, "against": against, "unit": unit, "goal": goal and str(goal)}
    reason = next((figures for figures in (ours, other) if isinstance(figures, str)), None)
    if reason is not None or isinstance(ours, str) or isinstance(other, str):
        row |= {"skipped": reason}
    else:
        ratios = [mine / theirs for mine, theirs in zip(ours, other, strict=False)]
        ratio = statistics.median(ours) / statistics.median(other)
        if len(ours) == len(other):
            ratio = statistics.median(ratios)
        row |= {"ours": list(ours), "other": list(other), "ratio": ratio}
        row |= {"reached": goal.is_reached(ratio) if goal else None}
    print(as_markdown(row), flush=True)
    _record({"kind": "row", **_place, **row})


def as_markdown(row: Mapping[str, object]) -> str:
    """Return a row of the table with HEADER."""
    goal = row["goal"] or "–"
    if "skipped" in row:
        return (
            f"| {row['what']} | {row['against']} | – | – | – | {goal}; not measured:"
            f" {row['skipped']} |"
        )
    mark = "" if row["reached"] is None else ": yes" if row["reached"] else ": **no**"
    figures = " | ".join(_shown(row[who], str(row["unit"])) for who in ("ours", "other"))  # type: ignore[arg-type]
    return f"| {row['what']} | {row['against']} | {figures} | {row['ratio']:.3g} | {goal}{mark} |"


def _shown(figures: Sequence[float], unit: str) -> str:
    middle, low, high = (
        _number(value) for value in (statistics.median(figures), min(figures), max(figures))
    )
    return f"{middle} {unit}" if len(figures) == 1 else f"{middle} {unit} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _record(line: Mapping[str, object]) -> None:
    """Append a JSON line to the file that the environment variable BENCH_OUT names, if any."""
    if file := os.environ.get("BENCH_OUT"):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def _gpu() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
    except OSError:
        return ""
    return f", {done.stdout.splitlines()[0]}" if done.returncode == 0 and done.stdout else ""
