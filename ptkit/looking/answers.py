"""What a model says about some images, as rows and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.files import make_folder, write_csv

if TYPE_CHECKING:
    from ptkit.looking.prediction_scores import NumberScores, Scores

# The answer for an image of none of the classes.
UNKNOWN = "unknown"
# Why an image is: its class is less probable than it must be, or it is unlike those of training.
THRESHOLD, STRANGER = "threshold", "stranger"
# How exact probabilities are in files.
EXACT = "{:.6g}"


@dataclass(frozen=True)
class Answers:
    """What a model says about some images, in order.

    paths: None for an image that came from memory. kind: of the task, as Task.kind. values: float32
    (N, K) probabilities, or (N, D) numbers. answers: int64 (N,) classes, bool (N, K) for several
    labels, or the numbers again. top: how many classes a row names. notes: what was done to get
    bare weights, a line each. trained_on: bool (N,), which images the weights were trained on; None
    where that is unknown. unknown: bool (N,), which images are said to be of no class; None where
    all are of one. thresholds: (K,), the probability that an answer must have; None where any is
    enough. errors: row -> why that image cannot be read; its values are nan, and its answer -1, of
    several labels none, of numbers nan. labels: what is true, like `answers`, and known: bool (N,),
    of which images; None for none.
    """

    paths: tuple[str | None, ...]
    class_names: tuple[str, ...]
    kind: str
    values: np.ndarray
    answers: np.ndarray
    top: int = 1
    notes: tuple[str, ...] = ()
    trained_on: np.ndarray | None = None
    unknown: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    labels: np.ndarray | None = None
    known: np.ndarray | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain mapping an image: path, and what the kind of task has to say.

        One class an image: class, index, probability, and with `top` above 1 the most probable
        classes under `top`; of an unknown image class "unknown", index None, the probability of the
        most probable class, that one's name under `most_probable`, and THRESHOLD or STRANGER under
        `unknown_because`. Several: classes, indices, probabilities. Numbers: numbers. All: true,
        the label, where there is one; trained_on, true, for an image that the weights were trained
        on. An image that cannot be read: error.
        """
        rows = [{"path": path, **self._answer(k)} for k, path in enumerate(self.paths)]
        for k in [] if self.known is None else np.flatnonzero(self.known).tolist():
            if k not in self.errors:
                rows[k]["true"] = self._true(k)
        for k in [] if self.trained_on is None else np.flatnonzero(self.trained_on).tolist():
            rows[k]["trained_on"] = True
        return rows

    @property
    def scores(self) -> "Scores | NumberScores | None":
        """How right the answers are; None where no image that can be read has a label."""
        from ptkit.looking.prediction_scores import scores_of

        return scores_of([self])

    @property
    def columns(self) -> list[str]:
        """The names of all columns that a table of such answers may have."""
        if self.kind == REGRESSION:
            own = list(map(number_column, self.class_names))
            true = [f"true {name}" for name in self.class_names]
        elif self.kind == MULTI:
            own, true = ["classes"], ["true"]
        else:
            places = [f" {k}" for k in range(2, min(self.top, len(self.class_names)) + 1)]
            # Beside each other: the probability of an unknown image is that of this class.
            why = ["most_probable", "unknown_because"] if self.unknown is not None else []
            own = ["class", "probability", *why]
            own += [f"{name}{place}" for place in places for name in ("class", "probability")]
            true = ["true"]
        return ["path", *own, *(true if self.labels is not None else []), "error"]

    def cells(self, share: str = EXACT) -> list[list[str]]:
        """Return a line of text for each image, with all `columns`; `share` formats
        probabilities.
        """
        rows = [{"path": row["path"] or "", **_cells(row, share)} for row in self.rows]
        return [[row.get(name, "") for name in self.columns] for row in rows]

    def table(self, share: str = EXACT) -> list[list[str]]:
        """Return a header and a line of text an image, without columns that are empty."""
        return without_empty([self.columns, *self.cells(share)])

    def save(self, folder: Path) -> Path:
        """Write predictions.csv into a folder and return its path.

        Raises:
            StorageError: the disk refused.
        """
        file = make_folder(folder) / "predictions.csv"
        header, *rows = self.table()
        write_csv(file, header, rows)
        return file

    def _answer(self, row: int) -> dict[str, Any]:
        if row in self.errors:
            return {"error": self.errors[row]}
        values, names = self.values[row], self.class_names
        if self.kind == REGRESSION:
            return {"numbers": dict(zip(names, map(float, values), strict=True))}
        if self.kind == MULTI:
            present = np.flatnonzero(self.answers[row]).tolist()
            return {
                "classes": [names[k] for k in present],
                "indices": present,
                "probabilities": dict(zip(names, map(float, values), strict=True)),
            }

        def named(k: int) -> dict[str, Any]:
            return {"class": names[k], "index": k, "probability": float(values[k])}

        answer = named(int(self.answers[row]))
        if self.unknown is not None and self.unknown[row]:
            answer |= {"class": UNKNOWN, "index": None, "most_probable": answer["class"]}
            answer["unknown_because"] = self._why_unknown(row)
        if self.top > 1:
            order = np.argsort(-values, kind="stable")[: self.top].tolist()
            answer["top"] = list(map(named, order))
        return answer

    def _why_unknown(self, row: int) -> str:
        k = int(self.answers[row])
        is_below = self.thresholds is not None and self.values[row, k] < self.thresholds[k]
        return THRESHOLD if is_below else STRANGER

    def _true(self, row: int) -> Any:
        assert self.labels is not None
        label, names = self.labels[row], self.class_names
        if self.kind == REGRESSION:
            return dict(zip(names, map(float, label), strict=True))
        if self.kind == MULTI:
            return [names[k] for k in np.flatnonzero(label).tolist()]
        return names[int(label)]


def joined(parts: Sequence[Answers]) -> Answers:
    """Return parts of one prediction, in their order, as one."""
    starts = np.cumsum([0, *(len(part.paths) for part in parts)]).tolist()
    errors = {
        start + row: why
        for start, part in zip(starts, parts, strict=False)
        for row, why in part.errors.items()
    }

    def whole(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)

    names = ("values", "answers", "trained_on", "unknown", "labels", "known")
    paths = tuple(path for part in parts for path in part.paths)
    arrays = {name: whole(name) for name in names}
    return replace(parts[0], paths=paths, errors=errors, **arrays)


def without_empty(table: Sequence[list[str]]) -> list[list[str]]:
    """Return a table without the columns that have nothing but a header; the first one stays."""
    columns = list(zip(*table, strict=True))
    kept = [k for k, column in enumerate(columns) if k == 0 or any(column[1:])]
    return [[row[k] for k in kept] for row in table]


def number_column(name: str) -> str:
    """Return the column of a number, which is no other column of the table."""
    is_taken = name in ("path", "error") or name.startswith(("true ", "predicted "))
    return f"predicted {name}" if is_taken else name


def _cells(row: Mapping[str, Any], share: str) -> dict[str, str]:
    """Return column -> text, as the kind of task has them."""
    if "error" in row:
        return {"error": row["error"]}
    true = row.get("true", "")
    if isinstance(true, dict):
        truth = {f"true {name}": f"{value:.6g}" for name, value in true.items()}
    else:
        truth = {"true": (", ".join(true) or "none") if isinstance(true, list) else true}
    if "numbers" in row:
        found = row["numbers"].items()
        return {number_column(name): f"{value:.6g}" for name, value in found} | truth
    if "classes" in row:
        probabilities = row["probabilities"]
        words = (f"{name} {share.format(probabilities[name])}" for name in row["classes"])
        return {"classes": ", ".join(words) or "none"} | truth
    cells: dict[str, str] = {}
    # The first of `top` is the answer, unless that is "unknown".
    for place, found in enumerate([row, *row.get("top", [])[1:]]):
        number = f" {place + 1}" if place else ""
        cells[f"class{number}"] = found["class"]
        cells[f"probability{number}"] = share.format(found["probability"])
    why = {name: row.get(name, "") for name in ("most_probable", "unknown_because")}
    return cells | why | truth
