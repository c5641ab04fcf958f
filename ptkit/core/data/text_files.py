"""Text files of one thing a line, as lists and classes files are: UTF-8, paths of other bytes as
JSON strings.
"""

import json
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ptkit.core.errors import DataError

_BOM = b"\xef\xbb\xbf"


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers, from 1, and lines of UTF-8 text, without the BOM and with their ends.

    Raises:
        DataError: the file cannot be read or is not UTF-8 text.
    """
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{file}, line 1: this is UTF-16 text; save the file as UTF-8")
                line = line.removeprefix(_BOM)
            if b"\0" in line:
                raise DataError(f"{file}, line {number}: a zero byte; this is not a text file")
            if not line.isascii():
                _check_utf8(line, place=f"{file}, line {number}")
            yield number, line


def open_text(file: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        mode = file.stat().st_mode
        if stat.S_ISREG(mode):
            return file.open("rb")
    except FileNotFoundError:
        raise DataError(f"no {file} here; `ptkit split FOLDER` writes lists") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    found = "a folder" if stat.S_ISDIR(mode) else "neither file nor folder"
    raise DataError(f"{file} is {found}; expected a text file")


def _check_utf8(line: bytes, *, place: str) -> None:
    try:
        line.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{place}: not UTF-8; save the file as UTF-8 (a path of other bytes goes in as a JSON"
            " string)"
        ) from None


def unquoted(raw: bytes, *, place: str) -> str:
    """Return a path or name, taken out of its JSON quotes if it has them.

    Raises:
        DataError: quotes that are no JSON string, or nothing in them.
    """
    text = raw.decode()
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
        value.encode("utf-8", "surrogateescape")
    except ValueError:
        raise DataError(
            f"{place}: {text} starts with a quote but is no JSON string; quote it as JSON does"
        ) from None
    if not value or "\0" in value:
        raise DataError(f"{place}: {text} cannot be a path")
    return value
