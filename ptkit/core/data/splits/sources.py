"""Finding the images of any source: class folders, given parts, a table, a list, or names."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ptkit.core.data.moved import check_root, prefix_of
from ptkit.core.data.splits.given_parts import (
    find_part_folders,
    is_only_held_out,
    join_parts,
    with_parts_of_names,
)
from ptkit.core.data.splits.scanning import (
    LayoutError,
    Scan,
    entries_of,
    images_below,
    scan_class_folders,
    scan_list,
)
from ptkit.core.data.splits.tables import SUFFIXES, Columns, ordered_classes, scan_table
from ptkit.core.errors import DataError, PtkitError, UsageError
from ptkit.core.run_folders import check_no_run
from ptkit.core.wording import counted, first_of

# How file names tell their class; the first that fits all of them is suggested.
_USUAL_PATTERNS = (
    r"([a-zA-Z][^/]*?)[._ -]*\d+\.\w+$",
    r"([a-zA-Z][^/]*?)[._ -]*\(?\d+\)?\.\w+$",
    r"\d+[._ -]+([^/]+)\.\w+$",
    r"([a-zA-Z]+)[._ -][^/]*$",
)


@dataclass(frozen=True)
class Source:
    """Where images are, and how the classes are known.

    place: a folder, a table or a list. columns: of a table. label_from: a pattern for the paths.
    root: a folder that the paths of a table or list are in now. is_lenient: whether given parts may
    lack classes.
    """

    place: Path
    columns: Columns = field(default_factory=Columns)
    label_from: str | None = None
    root: Path | None = None
    is_lenient: bool = False

    @property
    def for_tables(self) -> list[str]:
        """The flags that are given and need a table, or a list for the last."""
        return [*self.columns.given(), *(["--root"] if self.root else [])]


def scan_source(
    source: Source, known_classes: Collection[str] = (), *, classes_file: Path | None = None
) -> Scan:
    """Find the images and the classes of a source.

    known_classes: a single class is accepted if it is one of these. classes_file: see `scan_list`.

    Raises:
        UsageError: a flag that does not go with the source.
        DataError: see `scan_class_folders`, `join_parts`, `scan_table`, `scan_names`, `scan_list`.
    """
    place = source.place
    is_table = _is_table(place.name) and not place.is_dir()
    if source.root is not None:
        check_root(source.root)
    check_no_run(place)
    if source.label_from is not None:
        if place.is_file() or source.for_tables:
            other = source.for_tables[0] if source.for_tables else place
            raise UsageError(
                f"--label-from is for the images in a folder and cannot be combined with {other}"
            )
        return scan_names(
            place, source.label_from, known=known_classes, is_lenient=source.is_lenient
        )
    if is_table and not place.exists():
        raise DataError(f"{place} does not exist")
    if is_table:
        return _scan_table(place, source, known_classes)
    if place.is_file():
        if source.columns.given():
            flag = source.for_tables[0]
            raise UsageError(f"{flag} is for tables with a header, and {place} is a list")
        return scan_list(place, known_classes=classes_file, root=source.root)
    try:
        return _scan_folder(place, source, known_classes)
    except LayoutError as error:
        pattern = _pattern_for(place)
        advice = f"; if the names tell the classes: --label-from '{pattern}'" if pattern else ""
        raise LayoutError(f"{error}{advice}") from None


def scan_names(
    folder: Path, pattern: str, *, known: Collection[str] = (), is_lenient: bool = False
) -> Scan:
    """Find all images below a folder, their classes being in their paths.

    pattern: a regular expression that is searched in each path below the folder; its first group,
    or else the whole match, is the class. known: a single class is accepted if it is one of these.

    Raises:
        UsageError: it is no regular expression or matches nothing. DataError: no images, some that
            it does not match, one class only, or numbers mixed with names.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--label-from is not a regular expression: {error}, found {pattern!r}"
        ) from None
    ignored: Counter[str] = Counter()
    images = images_below(folder, seen=set(), ignored=ignored)
    if not images:
        raise DataError(f"{folder} has no images")
    matches = [compiled.search(name) for name, _ in images]
    group = 1 if compiled.groups else 0
    found = [match[group] or "" if match else "" for match in matches]
    without = [name for (name, _), label in zip(images, found, strict=True) if not label]
    if len(without) == len(images):
        raise UsageError(f"--label-from {pattern!r} matches no image; paths look like {without[0]}")
    if without:
        raise DataError(
            f"--label-from {pattern!r} does not match {counted(len(without), 'image')} of"
            f" {len(images):,} in {folder}: {first_of(without, 3)}"
        )
    names = dict(zip(reversed(found), (name for name, _ in reversed(images)), strict=True))
    class_names = ordered_classes(names, folder)
    if len(class_names) == 1 and class_names[0] not in known:
        raise DataError(f"--label-from {pattern!r} gives all of {folder} one class, {found[0]}")
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = sorted((label_of[c], *image) for c, image in zip(found, images, strict=True))
    scan = Scan(
        folder,
        class_names,
        names=[name for _, name, _ in rows],
        paths=[prefix_of(folder) + name for _, name, _ in rows],
        labels=[label for label, *_ in rows],
        sizes=[size for *_, size in rows],
        ignored=dict(ignored),
    )
    return with_parts_of_names(scan, is_lenient=is_lenient)


def _scan_folder(folder: Path, source: Source, known: Collection[str]) -> Scan:
    tables = _tables_in(folder)
    # Its name says what it is for, also where it lies beside folders that may be classes.
    sure = [file for file in tables if source.for_tables or file.stem.lower() == "metadata"]
    found, errors = _readable(sure, source, known)
    if found:
        return _only_one(folder, found, errors)
    for table, error in zip(sure, errors, strict=True):
        if table.stem.lower() == "metadata":
            raise type(error)(f"{error}{_way_out(table)}")
    try:
        if parts := find_part_folders(folder):
            scan_part = partial(_scan_folder, source=source)
            scan = join_parts(folder, parts, scan_part, is_lenient=source.is_lenient)
            return _noting(scan, tables, errors)
        if source.for_tables:
            flag = source.for_tables[0]
            raise errors[0] if errors else UsageError(f"{flag} is for tables; {folder} has none")
        return _noting(scan_class_folders(folder, known_classes=known), tables, errors)
    except LayoutError as error:
        found, errors = _readable(tables, source, known)
        if found:
            return _only_one(folder, found, errors)
        advice = f"; as for the table there: {errors[0]}" if errors else ""
        raise LayoutError(f"{error}{advice}") from None


def _way_out(table: Path) -> str:
    """Say how to be rid of a table that cannot be used, where there are folders beside it."""
    has_folders = any(entry.is_dir() for entry in entries_of(str(table.parent)))
    return f"; if folders tell the classes, move {table.name} away" if has_folders else ""


def _noting(scan: Scan, tables: Sequence[Path], errors: Sequence[PtkitError]) -> Scan:
    """Return the scan of folders, with a note of the tables beside them."""
    notes = [f"Not used: {error}." for error in errors]
    # Without flags they are not read: that would look at each image once more.
    if tables and not errors:
        notes = [f"Folders tell the classes; not used: {first_of(list(map(str, tables)), 3)}."]
    return replace(scan, notes=(*scan.notes, *notes))


def _tables_in(folder: Path) -> list[Path]:
    entries = entries_of(str(folder))
    return sorted(folder / e.name for e in entries if _is_table(e.name) and e.is_file())


def _is_table(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _readable(
    tables: Iterable[Path], source: Source, known: Collection[str]
) -> tuple[list[Scan], list[PtkitError]]:
    """Return what those of the tables say that name images and classes, and why others do not."""
    found: list[Scan] = []
    errors: list[PtkitError] = []
    for table in tables:
        try:
            scan = _scan_table(table, source, known)
        except (DataError, UsageError) as error:
            errors.append(error)
            continue
        # Of a competition: what an answer looks like. Nobody means to train on that.
        if is_only_held_out(scan):
            errors.append(
                DataError(
                    f"{table} has no images outside {scan.names[0].partition('/')[0]}/; if they are"
                    f" to be split: `ptkit split {table}`"
                )
            )
        else:
            found.append(scan)
    return found, errors


def _scan_table(file: Path, source: Source, known: Collection[str]) -> Scan:
    return scan_table(
        file, source.columns, root=source.root, known=known, is_lenient=source.is_lenient
    )


def _only_one(folder: Path, found: Sequence[Scan], errors: Sequence[PtkitError]) -> Scan:
    """Return the only scan, with a note of each table that could not be used."""
    if len(found) > 1:
        names = " and ".join(scan.source.name for scan in found)
        raise DataError(
            f"{folder} has several tables with images and classes, {names}: name one of them, as in"
            f" `ptkit split {found[0].source}`"
        )
    notes = [f"Not used: {error}." for error in errors]
    return replace(found[0], notes=(*found[0].notes, *notes))


def _pattern_for(folder: Path) -> str | None:
    """Return a pattern that finds a class in each file name, and several images of most classes."""
    names = [name for name, _ in images_below(folder, seen=set(), ignored=Counter())]
    for pattern in _USUAL_PATTERNS:
        matches = [re.search(pattern, name) for name in names]
        classes = {match[1] for match in matches if match}
        if all(matches) and 2 <= len(classes) <= len(names) // 2:
            return pattern
    return None
