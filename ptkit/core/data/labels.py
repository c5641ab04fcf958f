"""What the labels in a list mean: classes by index or by name, several classes, or numbers."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.core.errors import DataError
from ptkit.core.files import unquoted
from ptkit.core.wording import first_of, nearest

# `ptkit split FOLDER` imports this module and must start without numpy.
if TYPE_CHECKING:
    import numpy as np

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


@dataclass(frozen=True)
class LabelTable:
    """The distinct labels of a list.

    rows: int64 (n,) class indices, bool (n, K) or float32 (n, numbers). class_names: of the classes
    or numbers. are_names: whether the list has names of classes in place of their indices.
    """

    rows: "np.ndarray"
    class_names: tuple[str, ...]
    are_names: bool = False


def label_table(
    lines: Mapping[bytes, int],
    *,
    file: Path,
    class_names: tuple[str, ...] | None,
    wanted: str | None = None,
    known: tuple[str, ...] | None = None,
) -> LabelTable:
    """Return a row for each distinct label text of a list, in that order.

    lines: the texts, with the number of the first line of each. class_names: None makes names up.
    wanted: the kind it must be; class indices also serve as lists of one class, and as numbers, as
    lists of indices do.
    known: the classes that names mean where class_names has none; else the names themselves, sorted
    by code point.

    Raises:
        DataError: a text that is not a label, or does not fit the others or the names; with its
            line.
    """
    kind = _kind_of(lines)
    if wanted == REGRESSION and all(map(_NUMBERS.fullmatch, lines)):
        # Where numbers are expected, whole ones and several of them are numbers too.
        kind = REGRESSION
    if wanted is not None and kind not in (SINGLE, wanted):
        # As numbers or several classes they may be wrong in more ways than this.
        _values(lines, kind, file)
        raise DataError(f"{file} has {DESCRIPTIONS[kind]}, expected {DESCRIPTIONS[wanted]}")
    if kind != REGRESSION and any(_is_name(text) for text in lines):
        return _table_of_names(lines, file, class_names or known, wanted=wanted)
    values = _values(lines, kind, file)
    names_of = _names_of_numbers if REGRESSION in (kind, wanted) else _names_of_classes
    class_names = names_of(values, file, class_names)
    rows = _rows([value for value, _ in values], wanted or kind, num_classes=len(class_names))
    return LabelTable(rows, class_names)


def mixed_labels(source: Path, number: str, name: str) -> DataError:
    """Return the error for labels of two kinds, of which these are the first, with their places."""
    return DataError(
        f"{source} mixes numbers and names as labels, such as {number} and {name}; use one kind"
    )


def _is_name(text: bytes) -> bool:
    # isdigit first: it is quicker than a pattern.
    return not (text.isdigit() or _NUMBERS.fullmatch(text) or _SEVERAL.fullmatch(text))


def _table_of_names(
    lines: Mapping[bytes, int],
    file: Path,
    order: tuple[str, ...] | None,
    *,
    wanted: str | None,
) -> LabelTable:
    """Return the rows of labels that are names. order: of all classes, where it is known."""
    if numbers := [text for text in lines if not _is_name(text)]:
        mark = next(text for text in lines if _is_name(text))
        one, two = (f"{text.decode()} in line {lines[text]}" for text in (numbers[0], mark))
        raise mixed_labels(file, one, two)
    if wanted == REGRESSION:
        raise DataError(f"{file} has names of classes, expected {DESCRIPTIONS[wanted]}")
    names = [unquoted(text, place=f"{file}, line {number}") for text, number in lines.items()]
    class_names = order or tuple(sorted(set(names)))
    index = {name: label for label, name in enumerate(class_names)}
    for name, (text, number) in zip(names, lines.items(), strict=True):
        if b"," in text and text[:1] != b'"':
            raise DataError(
                f"{file}, line {number}: the label {name} has a comma: quote it if it is one name;"
                " several classes are written as indices"
            )
        if name not in index:
            raise DataError(
                f"{file}, line {number}: {name} is none of the classes"
                f" {first_of(class_names, 5)}{nearest(name, class_names)}"
            )
    rows = _rows([(index[name],) for name in names], wanted or SINGLE, num_classes=len(class_names))
    return LabelTable(rows, class_names, are_names=True)


def _values(lines: Mapping[bytes, int], kind: str, file: Path) -> list[_Value]:
    values = []
    for text, number in lines.items():
        try:
            values.append((_parse_label(text, kind), number))
        except DataError as error:
            raise DataError(f"{file}, line {number}: {error}") from None
    return values


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
    # A comma in quotes belongs to the name of a class.
    is_multi = any(b"," in text and text[:1] != b'"' for text in texts)
    return MULTI if is_multi else SINGLE


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
    raise DataError(f"label {shown} is not a number, as the other labels are")


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
