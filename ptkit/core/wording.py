"""Words that messages, tables and pictures share."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ptkit.core.errors import UsageError

# What others call a device or a number format.
_CALLED_ELSEWHERE = {
    "gpu": "cuda",
    "half": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
}


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return `1 kernel`, `2,048 kernels`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def trained_on_note(count: int, total: int) -> str:
    """Return `37 of these 179 images were trained on`."""
    if count == total == 1:
        return "this image was trained on"
    return (
        f"{count:,} of these {counted(total, 'image')} {'was' if count == 1 else 'were'} trained on"
    )


def absent_note(num_absent: int, num_classes: int, what: str = "macro means leave") -> str:
    """Return what macro means are over where classes have no images.

    what: the means, with the verb "leave out" up to its "out".
    """
    have = "has" if num_absent == 1 else "have"
    return (
        f"{num_absent:,} of {num_classes:,} classes {have} no images: {what} out those that are"
        " not predicted either"
    )


def amount(nbytes: int) -> str:
    """Return `36.9 kB`, `1.2 MB`, `12,300.0 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:,.1f} {name}"
    return f"{nbytes} bytes"


def duration(seconds: float) -> str:
    """Return `45 s`, `12 min`, `3.5 h`, `2.5 days`."""
    for unit, name, least in ((86400, "days", 2), (3600, "h", 1.5)):
        if seconds >= least * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def first_of(names: Sequence[str], limit: int) -> str:
    """Return the first names with commas, and `, ...` where there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def reason_of(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as aligned columns: the first to the left, the others to the right.

    Chinese characters take two columns of a terminal.
    """
    cells = [
        list(header),
        *(
            [f"{cell:,}" if isinstance(cell, int) else _in_a_line(cell) for cell in row]
            for row in rows
        ),
    ]
    sizes = [list(map(_width, row)) for row in cells]
    widths = [max(column) for column in zip(*sizes, strict=True)]
    lines = []
    for row, taken in zip(cells, sizes, strict=True):
        blanks = [" " * (width - size) for width, size in zip(widths, taken, strict=True)]
        others = (blank + cell for blank, cell in zip(blanks[1:], row[1:], strict=True))
        lines.append("  ".join([row[0] + blanks[0], *others]).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters two, accents none."""
    if text.isascii():
        return len(text)
    num_wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + num_wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def _in_a_line(cell: Any) -> str:
    # A file name may have a line feed.
    return str(cell).replace("\n", "\\n")


def one_line(text: str) -> str:
    """Return a text on one line, without control characters, see `printable`."""
    return printable(text).replace("\n", "\\n")


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes, so that a file name cannot drive the
    terminal.
    """
    return "".join(
        c if c == "\n" or (c.isprintable() and not "\udc80" <= c <= "\udcff") else ascii(c)[1:-1]
        for c in text
    )


def short_paths(paths: Sequence[str]) -> list[str]:
    """Return file names, with as many folders before them as keep different paths apart."""
    parts = [path.replace("\\", "/").split("/") for path in paths]
    for kept in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-kept:]) for part in parts]
        if len(set(names)) == len(set(paths)):
            return names
    return list(paths)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?` for what others call `name`, or the name most like it; or an empty
    string.
    """
    by_lower = {known.lower(): known for known in names}
    if (meant := _CALLED_ELSEWHERE.get(name.lower())) in by_lower:
        return f"; did you mean {meant}?"
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def fits_glob(name: str, pattern: str) -> bool:
    """Say whether a name fits `*`, `?` and `[...]` in a pattern; capitals do not count."""
    return fnmatchcase(name.lower(), pattern.lower())


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raise a UsageError unless `value` is one of `choices`."""
    if value not in choices:
        raise UsageError(
            f"{flag} must be one of {', '.join(choices)}, found {value!r}{nearest(value, choices)}"
        )


def check_at_least(low: int, **values: int | None) -> None:
    """Raise a UsageError unless each value that is given is at least `low`."""
    for name, value in values.items():
        if value is not None and value < low:
            raise UsageError(f"{name} must be at least {low}, found {value}")
