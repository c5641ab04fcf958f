"""List files: one image a line, `PATH LABEL`, the label being one class, several classes, or
numbers; kept as arrays and not as millions of objects.
"""

import hashlib
import math
import os
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.errors import DataError
from ptkit.core.files import numbered_lines, open_text, quoted, unquoted

# `ptkit split FOLDER` imports this module and must start without numpy.
if TYPE_CHECKING:
    import numpy as np

# Ends made Python integers at a time: one call for many, but never ten million objects.
_BLOCK = 1 << 16

# The kinds of labels: `3`; `1,4,7` (and `4,` for one, `,` for none); `3.25` or `0.1,0.7`.
SINGLE, MULTI, REGRESSION = "single-label", "multi-label", "regression"
DESCRIPTIONS = {
    SINGLE: "one class an image",
    MULTI: "several classes an image",
    REGRESSION: "numbers",
}

# Without classes.txt every index up to the largest gets a name, so a stray number must not ask for
# billions.
_MAX_CLASSES = 1_000_000
# In a pattern of bytes \d is 0 to 9 alone; in one of text it takes digits of every script.
_WHOLE = re.compile(rb"\d+")
_SEVERAL = re.compile(rb"(\d+(,\d+)*)?,?")
_NUMBER = rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NUMBERS = re.compile(_NUMBER + rb"(," + _NUMBER + rb")*")

# What a label means, and the number of the first line that has it.
_Value = tuple[tuple[float, ...], int]


# eq=False: a generated == would ask for the truth value of arrays, which is an error.
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
        """The kind of the labels: SINGLE, MULTI or REGRESSION."""
        if self.labels.ndim == 1:
            return SINGLE
        return MULTI if self.labels.dtype == bool else REGRESSION

    def listed_path(self, index: int) -> str:
        """Return the path as the list has it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        # A path need not be UTF-8: surrogateescape lets the very same bytes go back to the system.
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
        # path_ends[-1] would be the end of the last path, and no error.
        start = self.path_ends[index - 1] if index else 0
        return self.path_bytes[start : self.path_ends[index]]


def read_list(file: Path, *, classes: Path | None = None, kind: str | None = None) -> ImageList:
    """Read a list file. CRLF, a BOM, blank lines and quoted paths are accepted.

    classes: see `classes_file`; without one the names are "0", "1", ... up to the largest label.
    kind: of the labels, where it is known: a list of single classes then also serves as one of
    several, or of numbers.

    Raises:
        DataError: no such file, not UTF-8 text, a line without a label or with one that is not a
            class index, one path with two labels, or no lines at all.
    """
    import numpy as np

    classes = classes_file(file, classes)
    class_names = None if classes is None else read_classes(classes)
    paths, *arrays, lines = _read_rows(file)
    if not lines:
        raise DataError(f"{file} names no images; expected lines such as: images/cat/1.png 0")
    table, class_names = label_table(lines, file=file, class_names=class_names, wanted=kind)
    ends, hashes, codes = (np.frombuffer(numbers, np.int64) for numbers in arrays)
    # Of the file as it is: normstats.json and checkpoints know their list by it.
    with open_text(file) as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    found = ImageList(file, file.parent, class_names, sha256, table[codes], paths, ends)
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
    return "".join([f"{quoted(path)} {label}\n" for path, label in rows]).encode()


def read_classes(file: Path) -> tuple[str, ...]:
    """Read class names, one a line; the line number is the index.

    Raises:
        DataError: no such file, not UTF-8 text, an empty line between names, a name twice, no name
            at all.
    """
    names: dict[str, int] = {}
    for number, line in numbered_lines(file):
        text = line.rstrip()
        if not text:
            continue
        if number != len(names) + 1:
            raise DataError(
                f"{file}, line {len(names) + 1}: empty; expected a class name, as the line number"
                " is its index"
            )
        name = unquoted(text, place=f"{file}, line {number}")
        if name in names:
            raise DataError(f"{file}, line {number}: {name!r} repeats line {names[name]}")
        names[name] = number
    if not names:
        raise DataError(f"{file} names no classes; expected one name a line")
    return tuple(names)


def classes_bytes(class_names: Iterable[str]) -> bytes:
    """Return the text of a classes file."""
    return "".join([quoted(name) + "\n" for name in class_names]).encode()


def _read_rows(
    file: Path,
) -> "tuple[bytearray, array[int], array[int], array[int], dict[bytes, int]]":
    """Return all paths of a list in one piece, where each ends, a hash of each, the place of its
    label among the distinct texts, and these with the number of the first line of each.
    """
    # Arrays: in a list most numbers are a pointer and an object, four times the memory.
    paths, ends, hashes, codes = bytearray(), array("q"), array("q"), array("q")
    places: dict[bytes, int] = {}
    lines: dict[bytes, int] = {}
    for number, line in numbered_lines(file):
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
        # Labels repeat: each distinct text is checked and parsed once, however long the list.
        code = places.setdefault(text, len(places))
        if code == len(lines):
            lines[text] = number
        # A quotation mark: an index into bytes gives a number.
        if path[0] == 34:
            path = unquoted(path, place=f"{file}, line {number}").encode("utf-8", "surrogateescape")
        paths += path
        ends.append(len(paths))
        codes.append(code)
        # Python salts this hash anew in each process: good for comparing here, never for saving.
        hashes.append(hash(path))
    return paths, ends, hashes, codes, lines


def _count_repeated(images: ImageList, hashes: "np.ndarray") -> int:
    """Return how many lines repeat an earlier one.

    Raises:
        DataError: one path with two labels.
    """
    import numpy as np

    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return 0
    # Hashes also meet by chance, so the paths themselves decide; only these become objects.
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


def label_table(
    lines: Mapping[bytes, int],
    *,
    file: Path,
    class_names: tuple[str, ...] | None,
    wanted: str | None = None,
) -> "tuple[np.ndarray, tuple[str, ...]]":
    """Return a row for each distinct label text of a list, and the names of the classes or numbers.

    lines: the texts, with the number of the first line of each. class_names: None makes names up.
    wanted: the kind it must be; class indices also serve as lists of one class, and as numbers.
    The rows are int64 (n,) class indices, bool (n, K) or float32 (n, numbers).

    Raises:
        DataError: a text that is not a label, or does not fit the others or the names; with its
            line.
    """
    kind = _kind_of(lines)
    values = []
    for text, number in lines.items():
        try:
            values.append((_parse_label(text, kind), number))
        except DataError as error:
            raise DataError(f"{file}, line {number}: {error}") from None
    names_of = _names_of_numbers if REGRESSION in (kind, wanted) else _names_of_classes
    class_names = names_of(values, file, class_names)
    if wanted is not None and kind not in (SINGLE, wanted):
        raise DataError(f"{file} has {DESCRIPTIONS[kind]}, expected {DESCRIPTIONS[wanted]}")
    rows = _rows([value for value, _ in values], wanted or kind, num_classes=len(class_names))
    return rows, class_names


def _kind_of(texts: Collection[bytes]) -> str:
    """One decimal point makes all of them numbers, else one comma makes all of them lists of
    classes.
    """
    # isdigit first: it is quicker than a pattern, and settles lists of single classes.
    if any(
        not text.isdigit() and re.search(rb"[.eE]", text) and _NUMBERS.fullmatch(text)
        for text in texts
    ):
        return REGRESSION
    return MULTI if any(b"," in text for text in texts) else SINGLE


def _parse_label(text: bytes, kind: str) -> tuple[float, ...]:
    """Return the class indices or numbers that a label means."""
    if kind == REGRESSION and _NUMBERS.fullmatch(text):
        numbers = tuple(float(part) for part in text.split(b","))
        if not all(map(math.isfinite, numbers)):
            raise DataError(f"label '{text.decode()}' is too large for a number")
        return numbers
    if _WHOLE.fullmatch(text) or (kind == MULTI and _SEVERAL.fullmatch(text)):
        return tuple(int(part) for part in text.split(b",") if part)
    shown = repr(text.decode("utf-8", "replace"))
    if re.fullmatch(rb"-\d+", text):
        raise DataError(f"label {shown} is negative; class indices start at 0")
    if _NUMBERS.fullmatch(text) or _SEVERAL.fullmatch(text):
        raise DataError(
            f"label {shown} does not fit the other lines, which have {DESCRIPTIONS[kind]}"
        )
    raise DataError(
        f"label {shown} is not a number; expected PATH LABEL, the label being a class index"
    )


def _rows(values: Sequence[Sequence[float]], kind: str, *, num_classes: int) -> "np.ndarray":
    import numpy as np

    if kind == SINGLE:
        return np.array([value[0] for value in values], np.int64)
    if kind == REGRESSION:
        return np.array(values, np.float32)
    rows = np.zeros((len(values), num_classes), bool)
    for row, indices in zip(rows, values, strict=True):
        row[[int(index) for index in indices]] = True
    return rows


def _names_of_classes(
    values: Sequence[_Value], file: Path, class_names: tuple[str, ...] | None
) -> tuple[str, ...]:
    limit = _MAX_CLASSES if class_names is None else len(class_names)
    for value, number in values:
        beyond = next((int(index) for index in value if index >= limit), None)
        if beyond is not None:
            message = f"label {beyond} is beyond the last class, {limit - 1}; see classes.txt"
            raise DataError(f"{file}, line {number}: {message}")
    largest = max((int(index) for value, _ in values for index in value), default=-1)
    if largest < 0:
        raise DataError(f"{file} has no labels: every line has an empty list of classes")
    return class_names or tuple(str(index) for index in range(largest + 1))


def _names_of_numbers(
    values: Sequence[_Value], file: Path, class_names: tuple[str, ...] | None
) -> tuple[str, ...]:
    first, line = values[0]
    count = len(first)
    for value, number in values:
        if len(value) != count:
            raise DataError(
                f"{file}, line {number}: {len(value)} numbers, but line {line} has {count}"
            )
    if class_names is not None and len(class_names) != count:
        # A number that is not whole is what a list of classes has by mistake.
        decimal = next((n for value, n in values if any(x != int(x) for x in value)), line)
        raise DataError(
            f"{file}, line {decimal}: {count} number{'s' * (count > 1)}, but classes.txt names"
            f" {len(class_names)} classes; for numbers it names each number, or is not there"
        )
    return class_names or (("value",) if count == 1 else tuple(f"value {k}" for k in range(count)))
