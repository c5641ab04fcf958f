"""The functions and classes that a pickle names, read without running it."""

import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

# What weights-only loading rebuilds tensors and plain containers from.
_HARMLESS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.(\w+\.)?\w*Storage|"
    r"torch\.Size|torch\.device|"
    r"torch\.(float|double|half|bfloat|int|uint|long|short|bool|complex)\w*|"
    r"collections\.(OrderedDict|Counter)|"
    r"torch\.nn\.parameter\.\w+|torch\.serialization\._get_layout|_codecs\.encode|(builtins|__builtin__)\.set"
)
# torch's files from before version 1.6 hold five pickles in a row, then the bytes of the tensors.
_NUM_LEGACY_PICKLES = 5


def foreign_globals(path: Path) -> list[str]:
    """Return the functions and classes beyond tensors and containers that a file names.

    path: a pickle or a file of torch.save. Nothing is imported or run. Names after a damaged place
    are not found.
    """
    found: list[str] = []
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.rpartition("/")[2] == "data.pkl":
                        with archive.open(name) as record:
                            _collect(record, found)  # type: ignore[arg-type]
        else:
            file.seek(0)
            for _ in range(_NUM_LEGACY_PICKLES):
                _collect(file, found)
    return [name for name in dict.fromkeys(found) if not _HARMLESS.fullmatch(name)]


def _collect(file: BinaryIO, found: list[str]) -> None:
    """Append the `module.name` of every global of the next pickle in `file`."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                # Only strings are kept: only the two before STACK_GLOBAL matter.
                memo[len(memo) if argument is None else int(argument)] = (
                    strings[-1] if strings else ""
                )
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                strings.append(memo.get(int(argument or 0), ""))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:
        # A damaged pickle may break the reader anywhere; the names before that are reported.
        return
