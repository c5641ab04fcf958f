"""List files: one image a line, `PATH LABEL`, kept as arrays and not as millions of objects."""

import hashlib
import json
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE, label_table
from ptkit.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

# What would not come back as it was: a quote or BOM in front, a blank at the end, control
# characters and line separators (many programs break lines at all of them), bytes that are not
# UTF-8.
_NEEDS_QUOTES = re.compile(r'\A["\ufeff]|[ \t]\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')

_BLOCK = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class ImageList:
    """The lines of a list file.

    file, folder: the list and the folder that its paths are relative to.
    sha256: of the file; a subset keeps its parent's.
    class_names: of the classes, or of the numbers.
    labels: int64 (N,), each 0..num_classes - 1; bool (N, num_classes) where images have several
    labels; float32 (N, num_classes) where they have numbers.
    path_bytes, path_ends: all paths one after the other, and where each of them ends, int64, (N,).
    num_repeated: lines that repeat an earlier one.
    """

    file: Path
    folder: Path
    class_names: tuple[str, ...]
    sha256: str
    labels: "np.ndarray"
    path_bytes: bytes | bytearray
    path_ends: "np.ndarray"
    num_repeated: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def label_kind(self) -> str:
        """The kind of the labels: SINGLE, MULTI or REGRESSION of labels.py."""
        if self.labels.ndim == 1:
            return SINGLE
        return MULTI if self.labels.dtype == bool else REGRESSION

    def listed_path(self, index: int) -> str:
        """Return the path as the list has it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._raw_path(index).decode("utf-8", "surrogateescape")

    def image_path(self, index: int) -> str:
        """Return a path that opens: relative to the list's folder or, if nothing is there, to the
        working directory.
        """
        path = self.listed_path(index)
        if not self._prefix or os.path.isabs(path):
            return path
        beside = self._prefix + path
        # Only a list in another folder costs this look at the disk.
        return path if not os.path.lexists(beside) and os.path.lexists(path) else beside

    def subset(self, indices: "Sequence[int] | np.ndarray") -> "ImageList":
        """Return the images at `indices` (0..N - 1, in that order), with the same classes."""
        import numpy as np

        rows = np.asarray(indices, dtype=np.int64)
        path_bytes, ends = _packed([self._raw_path(int(row)) for row in rows])
        return replace(
            self, labels=self.labels[rows], path_bytes=path_bytes, path_ends=ends, num_repeated=0
        )

    def with_classes(self, class_names: tuple[str, ...]) -> "ImageList":
        """Return the list with other names, at least as many: its own largest label need not be the
        last class.
        """
        import numpy as np

        labels = self.labels
        if self.label_kind == MULTI:
            labels = np.pad(labels, ((0, 0), (0, len(class_names) - self.num_classes)))
        return replace(self, class_names=class_names, labels=labels)

    @cached_property
    def _prefix(self) -> str:
        return "" if self.folder == Path() else os.path.join(self.folder, "")

    def raw_paths(self) -> Iterator[bytes | bytearray]:
        """Yield all paths as the list has them, in bytes; never all of them at once."""
        start = 0
        for block in range(0, len(self), _BLOCK):
            for end in self.path_ends[block : block + _BLOCK].tolist():
                yield self.path_bytes[start:end]
                start = end

    def _raw_path(self, index: int) -> bytes | bytearray:
        start = self.path_ends[index - 1] if index else 0
        return self.path_bytes[start : self.path_ends[index]]


def read_list(
    file: Path,
    *,
    classes: Path | None = None,
    images_must_exist: bool = False,
    kind: str | None = None,
) -> ImageList:
    """Read a list file. CRLF, a BOM, blank lines and quoted paths are accepted.

    classes: see `classes_file`; without one the names are "0", "1", ... up to the largest label.
    kind: of the labels, where it is known: a list of single classes then also serves as one of
    several, or of numbers.

    Raises:
        DataError: no such file, not UTF-8 text, a line without a label or with one that is not a
            class index, one path with two labels, no lines at all, or (if asked) a missing image.
    """
    import numpy as np

    classes = classes_file(file, classes)
    class_names = None if classes is None else read_classes(classes)
    paths, *arrays, lines = _read_rows(file)
    if not lines:
        raise DataError(f"{file} names no images; expected lines such as: images/cat/1.png 0")
    table, class_names = label_table(lines, file=file, class_names=class_names, wanted=kind)
    ends, hashes, codes = (np.frombuffer(numbers, np.int64) for numbers in arrays)
    with _open_text(file) as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    found = ImageList(file, file.parent, class_names, sha256, table[codes], paths, ends)
    if images_must_exist:
        _check_images(found)
    return replace(found, num_repeated=_count_repeated(found, hashes))


def classes_file(list_file: Path, classes: Path | None = None) -> Path | None:
    """Return the file with a list's class names: `classes`, else `classes.txt` beside the list."""
    beside = list_file.parent / "classes.txt"
    return classes or (beside if beside.is_file() else None)


def list_of(paths: Sequence[str], class_names: tuple[str, ...]) -> ImageList:
    """Return images without a list file, relative to the working directory; their labels mean
    nothing.
    """
    import numpy as np

    packed = _packed([path.encode("utf-8", "surrogateescape") for path in paths])
    return ImageList(Path(), Path(), class_names, "", np.zeros(len(paths), np.int64), *packed)


def _packed(paths: Sequence[bytes | bytearray]) -> "tuple[bytes, np.ndarray]":
    """Return paths in one piece, and where each of them ends."""
    import numpy as np

    return b"".join(paths), np.cumsum([len(path) for path in paths], dtype=np.int64)


def list_bytes(rows: Iterable[tuple[str, int]]) -> bytes:
    """Return the text of a list file with these (path, label) rows."""
    return "".join([f"{format_path(path)} {label}\n" for path, label in rows]).encode()


def read_classes(file: Path) -> tuple[str, ...]:
    """Read class names, one a line; the line number is the index.

    Raises:
        DataError: no such file, not UTF-8 text, an empty line between names, a name twice, no name
            at all.
    """
    names: dict[str, int] = {}
    for number, line in _numbered_lines(file):
        text = line.rstrip()
        if not text:
            continue
        if number != len(names) + 1:
            raise DataError(
                f"{file}, line {len(names) + 1}: empty; expected a class name, as the line number"
                " is its index"
            )
        name = _unquoted(text, place=f"{file}, line {number}")
        if name in names:
            raise DataError(f"{file}, line {number}: {name!r} repeats line {names[name]}")
        names[name] = number
    if not names:
        raise DataError(f"{file} names no classes; expected one name a line")
    return tuple(names)


def classes_bytes(class_names: Iterable[str]) -> bytes:
    """Return the text of a classes file."""
    return "".join([format_path(name) + "\n" for name in class_names]).encode()


def format_path(path: str) -> str:
    """Return the path as a list holds it: as it is, or as a JSON string where it could not be read
    back.
    """
    # isprintable is quick and true for nearly all paths; what it refuses need not need quotes.
    if path.isprintable() and path[:1] != '"' and path[-1:] != " ":
        return path
    return json.dumps(path) if _NEEDS_QUOTES.search(path) else path


def _read_rows(
    file: Path,
) -> "tuple[bytearray, array[int], array[int], array[int], dict[bytes, int]]":
    """Return all paths of a list in one piece, where each ends, a hash of each, the place of its
    label among the distinct texts, and these with the number of the first line of each.
    """
    paths, ends, hashes, codes = bytearray(), array("q"), array("q"), array("q")
    places: dict[bytes, int] = {}
    lines: dict[bytes, int] = {}
    for number, line in _numbered_lines(file):
        # At white space, from the right, once: so blanks at the end of the line and before the
        # label go as well.
        parts = line.rsplit(None, 1)
        if len(parts) != 2:
            if not parts:
                continue
            raise DataError(
                f"{file}, line {number}: no label; expected PATH LABEL, such as: images/cat/1.png 0"
            )
        path, text = parts
        code = places.setdefault(text, len(places))
        if code == len(lines):
            lines[text] = number
        if path[0] == 34:
            path = _unquoted(path, place=f"{file}, line {number}").encode(
                "utf-8", "surrogateescape"
            )
        paths += path
        ends.append(len(paths))
        codes.append(code)
        hashes.append(hash(path))
    return paths, ends, hashes, codes, lines


def _check_images(images: ImageList) -> None:
    rows = range(len(images))
    missing = [row for row in rows if not os.path.exists(images.image_path(row))]
    if missing:
        raise DataError(
            f"{images.file} names {len(missing):,} images that are not there, first"
            f" {images.listed_path(missing[0])}"
        )


def _count_repeated(images: ImageList, hashes: "np.ndarray") -> int:
    """Return how many lines repeat an earlier one. Only paths whose hashes meet become objects.

    Raises:
        DataError: one path with two labels.
    """
    import numpy as np

    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return 0
    labels: dict[str, Any] = {}
    rows = np.flatnonzero(np.isin(hashes, twice))
    for row in rows.tolist():
        path, label = images.listed_path(row), images.labels[row].tolist()
        if labels.setdefault(path, label) != label:
            raise DataError(
                f"{images.file} gives {path} two labels, {labels[path]} and {label}; keep one of"
                " the lines"
            )
    return len(rows) - len(labels)


def _numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers, from 1, and lines of UTF-8 text, without the BOM and with their ends.

    Raises:
        DataError: the file cannot be read or is not UTF-8 text.
    """
    with _open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{file}, line 1: this is UTF-16 text; save the file as UTF-8")
                line = line.removeprefix(_BOM)
            if b"\0" in line:
                raise DataError(f"{file}, line {number}: a zero byte; this is not a text file")
            try:
                # Nearly all lines are ASCII, and decoding makes a text of each.
                if not line.isascii():
                    line.decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{file}, line {number}: not UTF-8; save the file as UTF-8 (a path of other"
                    " bytes goes in as a JSON string)"
                ) from None
            yield number, line


def _open_text(file: Path) -> BufferedReader:
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


def _unquoted(raw: bytes, *, place: str) -> str:
    """Return a path or name, taken out of its JSON quotes if it has them.

    Raises:
        DataError: quotes that are not a JSON string, or nothing in them.
    """
    text = raw.decode()
    if not text.startswith('"'):
        return text
    try:
        value: str = json.loads(text)
        value.encode("utf-8", "surrogateescape")
    except ValueError:
        raise DataError(
            f"{place}: {text} starts with a quote but is not a JSON string; quote it as JSON does"
        ) from None
    if not value or "\0" in value:
        raise DataError(f"{place}: {text} cannot be a path")
    return value
