"""What `ptkit predict` prints: rows as they come or at the end, and how right they are."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ptkit.commands.output import Printer, complain
from ptkit.core.wording import absent_note, counted, table, trained_on_note

if TYPE_CHECKING:
    from ptkit.looking.answers import Answers
    from ptkit.looking.prediction_files import PredictionFiles
    from ptkit.looking.prediction_scores import NumberScores, Scores, Wrong

# Of a table with more lines, the classes of lowest recall are printed.
_MAX_LINES, _MAX_WRONG = 30, 10


class PredictionScreen:
    """Prints a prediction: a table or --json at the end, --csv and --jsonl as answers come. Then
    what is said beside these goes to standard error.

    form: json, jsonl, csv, or "" for a table for people. errors: why images could not be read.
    """

    def __init__(self, printer: Printer, form: str, num_images: int) -> None:
        self.printer, self.form, self.num_images = printer, form, num_images
        self.streams = form in ("csv", "jsonl")
        self.errors: list[str] = []
        self.num_done = self._num_trained_on = self._num_wrong = 0
        self._header: list[str] = []
        # What waits for the end: lines of the table, or rows of --json.
        self._kept: list[Any] = []
        self._wrong: list[Wrong] = []
        self._tally: Any = None

    @property
    def hides_progress(self) -> bool:
        """Whether rows on the terminal already show how far it is."""
        return self.printer.silent or (self.streams and sys.stdout.isatty())

    @property
    def shows_table(self) -> bool:
        """Whether a table for people is printed, with a row for each image."""
        return not self.form and not self.printer.silent

    def say(self, text: str) -> None:
        """Print what is not a row."""
        (self.printer.aside if self.streams else self.printer.say)(text)

    def add(self, part: "Answers") -> None:
        """Print some answers, or keep them for the end."""
        from ptkit.core.files import csv_bytes
        from ptkit.looking.prediction_scores import Tally, surest, wrong_of

        # First: what is printed below counts as done, wherever a signal comes.
        self.num_done += len(part.paths)
        self._header, is_first = part.columns, not self._header
        if self.form == "json":
            self._kept += part.rows
        elif self.form == "jsonl":
            self.printer.rows("".join(f"{json.dumps(row)}\n" for row in part.rows).encode())
        elif self.form == "csv":
            header = [part.columns] if is_first else []
            self.printer.rows(csv_bytes([*header, *part.cells()]))
        elif self.shows_table:
            self._kept += part.cells("{:.1%}")
        self.errors += part.errors.values()
        if part.trained_on is not None:
            self._num_trained_on += int(part.trained_on.sum())
        self._tally = self._tally or Tally()
        self._tally.add(part)
        wrong = list(wrong_of(part))
        self._num_wrong += len(wrong)
        self._wrong = surest([*self._wrong, *wrong], _MAX_WRONG)

    @contextmanager
    def kept_if_stopped(self, files: "PredictionFiles | None") -> Iterator[None]:
        """Print what was done if the block is interrupted or fails."""
        try:
            yield
        except BrokenPipeError:  # nobody reads on
            raise
        except BaseException:
            self._print_kept()
            if 0 < self.num_done < self.num_images:
                where = "" if files is None else f"; they are in {files.growing}"
                complain(
                    f"stopped after {self.num_done:,} of {counted(self.num_images, 'image')}{where}"
                )
            raise

    def end(self, label_notes: Sequence[str]) -> None:
        """Print what was kept for the end, and how right the answers are."""
        self._print_kept()
        if label_notes:
            self.say("\n" + "\n".join(label_notes))
        scores = None if self._tally is None else self._tally.scores()
        if scores is not None:
            self.say("\n".join(_score_lines(scores)))
        self._say_wrong()
        if self._num_trained_on:
            self.say("\n" + trained_on_note(self._num_trained_on, self.num_done))

    def _say_wrong(self) -> None:
        if self._num_wrong:
            lines = [(w.path, w.true, w.answer, _percent(w.probability)) for w in self._wrong]
            count = counted(self._num_wrong, "image")
            more = self._num_wrong - len(lines)
            others = f", the surest {len(lines)}; wrong.csv of --out has all" if more else ""
            title = f"{count} wrong{others}"
            self.say(f"\n{title}\n" + table(["image", "true", "answer", "probability"], lines))

    def _print_kept(self) -> None:
        from ptkit.looking.answers import without_empty

        if self.form == "json" and self._kept:
            self.printer.result(self._kept)
        elif self._kept:
            header, *lines = without_empty([self._header, *self._kept])
            self.printer.say(table(header, lines))


def _score_lines(scores: "Scores | NumberScores") -> list[str]:
    """Return the accuracy in words, the means of the rates, and a line for each class."""
    from ptkit.core.shares import share_text
    from ptkit.looking.prediction_scores import NumberScores

    total = scores.num_labelled
    some = "" if total == scores.num_images else f" with a label, of {scores.num_images:,}"
    if isinstance(scores, NumberScores):
        errors = ", ".join(f"{name.upper()} {value:.6g}" for name, value in scores.errors.items())
        return [f"{errors}, {counted(total, 'image')}{some}"]
    what = "every label right:" if scores.has_several else "accuracy"
    right = f"{scores.num_right:,} of {counted(total, 'image')}{some}"
    majority = "" if scores.majority is None else f", {scores.majority}"
    lines = [f"{what} {share_text(scores.num_right, total)}, {right}{majority}"]
    if scores.num_unknown:
        answered = total - scores.num_unknown
        share = ""
        if answered:
            share = f", {share_text(scores.num_right, answered)} of the others right"
        lines.append(f"unknown: {scores.num_unknown:,}, counted as wrong{share}")
    for name, rates in scores.means().items():
        words = (f"{'F1' if rate == 'f1' else rate} {value:.2%}" for rate, value in rates.items())
        lines.append(f"{name} {', '.join(words)}")
    num_absent = int((scores.per_class["support"] == 0).sum())
    if num_absent and not scores.has_several:
        lines.append(absent_note(num_absent, len(scores.class_names)))
    return [*lines, "", *_class_lines(scores)]


def _class_lines(scores: "Scores") -> list[str]:
    from ptkit.looking.prediction_scores import RATES

    rates, places, lines = scores.per_class, scores.places, []
    rows: list[tuple[Any, ...]] = [
        (
            scores.class_names[k],
            *(float(rates[rate][k]) for rate in RATES),
            int(rates["support"][k]),
        )
        for k in places
    ]
    if len(rows) > _MAX_LINES:
        # Classes without images have no recall; they are not the lowest.
        rows = sorted((row for row in rows if row[-1]), key=lambda row: row[2])[:_MAX_LINES]
        lines.append(
            f"the {len(rows)} of {len(scores.class_names):,} classes with the lowest recall"
        )
    cells = [(name, *map(_percent, shares), count) for name, *shares, count in rows]
    lines.append(table(["class", "precision", "recall", "F1", "images"], cells))
    if others := len(scores.class_names) - len(places):
        words = "class is" if others == 1 else "classes are"
        lines.append(f"{others:,} other {words} neither true nor answered here")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None or share != share else f"{share:.1%}"
