"""`.ptkit-ignore`: what a user has looked at and found to be no issue."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ptkit.core.files import numbered_lines, unquoted

FILE = ".ptkit-ignore"


@dataclass(frozen=True)
class Entry:
    """A line: a path or a pattern of paths, and the rule that is meant; None: all of them."""

    pattern: str
    rule: str | None = None

    def fits(self, name: str) -> bool:
        """Say whether the line means this image."""
        # As it is first: a path may hold brackets.
        return name == self.pattern or fnmatchcase(name, self.pattern)


def read_ignored(folder: Path, rules: Collection[str]) -> list[Entry]:
    """Return the lines of the file in a folder; none where there is no such file.

    A line is a path as the list or folder has it, or a rule and a path; `*` and `?` stand for any
    characters. Empty lines do not count.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    file = folder / FILE
    if not file.exists():
        return []
    lines = ((number, line.strip()) for number, line in numbered_lines(file))
    return [_entry(line, rules, place=f"{file}, line {number}") for number, line in lines if line]


def ignored_rows(entries: Iterable[Entry], names: Sequence[str]) -> list[tuple[Entry, list[int]]]:
    """Return each line with the images that it means."""
    # Several lists may have one path.
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return [
        (entry, [row for name, rows in places.items() if entry.fits(name) for row in rows])
        if set(entry.pattern) & set("*?[")
        else (entry, places.get(entry.pattern, []))
        for entry in entries
    ]


def _entry(line: bytes, rules: Collection[str], *, place: str) -> Entry:
    first, *rest = line.split(None, 1)
    rule = first.decode()
    if rest and rule in rules:
        return Entry(unquoted(rest[0], place=place), rule)
    return Entry(unquoted(line, place=place))
