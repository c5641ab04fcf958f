"""All runs of a folder in one sortable table, with the settings that differ."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ptkit.core.comparing.differences import differing, metric_text
from ptkit.core.comparing.runs import FoundRun, read_run, run_folders, value_text
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.wording import counted, reason_of
from ptkit.looking.reporting.markup import Html, isolated, tag
from ptkit.looking.reporting.page import page
from ptkit.looking.reporting.summary import DATA_PATHS

REPORT = "report.html"


@dataclass(frozen=True)
class Runs:
    """unreadable: folders that have settings, but cannot be read, with the reason."""

    folder: Path
    runs: tuple[FoundRun, ...]
    unreadable: dict[str, str]


def gather_runs(folder: Path) -> Runs:
    """Read all runs in a folder, those of series too.

    Raises:
        DataError: there is none.
    """
    runs, unreadable = [], {}
    for place in run_folders(folder):
        try:
            runs.append(read_run(place))
        except PtkitError as error:
            unreadable[str(place)] = reason_of(error)
    if not runs:
        what = next(iter(unreadable.values()), "it has no config.toml, and no run below it has")
        raise DataError(f"{folder} is not a run folder and holds none that can be read: {what}")
    return Runs(folder, tuple(runs), unreadable)


def runs_page(found: Runs, *, beside: Path, with_paths: bool = True) -> str:
    """Return the page of a folder of runs.

    beside: the folder that the page will be in, for its links. with_paths: whether settings that
    are paths of the data may be columns.
    """
    settings = differing(found.runs)
    if not with_paths:
        settings = {name: values for name, values in settings.items() if name not in DATA_PATHS}
    metrics = list(dict.fromkeys(name for run in found.runs for name in run_metrics(run)))
    head = ["run", "epochs", *metrics, *settings]
    rows = []
    for row, run in enumerate(found.runs):
        told = [_metric(run, name) for name in metrics]
        values = [tag("td", value_text(column[row])) for column in settings.values()]
        name = tag("th", _linked(run, found.folder, beside), scope="row")
        rows.append(tag("tr", name, _epochs(run), *told, *values))
    cells = [tag("th", name, scope="col") for name in head]
    parts = tag("thead", tag("tr", *cells)), tag("tbody", *rows)
    table = tag("div", tag("table", *parts, class_="plain sortable"), class_="wide")
    hint = tag("p", "Click a heading to sort. Metrics are those of the validation images.",
               class_="hint")  # fmt: skip
    note = _note(found, settings)
    title = f"{found.folder}: {counted(len(found.runs), 'run')}"
    return page(title, [hint, table, note])


def run_metrics(run: FoundRun) -> dict[str, float]:
    """Return a run's metrics; none where no epoch was finished."""
    return run.metrics if run.rows else {}


def _linked(run: FoundRun, folder: Path, beside: Path) -> Html:
    name = isolated(os.path.relpath(run.folder, folder))
    file = run.folder / REPORT
    if not file.is_file():
        return name
    return tag("a", name, href=quote(Path(os.path.relpath(file, beside)).as_posix()))


def _epochs(run: FoundRun) -> Html:
    count, total = len(run.rows), run.settings.train.epochs
    text = f"{count:,}" if run.predictions is not None else f"{count:,} of {total:,}, not finished"
    return tag("td", text, data_value=str(count))


def _metric(run: FoundRun, name: str) -> Html:
    value = run_metrics(run).get(name)
    if value is None:
        return tag("td", "–")
    text = metric_text(name, value)
    if name in run.intervals:
        low, high = (metric_text(name, end) for end in run.intervals[name])
        text += f" ({low} to {high})"
    return tag("td", text, data_value=f"{value:.9g}")


def _note(found: Runs, settings: Collection[str]) -> Html:
    lines = [] if settings else ["No setting differs."]
    lines += [f"{name} cannot be read: {why}" for name, why in found.unreadable.items()]
    return tag("div", *(tag("p", line) for line in lines), class_="note")
