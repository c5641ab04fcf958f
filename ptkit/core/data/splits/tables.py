"""Tables of images and their classes: CSV, TSV and JSON Lines, with a header."""

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ptkit.core.data.labels import mixed_labels
from ptkit.core.data.splits.given_parts import part_of, with_parts, with_parts_of_names
from ptkit.core.data.splits.places import Places, find_places
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import numbered_lines, open_text, parse_json
from ptkit.core.wording import nearest

SUFFIXES = (".csv", ".tsv", ".jsonl")

# What columns are usually called, in small letters without blanks, dashes and underscores; the
# second row of each counts only where no column has a name of the first.
_USUAL_NAMES = {
    "path": (
        ("path", "paths", "file", "files", "filename", "filenames", "filepath", "filepaths",
         "image", "images", "imagepath", "imagefile", "imagefilename", "img", "imgpath"),
        ("id", "imageid", "imgid", "imagename", "imgname", "name"),
    ),
    "label": (
        ("label", "labels", "class", "classes", "category", "target", "classname", "labelname",
         "categoryname"),
        ("classid", "labelid", "categoryid", "classindex", "species", "breed", "type", "y"),
    ),
    "part": (("split", "subset", "partition", "dataset", "set"),),
}  # fmt: skip
# Columns of a table of `ptkit predict`, of one class an image or of several.
_ANSWERS = ({"class", "probability"}, {"classes", "true"}, {"classes", "error"})
_WHOLE = re.compile(r"^(\d+)\.0$", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """The columns that the user names, each None where ptkit is to find it."""

    path: str | None = None
    label: str | None = None
    group: str | None = None

    def given(self) -> dict[str, str]:
        """Return those that are named, by their flag."""
        named = {f"--{kind}-column": name for kind, name in vars(self).items()}
        return {flag: name for flag, name in named.items() if name is not None}


@dataclass(frozen=True)
class Row:
    """A row that is used: where it is in the file, and its cells."""

    line: int
    path: str
    label: str
    group: str = ""
    part: str = ""


def scan_table(
    file: Path, columns: Columns, *, root: Path | None, known: Collection[str], is_lenient: bool
) -> Scan:
    """Find the images that a table names, and the class of each.

    root: the folder that paths are relative to; by default that of the table, see `find_places`.
    known: a single class is accepted if it is one of these. is_lenient: see `with_parts`.

    Classes that are whole numbers are sorted as numbers, others by code point.

    Raises:
        UsageError: a column that is not there.
        DataError: the table cannot be read, several columns or none may be meant, an empty cell,
            one image with two labels, parts or groups, an image that is missing, or one class only.
    """
    table = _read_table(file, columns)
    rows = table.rows
    class_names = ordered_classes({row.label: f"line {row.line}" for row in reversed(rows)}, file)
    if len(class_names) < 2 and class_names[0] not in known:
        raise DataError(f"{file} has images of one class only, {class_names[0]}; expected more")
    places = find_places([row.path for row in rows], [row.line for row in rows], file, root=root)
    label_of = {name: label for label, name in enumerate(class_names)}
    kept = _distinct(table, places.paths)
    order = sorted(kept, key=lambda k: (label_of[rows[k].label], places.names[k]))
    scan = Scan(
        file,
        class_names,
        names=[places.names[k] for k in order],
        paths=[places.paths[k] for k in order],
        labels=[label_of[rows[k].label] for k in order],
        sizes=[places.sizes[k] for k in order],
        groups=[rows[k].group or None for k in order] if columns.group else (),
        notes=(_note(table, places, num_repeated=len(rows) - len(kept)),),
    )
    if "part" in table.chosen:
        parts = [part_of(rows[k].part) for k in order]
        return with_parts(scan, parts, is_lenient=is_lenient)
    return with_parts_of_names(scan, is_lenient=is_lenient)


@dataclass(frozen=True)
class Listed:
    """The images of a table, row by row, for who does not need labels.

    paths: to open, whether something is there or not. labels: as in the table, "" without one; None
    where no column has them. lines: where the rows are. note: what was taken for what.
    """

    paths: list[str] = field(repr=False)
    labels: list[str] | None = field(repr=False)
    lines: list[int] = field(repr=False)
    note: str


def images_of_table(file: Path, columns: Columns, *, root: Path | None) -> Listed:
    """Find the images that a table names, and their labels where a column has them.

    root: see `scan_table`.

    Raises:
        UsageError: a column that is not there.
        DataError: the table cannot be read, no column or several may have the paths, an empty path,
            or no image is there.
    """
    table = _read_table(file, columns, needs_labels=False)
    rows, lines = table.rows, [row.line for row in table.rows]
    places = find_places([row.path for row in rows], lines, file, root=root, is_lenient=True)
    labels = [row.label for row in rows] if "label" in table.chosen else None
    note = _note(table, places, num_repeated=0)
    if labels is None and (several := _usual("label", table.header)):
        note += f" The labels may be in {', '.join(several)}: choose with --label-column."
    return Listed(places.paths, labels, lines, note)


def ordered_classes(first_seen: Mapping[str, str], source: Path) -> tuple[str, ...]:
    """Return class names in their order: whole numbers as numbers, others by code point.

    first_seen: where each name was found, for the message.

    Raises:
        DataError: both kinds at once.
    """
    numbers = [name for name in first_seen if name.isascii() and name.isdigit()]
    if not numbers:
        return tuple(sorted(first_seen))
    others = [name for name in first_seen if name not in numbers]
    if others:
        one, two = (f"{name} in {first_seen[name]}" for name in (numbers[-1], others[-1]))
        raise mixed_labels(source, one, two)
    return tuple(sorted(numbers, key=lambda name: (int(name), name)))


@dataclass(frozen=True)
class _Table:
    """chosen: the column of each kind."""

    file: Path
    header: Sequence[str]
    chosen: Mapping[str, str]
    rows: list[Row] = field(repr=False)


def _read_table(file: Path, columns: Columns, *, needs_labels: bool = True) -> _Table:
    records = _json_records(file) if file.suffix.lower() == ".jsonl" else _text_records(file)
    first = list(islice(records, 4))
    if len(first) < 2:
        raise DataError(f"{file} has no rows; expected a header, then an image a row")
    header = [str(cell).strip() for cell in first[0][1]]
    chosen = _choose_columns(file, [cells for _, cells in first], columns, needs_labels)
    index = {kind: header.index(name) for kind, name in chosen.items()}
    rows = []
    for line, cells in chain(first[1:], records):
        place = f"{file}, line {line}"
        if len(cells) != len(header):
            raise DataError(
                f"{place}: the number of cells is {len(cells)}, in the header {len(header)}"
            )
        found = {kind: _text(cells[k], place) for kind, k in index.items()}
        # So pandas writes whole numbers of a column that has gaps.
        row = Row(line, **{**found, "label": _WHOLE.sub(r"\1", found.get("label", ""))})
        if not row.path or (needs_labels and not row.label):
            kind = "label" if row.path else "path"
            raise DataError(f"{place}: the {kind} is empty (column {chosen[kind]})")
        if needs_labels and _DECIMAL.fullmatch(row.label):
            raise DataError(
                f"{place}: the label {row.label} has decimals and is no class; name another column"
                " with --label-column"
            )
        rows.append(row)
    # By its name alone a column may hold anything.
    if "part" in chosen and not all(part_of(row.part) for row in rows):
        del chosen["part"]
    return _Table(file, header, chosen, rows)


def _text_records(file: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield the lines that the records of a CSV or TSV file end on, and their cells."""
    with open_text(file) as stream:
        # newline: line breaks within quotes stay as they are.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        line = 0
        try:
            header = text.readline()
            delimiter = _delimiter(header, is_tabbed=file.suffix.lower() == ".tsv")
            reader = csv.reader(chain([header], text), delimiter=delimiter, strict=True)
            for cells in reader:
                line = reader.line_num
                if any(cells):
                    yield line, cells
        except csv.Error as error:
            raise DataError(f"{file}, after line {line}: {error}") from None
        except UnicodeDecodeError:
            place = f"after line {line}" if line else "line 1"
            raise DataError(f"{file}, {place}: not UTF-8; save it as UTF-8") from None


def _delimiter(header: str, *, is_tabbed: bool) -> str:
    """Return what divides the header into most cells; a comma rather than others."""
    if is_tabbed:
        return "\t"
    return max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _json_records(file: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield the names in the first object of a JSON Lines file, then line numbers and values."""
    header: list[Any] = []
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{file}, line {number}: expected a JSON object")
        if not header:
            header = list(record)
            yield number, header
        yield number, [record.get(name) for name in header]


def _text(value: Any, place: str) -> str:
    if isinstance(value, list | dict):
        raise DataError(f"{place}: {json.dumps(value)[:40]} is several values; expected one")
    return "" if value is None else str(value).strip()


def _choose_columns(
    file: Path, first: Sequence[Sequence[Any]], columns: Columns, needs_labels: bool
) -> dict[str, str]:
    """Return the column of each kind; of labels that are not needed only a certain one.

    first: the header and some rows.

    Raises:
        UsageError: a column that is named is not there. DataError: none or several may be meant.
    """
    header = [str(cell).strip() for cell in first[0]]
    chosen = {kind: name for kind, name in vars(columns).items() if name is not None}
    for flag, name in columns.given().items():
        if header.count(name) != 1:
            times = "several columns" if name in header else "no column"
            raise UsageError(
                f"{flag}: {file} has {times} {name}{nearest(name, header)}; it has"
                f" {', '.join(header)}"
            )
    if columns.path and columns.path == columns.label:
        raise UsageError(f"--path-column and --label-column both name {columns.path}")
    begins = f"it begins: {' | '.join(_shown(cells) for cells in first[:4])}"
    # In the order of the table: a set's would make the first error another in each process.
    for kind in [kind for kind in _USUAL_NAMES if kind not in chosen]:
        left = [name for name in header if name not in chosen.values()]
        found = _usual(kind, left)
        if kind == "label" and any(columns <= set(header) for columns in _ANSWERS):
            # What a model has said, a table of `ptkit predict`, is not what is true.
            found = [name for name in left if name == "true"]
        is_needed = kind == "path" or (kind == "label" and needs_labels)
        if len(found) > 1 and is_needed:
            way = f"choose one with --{kind}-column"
            if len(set(found)) == 1:
                way = "rename one"
            raise DataError(
                f"{file} has several columns that may be the {kind}, {', '.join(found)}: {way};"
                f" {begins}"
            )
        if len(found) == 1:
            chosen[kind] = found[0]
    if len(header) == 1 and not needs_labels:
        chosen.setdefault("path", header[0])
    for kind, other in (("path", "label"), ("label", "path"))[: 1 + needs_labels]:
        rest = [name for name in header if name not in (chosen.get(other), chosen.get("part"))]
        # Of two columns, one is what the other is not.
        if kind not in chosen and other in chosen and len(header) == 2 and len(rest) == 1:
            chosen[kind] = rest[0]
        if kind not in chosen:
            raise DataError(
                f"{file} has no column with a usual name for the {kind}: name it with"
                f" --{kind}-column; {begins}"
            )
    return chosen


def _usual(kind: str, header: Sequence[str]) -> list[str]:
    for names in _USUAL_NAMES[kind]:
        if found := [name for name in header if re.sub(r"[\s_-]", "", name.lower()) in names]:
            return found
    return []


def _shown(cells: Sequence[Any]) -> str:
    text = ",".join("" if cell is None else str(cell) for cell in cells)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _distinct(table: _Table, paths: Sequence[str]) -> list[int]:
    """Return the numbers of the rows without those that repeat another.

    paths: where the image of each row is.

    Raises:
        DataError: one image with two labels, parts or groups.
    """
    found: dict[str, int] = {}
    # One file may be spelled in several ways.
    for number, path in enumerate(map(os.path.normpath, paths)):
        first, row = table.rows[found.setdefault(path, number)], table.rows[number]
        if first is row:
            continue
        for kind, value in _meaning(table, first).items():
            if value != (other := _meaning(table, row)[kind]):
                raise DataError(
                    f"{table.file} gives {row.path} two {kind}s, {value or 'none'} in line"
                    f" {first.line} and {other or 'none'} in line {row.line}; keep one of them"
                )
    return list(found.values())


def _meaning(table: _Table, row: Row) -> dict[str, str]:
    """Return what a row says of its image. A column that holds no parts only looks like one."""
    part = part_of(row.part) if "part" in table.chosen else ""
    return {"label": row.label, "part": part, "group": row.group}


def _note(table: _Table, places: Places, *, num_repeated: int) -> str:
    """Say what was taken for what."""
    words = {"path": "images", "label": "classes", "group": "groups", "part": "parts"}
    taken = [f'{words[kind]} from "{table.chosen[kind]}"' for kind in words if kind in table.chosen]
    taken[0] += places.note
    repeated = f"; rows that repeat another: {num_repeated:,}" if num_repeated else ""
    return f"{table.file}: {', '.join(taken)}{repeated}."
