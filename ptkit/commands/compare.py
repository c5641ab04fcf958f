"""`ptkit compare`: runs side by side, and whether their difference is more than chance."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, complain
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.core.comparing.differences import Difference
    from ptkit.core.comparing.runs import FoundRun
    from ptkit.looking.comparing import Comparison

# Of each kind of change; images.csv has all.
_MAX_PATHS = 10
# Of more runs a table of settings would not fit the screen.
_MAX_COLUMNS = 4


def compare(
    printer: Printer,
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or folders that hold runs: runs/."),
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="run|setting",
            help="Compare each run, or pool the runs that differ in their seed alone: mean ±"
            " standard deviation.",
        ),
    ] = "run",
    out: options.Out = None,
) -> None:
    """Compare runs: metrics with 95 % intervals, McNemar's test on the same validation images,
    which of them were mended and which broke, and the settings that differ.

    Two runs: the second against the first. Of more, the best against each other one, with Holm's
    correction. Writes tables and compare.png into ptkit-compare/ (or --out).

    Example: ptkit compare runs/1 runs/2
    """
    from ptkit.looking.comparing import compare_runs, ranked_verdict, verdict, write_comparison

    found = compare_runs(runs, by=by)
    for reason in found.left_out:
        complain(f"note: {reason}")
    files = write_comparison(found, out)
    printer.say(_settings_table(found) if found.settings else _runs_table(found))
    printer.say(f"\n{_differing_table(found)}")
    for each in found.differences:
        printer.say(f"\n{verdict(each)}")
        pair = (each.first, each.second)
        for other in (other for other in found.ranked if (other.first, other.second) == pair):
            printer.say(f"  {ranked_verdict(other)}")
        if each.changes:
            printer.say(_changed_paths(each))
    printer.say(f"\nWrote {', '.join(file.name for file in files.files)} in {files.folder}")
    verdicts = [*map(verdict, found.differences), *map(ranked_verdict, found.ranked)]
    printer.result({**found.as_dict(), "verdicts": verdicts, "files": list(map(str, files.files))})


def _runs_table(found: "Comparison") -> str:
    from ptkit.core.comparing.differences import metric_text

    def cell(run: "FoundRun", metric: str) -> str:
        if metric not in run.metrics:
            return "-"
        text, interval = metric_text(metric, run.metrics[metric]), run.intervals.get(metric)
        if run.predictions is None:
            return f"{text} (not finished)"
        if interval is None:
            return text
        return f"{text} ({metric_text(metric, interval[0])} to {metric_text(metric, interval[1])})"

    rows = ((run.name, *(cell(run, name) for name in found.metrics)) for run in found.runs)
    return table(["run", *found.metrics], rows)


def _settings_table(found: "Comparison") -> str:
    from ptkit.core.comparing.differences import series_cells

    rows = (
        (each.name, len(each.runs), *(series_cells(each)[name] for name in found.metrics))
        for each in found.settings
    )
    return table(["setting", "runs", *found.metrics], rows)


def _differing_table(found: "Comparison") -> str:
    from ptkit.core.comparing.differences import differing
    from ptkit.core.comparing.runs import value_text

    values = differing(found.columns)
    if not values:
        return "no setting differs"
    if len(found.columns) > _MAX_COLUMNS:
        return f"settings that differ, with their values in settings.csv: {', '.join(values)}"
    rows = [(name, *map(value_text, each)) for name, each in values.items()]
    return table(["setting that differs", *found.names], rows)


def _changed_paths(found: "Difference") -> str:
    lines = []
    for kind in ("mended", "broke"):
        changes = found.changed(kind)
        lines += [
            f"  {kind}: {each.path} ({each.true}: {each.before} -> {each.after})"
            for each in changes[:_MAX_PATHS]
        ]
        if len(changes) > _MAX_PATHS:
            lines.append(f"  {kind}: and {len(changes) - _MAX_PATHS:,} more in images.csv")
    return "\n".join(lines)
