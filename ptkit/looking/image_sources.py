"""The images that a user names: files, folders, lists and tables; and their labels, where known."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.data.formats import IMAGE_EXTENSIONS
from ptkit.core.data.labels import REGRESSION, SINGLE, label_table
from ptkit.core.data.lists import ImageList, classes_file, list_of, read_classes, read_list
from ptkit.core.data.splits.tables import SUFFIXES, Columns, images_of_table
from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import numbered_lines, unquoted
from ptkit.core.run_folders import check_no_run
from ptkit.core.training.tasks.task import label_kind_of
from ptkit.core.wording import counted, nearest
from ptkit.looking.evaluation import read_matching_list
from ptkit.looking.subject import Subject

# A line of a list that is a path alone: one in quotes, one word, or what ends as an image does.
_ALONE = re.compile(
    rb'("(?:[^"\\]|\\.)*"|\S+|.*(?:' + b"|".join(map(re.escape, map(str.encode, IMAGE_EXTENSIONS)))
    + rb"))\s*",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images to answer for, in order.

    labels: what is true, as Answers.answers; of an image without a label it means nothing. known:
    bool (N,), which images have one. notes: where labels come from and why others are left out, a
    line each.
    """

    images: ImageList
    labels: np.ndarray
    known: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Found:
    """Of one source: paths to open, and label rows with the images that have one, if any."""

    paths: list[str]
    labels: np.ndarray | None = None
    known: np.ndarray | None = None
    note: str = ""


def find_images(
    sources: Sequence[str], class_names: tuple[str, ...], *, root: Path | None = None
) -> ImageList:
    """Return the images that some image files, folders (at any depth) and list files name, in that
    order.

    root: of the images in lists, see `read_list`.

    Raises:
        DataError: nothing there, or a folder without images.
        UsageError: no source, or a root without a list.
    """
    if root is not None and not any(map(_is_list, sources)):
        raise UsageError("--root is for the images of a list; name a list file (.txt)")
    paths: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            paths += _in_folder(source)
        elif _is_list(source):
            paths += _paths_of(read_list(Path(source), root=root))
        else:
            paths.append(source)
    if not paths:
        raise UsageError("no images: name image files, folders or list files")
    return list_of(paths, class_names)


def find_labelled_images(
    subject: Subject,
    sources: Sequence[str],
    *,
    columns: Columns | None = None,
    root: Path | None = None,
) -> LabelledImages:
    """Return the images that files, folders, lists and tables (.csv, .tsv, .jsonl) name, in that
    order, with the labels that mean something to a model.

    Of an image in a folder, the label is the nearest folder with the name of a class; lists and
    tables need not have labels. columns: of the tables. root: of the images in lists and tables,
    see `read_list`.

    Raises:
        DataError: nothing there, a folder without images, or a list or table that cannot be read.
        UsageError: no source, a root without a list or table, or columns without a table.
    """
    columns = columns or Columns()
    _check_flags(sources, columns, root)
    found: list[_Found] = []
    for source in sources:
        if os.path.isdir(source):
            found.append(_of_folder(subject, source))
        elif _is_table(source):
            found.append(_of_table(subject, Path(source), columns, root))
        elif _is_list(source):
            found.append(_of_list(subject, Path(source), root))
        else:
            found.append(_Found([source]))
    paths = [path for part in found for path in part.paths]
    if not paths:
        raise UsageError("no images: name image files, folders, lists or tables")
    known = np.concatenate([_known_of(part) for part in found])
    labels = np.concatenate(
        [
            _no_labels(subject, len(part.paths)) if part.labels is None else part.labels
            for part in found
        ]
    )
    notes = list(dict.fromkeys(part.note for part in found if part.note))
    if count := len(paths) - len(set(paths)):
        more = counted(count, "more row")
        notes.append(f"images that are named more than once have {more}, counted too")
    if subject.task.counted is not None:
        is_ignored = known & ~subject.task.counted.cpu().numpy()[labels]
        known &= ~is_ignored
        if count := int(is_ignored.sum()):
            notes.append(f"{counted(count, 'label')} left out: the model's loss ignored the class")
    return LabelledImages(list_of(paths, subject.class_names), labels, known, tuple(notes))


def _check_flags(sources: Sequence[str], columns: Columns, root: Path | None) -> None:
    has_table = any(map(_is_table, sources))
    if root is not None and not (has_table or any(map(_is_list, sources))):
        raise UsageError(
            "--root is for the images of a list or table; name a list file (.txt) or a table"
        )
    if columns.given() and not has_table:
        flag = next(iter(columns.given()))
        raise UsageError(f"{flag} is for tables (.csv, .tsv, .jsonl), and none is named")


def _is_list(source: str) -> bool:
    return source.endswith(".txt") and not os.path.isdir(source)


def _is_table(source: str) -> bool:
    return source.lower().endswith(SUFFIXES) and not os.path.isdir(source)


def _known_of(part: _Found) -> np.ndarray:
    if part.known is not None:
        return part.known
    return np.full(len(part.paths), part.labels is not None)


def _no_labels(subject: Subject, count: int) -> np.ndarray:
    kind = label_kind_of(subject.task.kind)
    if kind == SINGLE:
        return np.zeros(count, np.int64)
    kind_of_number = np.float32 if kind == REGRESSION else np.bool_
    return np.zeros((count, len(subject.class_names)), kind_of_number)


# ------------------------------------------------------------------------------------- folders


def _of_folder(subject: Subject, folder: str) -> _Found:
    paths = _in_folder(folder)
    if not subject.has_class_names or label_kind_of(subject.task.kind) != SINGLE:
        return _Found(paths)
    index = {name: k for k, name in enumerate(subject.class_names)}
    own = index.get(os.path.basename(os.path.abspath(folder)), -1)

    @cache
    def class_in(parent: str) -> int:
        """Return the class of the nearest folder, -1 without one."""
        below = os.path.relpath(parent, folder)
        names = [] if below == os.curdir else below.split(os.sep)
        return next((index[name] for name in reversed(names) if name in index), own)

    labels = np.array([class_in(os.path.dirname(path)) for path in paths], np.int64)
    known = labels >= 0
    if not known.any():
        return _Found(paths)
    return _Found(paths, np.maximum(labels, 0), known, "labels: the names of folders")


def _in_folder(folder: str) -> list[str]:
    check_no_run(Path(folder))
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        # In place: os.walk goes into what is left, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(names) if _is_image(name)]
    if not found:
        raise DataError(f"{folder} has no images; expected files such as {folder}/1.png")
    return found


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


# --------------------------------------------------------------------------------------- lists


def _of_list(subject: Subject, file: Path, root: Path | None) -> _Found:
    try:
        images, _ = read_matching_list(file, subject, root=root)
    except DataError as error:
        rows = _partly_labelled(file) if file.is_file() else []
        if any(text is None for _, text, _ in rows):
            return _of_rows(subject, file, rows, root)
        # What is wrong may be more than the labels.
        images = read_list(file, root=root)
        return _Found(_paths_of(images), note=f"labels of {file} are not used: {error}")
    return _Found(_paths_of(images), images.labels, note=f"labels: {file}")


def _paths_of(images: ImageList) -> list[str]:
    return list(map(images.image_path, range(len(images))))


# A path, the text of its label, and its line.
_Row = tuple[str, bytes | None, int]


def _partly_labelled(file: Path) -> list[_Row]:
    """Return the rows of a list of which some may lack a label."""

    def rows() -> Iterator[_Row]:
        for number, line in numbered_lines(file):
            if not (text := line.strip()):
                continue
            path, label = (text, None) if _ALONE.fullmatch(text) else text.rsplit(None, 1)
            yield unquoted(path, place=f"{file}, line {number}"), label, number

    return list(rows())


def _of_rows(subject: Subject, file: Path, rows: Sequence[_Row], root: Path | None) -> _Found:
    paths = _paths_of(list_of([path for path, *_ in rows], (), file=file, root=root))
    texts = [text for _, text, _ in rows]
    if not any(texts):
        return _Found(paths)
    beside = classes_file(file)
    if beside is not None and subject.has_class_names:
        names = read_classes(beside)
        if names != subject.class_names:
            return _Found(paths, note=f"labels of {file} are not used: {beside} has other classes")
    return _with_labels(subject, paths, texts, [line for *_, line in rows], file)


def _with_labels(
    subject: Subject,
    paths: list[str],
    texts: Sequence[bytes | None],
    lines: Sequence[int],
    file: Path,
    *,
    source: str = "",
) -> _Found:
    """Return images with the labels that some texts mean to a model, as in a list."""
    known = np.array([text is not None for text in texts])
    places: dict[bytes, int] = {}
    first: dict[bytes, int] = {}
    for text, line in zip(texts, lines, strict=True):
        if text is not None:
            places.setdefault(text, len(places))
            first.setdefault(text, line)
    names: Any = subject.class_names if subject.has_class_names else None
    try:
        wanted = label_kind_of(subject.task.kind)
        table = label_table(first, file=file, class_names=names, wanted=wanted)
        _check_width(table.class_names, subject)
    except DataError as error:
        return _Found(paths, note=f"labels of {file} are not used: {error}")
    rows = _no_labels(subject, len(paths))
    codes = [places[text] for text in texts if text is not None]
    rows[known] = table.rows[codes] if rows.ndim == 1 else _widened(table.rows[codes], rows)
    return _Found(paths, rows, known, source or f"labels: {file}")


def _widened(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, like.shape[1] - rows.shape[1])))


def _check_width(class_names: Sequence[str], subject: Subject) -> None:
    if len(class_names) > len(subject.class_names):
        raise DataError(
            f"label {len(class_names) - 1}, but the model knows the classes 0 to"
            f" {len(subject.class_names) - 1}"
        )


# -------------------------------------------------------------------------------------- tables


def _of_table(subject: Subject, file: Path, columns: Columns, root: Path | None) -> _Found:
    table = images_of_table(file, columns, root=root)
    if table.labels is None:
        return _Found(table.paths, note=table.note)
    if label_kind_of(subject.task.kind) == SINGLE and subject.has_class_names:
        return _of_names(subject, file, table.paths, table.labels, table.lines, table.note)
    texts = [label.encode() or None for label in table.labels]
    return _with_labels(subject, table.paths, texts, table.lines, file, source=table.note)


def _of_names(
    subject: Subject,
    file: Path,
    paths: list[str],
    labels: Sequence[str],
    lines: Sequence[int],
    note: str,
) -> _Found:
    """Return images with the labels of a table, which are names of classes."""
    index = {name: k for k, name in enumerate(subject.class_names)}
    rows = np.array([index.get(label, -1) for label in labels], np.int64)
    known = rows >= 0
    strange = [k for k, label in enumerate(labels) if label and rows[k] < 0]
    if strange:
        label, line = labels[strange[0]], lines[strange[0]]
        note += (
            f" Left out: {counted(len(strange), 'label')}, such as {label} in line {line}, which"
            f" the model does not know{nearest(label, index)}."
        )
    return _Found(paths, np.maximum(rows, 0), known, note)


def paths_of_text(text: bytes) -> list[str]:
    """Return the paths in a text, one a line, or each ended by a zero byte."""
    if b"\0" in text:
        names = text.split(b"\0")
    else:
        names = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]
