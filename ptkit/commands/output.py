"""How commands speak: text for people, or one JSON object."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from ptkit.core.config import DEVICES
from ptkit.core.wording import check_choice


class Printer:
    """Prints text unless --quiet or --json is given, and with --json the JSON object."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.silent = as_json, quiet or as_json

    def say(self, text: str = "") -> None:
        if not self.silent:
            typer.echo(printable(text))

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        if self.as_json:
            typer.echo(json.dumps(value))


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes, so that a file name cannot drive the
    terminal.
    """
    return "".join(
        c if c == "\n" or (c.isprintable() and not "\udc80" <= c <= "\udcff") else ascii(c)[1:-1]
        for c in text
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as aligned columns: the first to the left, the others to the right."""
    cells = [
        list(header),
        *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = (
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def check_device(name: str) -> None:
    """Raise a UsageError unless `name` is a device that --device knows."""
    check_choice("--device", name, DEVICES)
