"""How commands speak: text for people, or one JSON object."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import typer

from ptkit.core.errors import DataError, ImageError, StorageError
from ptkit.core.wording import counted, printable

# When the process of a command began, by time.perf_counter; unknown where another program calls it.
process_began: ContextVar[float | None] = ContextVar("process_began", default=None)


class Printer:
    """Prints text unless --quiet or --json is given, and with --json the JSON object."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet, self.silent = as_json, quiet, quiet or as_json

    def say(self, text: str = "") -> None:
        if not self.silent:
            _write(printable(text))

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        if self.as_json:
            _write(json.dumps(value))

    def rows(self, text: bytes) -> None:
        """Print rows of a result at once, also with --quiet."""
        _write(text, end=False)

    def aside(self, text: str) -> None:
        """Print beside rows, on standard error."""
        if not self.silent:
            typer.echo(printable(text), err=True)


def _write(text: str | bytes, *, end: bool = True) -> None:
    try:
        typer.echo(text, nl=end)
    except BrokenPipeError:  # the reader has seen enough: Typer ends quietly
        raise
    except OSError as error:
        raise StorageError(f"cannot write to standard output: {error.strerror}") from error


def complain(text: str) -> None:
    """Print an error or a warning, of which only the first line begins at the margin: a file name
    with a line feed in it cannot pass for another message.
    """
    typer.echo(re.sub(r"\n(?=\S)", "\n  ", printable(f"ptkit: {text}")), err=True)


@contextmanager
def naming_on_bad() -> Iterator[None]:
    """Add to an image that cannot be read how to go on without it.

    Raises:
        ImageError: there is one.
    """
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{error}; --on-bad skip leaves such images out") from error


def end_without(skipped: Sequence[str], *, shown_in: str | None = None) -> None:
    """Name the images that were left out and end with exit code 3; nothing if there are none.

    shown_in: what has already named them, with the reasons.

    Raises:
        DataError: there are some.
    """
    if skipped and shown_in is not None:
        raise DataError(f"{counted(len(skipped), 'image')} left out; {shown_in} says why")
    if skipped:
        lines = "".join(f"\n  {reason}" for reason in skipped)
        raise DataError(f"{counted(len(skipped), 'image')} left out:{lines}")
