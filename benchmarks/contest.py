"""Measure programs in turns, a round at a time; each stays in its own process.

Each program is a script of sides/. It says READY, then waits for a word on its standard input, does
one round of work and answers with `FIGURE number`, such as images per second; see sides/turns.py.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SIDES = Path(__file__).resolve().parent / "sides"
# A program that needs longer to start or for a round is killed.
PATIENCE_S = 180
# No round begins after so long, so that slow programs have fewer rounds and a figure all the same.
CONTEST_S = 300


@dataclass(frozen=True)
class Program:
    """A script of sides/ with its arguments, and the word that asks for a round of it.

    Programs with the same command share a process. module: what must be installed for it.
    has_terminal: standard error is a terminal, so the cost of drawing there is included.
    source: the tree that ptkit is imported from, if not the one on PYTHONPATH.
    """

    script: str
    arguments: tuple[str, ...]
    python: str = sys.executable
    word: str = "round"
    module: str | None = None
    has_terminal: bool = False
    source: str = ""

    @property
    def command(self) -> list[str]:
        return [self.python, str(SIDES / self.script), *self.arguments]

    def what_is_missing(self) -> str | None:
        """Return why the program cannot run here, or None."""
        if not Path(self.python).exists():
            return f"no {self.python}, which `make bench` makes"
        probe = (
            f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.module!r}) is"
            " None)"
        )
        if self.module and subprocess.run([self.python, "-c", probe]).returncode:
            return f"{self.module} is not installed for {self.python}"
        return None


class SideFailedError(Exception):
    """A program ended early; the message is the last line it wrote."""


def contest(programs: Mapping[str, Program], *, rounds: int) -> dict[str, list[float] | str]:
    """Start all programs, measure them in turns, and return their figures, or why there are none.

    The first round of each does not count. Standard error tells which round is under way.
    """
    reasons: dict[str, str] = {}
    with ExitStack() as stack:
        sides: dict[tuple[str, ...], _Side] = {}
        for name, program in programs.items():
            missing, key = program.what_is_missing(), tuple(program.command)
            if missing is not None:
                reasons[name] = missing
            elif key not in sides:
                sides[key] = stack.enter_context(_Side(program))
                # One after the other: while one loads, none is measured.
                _tried(name, sides[key].wait_until_ready, reasons)

        def figure(name: str, program: Program) -> float:
            if name in reasons:
                return 0.0
            return _tried(name, lambda: sides[tuple(program.command)].round(program.word), reasons)

        end = time.monotonic() + CONTEST_S
        figures: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(-1, rounds):
            # The one that warms up and one that counts, whatever they take.
            if number > 0 and time.monotonic() > end:
                break
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for name in turns_of(number, [*programs]):
                value = figure(name, programs[name])
                if number >= 0:
                    figures[name].append(value)
    return {name: reasons.get(name) or figures[name] for name in programs}


def turns_of(number: int, names: Sequence[str]) -> list[str]:
    """Return the order of a round: each begins with the next name, and every second goes backwards.

    In as many rounds as there are names, or twice as many if their number is odd, each name has
    every place equally often. It does not always follow the same one, which may slow it down.
    """
    step = -1 if number % 2 else 1
    return [names[(number + step * place) % len(names)] for place in range(len(names))]


def _tried(name: str, act: Any, reasons: dict[str, str]) -> float:
    try:
        return act()
    except SideFailedError as error:
        reasons[name] = str(error)
        return 0.0


class _Side:
    """A program while it runs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        # Closed with the side.
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        stderr, self._terminal = self.errors.fileno(), None
        if program.has_terminal:
            self._terminal, stderr = os.openpty()
        # The settings that ptkit makes for itself, and its location, must not affect the peers.
        environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
        if program.python != sys.executable:
            environment.pop("PYTHONPATH", None)
        if program.source:
            environment["PYTHONPATH"] = program.source
        environment |= {"TERM": "xterm", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            program.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )
        if self._terminal is not None:
            os.close(stderr)
            threading.Thread(target=self._drain, daemon=True).start()

    def __enter__(self) -> "_Side":
        return self

    def __exit__(self, *_: object) -> None:
        """End the program: it leaves when its standard input ends."""
        # What failed may have gone before it was asked.
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stdout.close()
        self.errors.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def wait_until_ready(self) -> float:
        self._answer("READY")
        return 0.0

    def round(self, word: str) -> float:
        """Ask for a round and return its figure."""
        try:
            self._stdin.write(f"{word}\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise SideFailedError(self._last_words()) from None
        return float(self._answer("FIGURE"))

    def _answer(self, key: str) -> str:
        """Return what follows the key on the next line that begins with it."""
        late = threading.Timer(PATIENCE_S, self.process.kill)
        late.start()
        try:
            for line in self._stdout:
                if line.startswith(key):
                    return line.removeprefix(key).strip()
        finally:
            late.cancel()
        raise SideFailedError(self._last_words())

    def _last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").replace("|", "/").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        why = said[-1][-200:] if said else f"exit status {self.process.returncode}"
        return f"{Path(self.program.script).name} failed: {why}"

    def _drain(self) -> None:
        """Read what the program draws, as a terminal would, and keep it in case it fails."""
        assert self._terminal is not None
        while True:
            try:
                text = os.read(self._terminal, 65536)
            except OSError:
                return
            if not text:
                return
            self.errors.write(text)
