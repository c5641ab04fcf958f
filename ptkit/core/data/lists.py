"""List files: one image a line, `PATH LABEL`, the label being one class, several classes, or
numbers (labels.py); kept as arrays and not as millions of objects.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE, label_table
from ptkit.core.data.moved import check_root, missing_image, prefix_of_some, replaced
from ptkit.core.errors import DataError
from ptkit.core.file_sets import finish_replacing
from ptkit.core.files import numbered_lines, open_text, quoted, unquoted

# `ptkit split FOLDER` imports this module and must start without numpy.
if TYPE_CHECKING:
    import numpy as np

# An index into bytes gives a number.
_QUOTE, _SLASH = b'"/'
_QUOTED_LABEL = re.compile(rb'\s("(?:[^"\\]|\\.)*")\s*$')

# Ends made Python integers at a time: one call for many, but never ten million objects.
_BLOCK = 1 << 16


# eq=False: a generated == would ask for the truth value of arrays, which is an error.
@dataclass(frozen=True, eq=False)
class ImageList:
    """The lines of a list file.

    file, folder: the list and the folder that its paths are relative to.
    sha256: of the file; a subset keeps its parent's. file_sha256: of the file where corrections of
    labels have given the list another one, else empty.
    class_names: of the classes, or of the numbers.
    labels: int64 (N,), each 0..num_classes - 1; bool (N, num_classes) where images have several
    labels; float32 (N, num_classes) where they have numbers.
    path_bytes, path_ends: all paths one after the other, and where each of them ends, int64, (N,).
    num_repeated: lines that repeat an earlier one. num_relabelled: labels that corrections have
    changed. has_named_labels: its lines name the classes.
    moved: of relative (False) and absolute paths (True), which beginning is replaced by what.
    rows: int64 (N,), where the images of a subset are in the list file; None of a whole list.
    """

    file: Path
    folder: Path
    class_names: tuple[str, ...]
    sha256: str
    labels: "np.ndarray"
    path_bytes: bytes | bytearray
    path_ends: "np.ndarray"
    num_repeated: int = 0
    num_relabelled: int = 0
    has_named_labels: bool = False
    moved: Mapping[bool, tuple[str, str]] = field(default_factory=dict)
    rows: "np.ndarray | None" = None
    file_sha256: str = ""

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
        working directory; of images that were moved, where they are now.
        """
        path = self.listed_path(index)
        if self.moved:
            prefix = self.moved.get(path.startswith("/"))
            if prefix and path.startswith(prefix[0]):
                return replaced(path, prefix)
        if not self._prefix or os.path.isabs(path):
            return path
        # Of a list in a run folder: `odd/1.png`, not `runs/1/../../odd/1.png`.
        beside = self._from_above(path) if path.startswith("../") else self._prefix + path
        # Only a list in another folder costs this look at the disk.
        return path if not os.path.lexists(beside) and os.path.lexists(path) else beside

    def subset(self, indices: "Sequence[int] | np.ndarray") -> "ImageList":
        """Return the images at `indices` (0..N - 1, in that order), with the same classes."""
        import numpy as np

        rows = np.asarray(indices, dtype=np.int64)
        path_bytes, ends = _packed([self._raw_path(int(row)) for row in rows])
        return replace(
            self,
            labels=self.labels[rows],
            path_bytes=path_bytes,
            path_ends=ends,
            num_repeated=0,
            rows=rows if self.rows is None else self.rows[rows],
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

    def _from_above(self, path: str) -> str:
        """Return a path that leaves the list's folder, joined to it without the detour."""
        start = 0
        while path.startswith("../", start):
            start += len("../")
        above = path[:start]
        if above not in self._prefixes:
            long, short = self._prefix + above, os.path.normpath(self._prefix + above)
            # Through a linked folder `..` leads elsewhere.
            is_same = os.path.realpath(long) == os.path.realpath(short)
            short = "" if short == os.curdir else os.path.join(short, "")
            self._prefixes[above] = short if is_same else long
        return self._prefixes[above] + path[start:]

    @cached_property
    def _prefixes(self) -> dict[str, str]:
        return {}

    def raw_paths(self) -> Iterator[bytes | bytearray]:
        """Yield all paths as the list has them, in bytes; never all of them at once."""
        start = 0
        for block in range(0, len(self), _BLOCK):
            for end in self.path_ends[block : block + _BLOCK].tolist():
                yield self.path_bytes[start:end]
                start = end

    def _raw_path(self, index: int) -> bytes | bytearray:
        # path_ends[-1] would be the end of the last path, and no error.
        start = self.path_ends.item(index - 1) if index else 0
        return self.path_bytes[start : self.path_ends.item(index)]


def read_list(
    file: Path,
    *,
    classes: Path | None = None,
    kind: str | None = None,
    known: tuple[str, ...] | None = None,
    root: Path | None = None,
) -> ImageList:
    """Read a list file. CRLF, a BOM, blank lines and quoted paths are accepted.

    classes: see `classes_file`; without one the names are "0", "1", ... up to the largest label.
    kind: of the labels, where it is known: a list of single classes then also serves as one of
    several, or of numbers.
    known: classes that names in the list mean, where no file has them; see `label_table`.
    root: the folder that the images are in now, see `moved_prefix`.

    Raises:
        DataError: no such file, not UTF-8 text, a line without a label or with one that is not a
            class, one path with two labels, no lines at all, or images that are not below `root`.
        UsageError: `root` is not a folder.
    """
    import numpy as np

    finish_replacing(file.parent)
    classes = classes_file(file, classes)
    class_names = None if classes is None else read_classes(classes)
    paths, *arrays, lines = _read_rows(file)
    if not lines:
        raise DataError(f"{file} names no images; expected lines such as: images/cat/1.png 0")
    table = label_table(lines, file=file, class_names=class_names, wanted=kind, known=known)
    ends, hashes, codes = (np.frombuffer(numbers, np.int64) for numbers in arrays)
    # Of the file as it is: normstats.json and checkpoints know their list by it.
    with open_text(file) as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    found = ImageList(
        file,
        file.parent,
        class_names=table.class_names,
        sha256=sha256,
        labels=table.rows[codes],
        path_bytes=paths,
        path_ends=ends,
        has_named_labels=table.are_names,
    )
    moved = {} if root is None else _moved(found, root)
    return replace(found, num_repeated=_count_repeated(found, hashes), moved=moved)


def check_image(images: ImageList, row: int) -> None:
    """Refuse a list, whole as it was read, whose images are elsewhere; one of them is looked for.

    Raises:
        DataError: it is not there.
    """
    if not os.path.lexists(path := images.image_path(row)):
        raise missing_image(path, place=f"{images.file}, line {_line_of(images, row)}")


def _moved(images: ImageList, root: Path) -> dict[bool, tuple[str, str]]:
    """Return which beginnings of relative and of absolute paths to replace by `root`."""
    check_root(root)
    found = {}
    for is_absolute in (False, True):
        rows = (
            k for k, path in enumerate(images.raw_paths()) if (path[0] == _SLASH) == is_absolute
        )
        if (first := next(rows, None)) is None:
            continue
        paths = map(images.listed_path, chain((first,), rows))
        prefix = prefix_of_some(paths, root, exists=os.path.lexists)
        if prefix is None:
            raise DataError(
                f"no image of {images.file} is below --root {root}: not"
                f" {images.listed_path(first)}, however many of its leading folders are left out"
            )
        found[is_absolute] = prefix
    return found


def classes_file(list_file: Path, classes: Path | None = None) -> Path | None:
    """Return the file with a list's class names: `classes`, else `classes.txt` beside the list."""
    beside = list_file.parent / "classes.txt"
    return classes or (beside if beside.is_file() else None)


def list_of(
    paths: Sequence[str],
    class_names: tuple[str, ...],
    *,
    file: Path | None = None,
    root: Path | None = None,
) -> ImageList:
    """Return images whose labels mean nothing, relative to the working directory; or as `read_list`
    finds those that a list file names.

    Raises:
        DataError, UsageError: see `root` of `read_list`.
    """
    import numpy as np

    packed = _packed([path.encode("utf-8", "surrogateescape") for path in paths])
    labels, place = np.zeros(len(paths), np.int64), file or Path()
    found = ImageList(place, place.parent, class_names, "", labels, *packed)
    return found if root is None else replace(found, moved=_moved(found, root))


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
    file: Path, *, has_quoted_labels: bool = False
) -> "tuple[bytearray, array[int], array[int], array[int], dict[bytes, int]]":
    """Return all paths of a list in one piece, where each ends, a hash of each, the place of its
    label among the distinct texts, and these with the number of the first line of each.

    has_quoted_labels: whether labels may hold blanks; found out while reading.
    """
    # Arrays: in a list most numbers are a pointer and an object, four times the memory.
    paths, ends, hashes, codes = bytearray(), array("q"), array("q"), array("q")
    places: dict[bytes, int] = {}
    lines: dict[bytes, int] = {}
    numbered = numbered_lines(file)
    for number, line in map(_with_one_word, numbered) if has_quoted_labels else numbered:
        # At white space, from the right, once: so blanks at the end of the line and before the
        # label go as well.
        parts = line.rsplit(None, 1)
        if len(parts) != 2:
            if not parts:
                continue
            is_table = file.suffix in (".csv", ".tsv", ".jsonl")
            advice = f"; to make lists of a table: `ptkit split {file}`" if is_table else ""
            raise DataError(
                f"{file}, line {number}: no label; expected PATH LABEL, such as: images/cat/1.png 0"
                f"{advice}"
            )
        path, text = parts
        # Labels repeat: each distinct text is checked and parsed once, however long the list.
        code = places.setdefault(text, len(places))
        if code == len(lines):
            # Read once more: looking for quotes in every line would slow all lists down.
            if text[-1] == _QUOTE and not has_quoted_labels:
                return _read_rows(file, has_quoted_labels=True)
            lines[text] = number
        if path[0] == _QUOTE:
            path = unquoted(path, place=f"{file}, line {number}").encode("utf-8", "surrogateescape")
        paths += path
        ends.append(len(paths))
        codes.append(code)
        # Python salts this hash anew in each process: good for comparing here, never for saving.
        hashes.append(hash(path))
    return paths, ends, hashes, codes, lines


def _with_one_word(numbered: tuple[int, bytes]) -> tuple[int, bytes]:
    """Return a line with the blanks in a quoted label escaped, which JSON reads alike."""
    number, line = numbered
    if label := _QUOTED_LABEL.search(line):
        line = line[: label.start(1)] + label[1].replace(b" ", rb"\u0020")
    return number, line


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
    first: dict[str, int] = {}
    rows = np.flatnonzero(np.isin(hashes, twice))
    for row in rows.tolist():
        path = images.listed_path(row)
        earlier = first.setdefault(path, row)
        if np.any(images.labels[earlier] != images.labels[row]):
            one, two = (
                f"{images.labels[k].tolist()} in line {_line_of(images, k)}" for k in (earlier, row)
            )
            raise DataError(
                f"{images.file} gives {path} two labels, {one} and {two}; keep one of the lines"
            )
    return len(rows) - len(first)


def _line_of(images: ImageList, row: int) -> int:
    """Return the number of the line that an image of a whole list is in."""
    used = (number for number, line in numbered_lines(images.file) if line.strip())
    return next(islice(used, row, None))
