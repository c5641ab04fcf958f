"""The files of a prediction, the first of which grows while it runs."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import csv_bytes, make_folder, sync_folder, write_atomically, write_csv
from ptkit.looking.answers import Answers, number_column
from ptkit.looking.prediction_scores import Scores, Tally, Wrong, surest, wrong_of

_WRONG = ("path", "true", "class", "probability")
_NAMES = ("predictions.csv", "scores.json", "wrong.csv")
_HEAD_BYTES = 1 << 16
# Characters.
_LONGEST_CELL = 1 << 27


class PredictionFiles:
    """Writes the answers into a folder, part by part: a reader of `growing` sees them while the
    prediction runs, and what was done stays there if it is interrupted.

    At the end `growing` becomes predictions.csv, without columns that are empty. Where images have
    labels, scores.json and wrong.csv are written too; else those beside an earlier predictions.csv
    are removed. `files`: what was written at the end.

    kind: of the model's task. class_names: the columns of one that gives numbers.

    Raises (entering):
        UsageError: a file of such a name that is not what ptkit writes for this kind of model.
    """

    def __init__(self, folder: Path, kind: str, class_names: Sequence[str]) -> None:
        self.folder, self.growing = folder, folder / "predictions.part.csv"
        self._kind, self._class_names = kind, class_names
        self.files: list[Path] = []
        self._tally, self._wrong = Tally(), list[Wrong]()
        self._columns: list[str] = []
        self._used: set[int] = {0}
        self._file: BinaryIO | None = None

    def __enter__(self) -> "PredictionFiles":
        make_folder(self.folder)
        self._check_own()
        try:
            self._file = self.growing.open("wb")
        except OSError as error:
            raise self._refused(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None:
            self._finish()

    def add(self, part: Answers) -> None:
        """Write some answers.

        Raises:
            StorageError: the disk refused.
        """
        assert self._file is not None
        lines = part.cells()
        self._used |= {k for line in lines for k, cell in enumerate(line) if cell}
        header = [] if self._columns else [part.columns]
        self._columns = part.columns
        try:
            self._file.write(csv_bytes([*header, *lines]))
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error
        self._tally.add(part)
        self._wrong += wrong_of(part)

    def _check_own(self) -> None:
        """Refuse to replace what others wrote."""
        for name in _NAMES:
            file = self.folder / name
            if not os.path.lexists(file):
                continue
            try:
                with file.open("rb") as content:
                    head = (
                        content.read(_HEAD_BYTES) if file.suffix == ".json" else content.readline()
                    )
            except OSError as error:
                raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
            if not self._is_own(name, head):
                raise UsageError(
                    f"{file} is there already, and is no such file of this model: name another"
                    " folder with --out"
                )

    def _is_own(self, name: str, head: bytes) -> bool:
        if name == "scores.json":
            return b'"num_labelled"' in head
        text = head.decode("utf-8", "surrogateescape")
        header = next(csv.reader(io.StringIO(text, newline="")), [])
        if name == "wrong.csv":
            return tuple(header) == _WRONG
        columns = {
            MULTI: ["classes"],
            REGRESSION: [*map(number_column, self._class_names)],
        }.get(self._kind, ["class", "probability"])
        # Without the columns that are empty: where all images are unreadable nothing else is left.
        return header == ["path", "error"] or header[: 1 + len(columns)] == ["path", *columns]

    def _finish(self) -> None:
        table = self.folder / "predictions.csv"
        is_again = table.exists()
        try:
            if len(self._used) == len(self._columns):
                os.replace(self.growing, table)
                sync_folder(self.folder)
            else:
                write_atomically(table, self._write_used)
                self.growing.unlink()
        except OSError as error:
            raise self._refused(error) from error
        self.files = [table]
        self._write_scores(self.folder / "scores.json", self.folder / "wrong.csv")
        if is_again:
            self._remove_old()

    def _write_scores(self, scores_file: Path, wrong_file: Path) -> None:
        if (scores := self._tally.scores()) is None:
            return
        write_atomically(scores_file, (json.dumps(scores.as_dict(), indent=1) + "\n").encode())
        self.files.append(scores_file)
        if isinstance(scores, Scores):
            write_csv(wrong_file, _WRONG, map(_wrong_cells, surest(self._wrong)))
            self.files.append(wrong_file)

    def _remove_old(self) -> None:
        """Remove what an earlier prediction wrote: it would pass for this one's."""
        for name in ("scores.json", "wrong.csv"):
            if (file := self.folder / name) in self.files:
                continue
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise self._refused(error) from error

    def _write_used(self, file: BinaryIO) -> None:
        for row in self._written():
            file.write(csv_bytes([[row[k] for k in sorted(self._used)]]))

    def _written(self) -> Iterator[list[str]]:
        # Of an image with thousands of labels.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        with self.growing.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from csv.reader(file)

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write into {self.folder}: {error.strerror or error}")


def _wrong_cells(wrong: Wrong) -> tuple[str, str, str, str]:
    chance = "" if wrong.probability is None else f"{wrong.probability:.6g}"
    return wrong.path, wrong.true, wrong.answer, chance
