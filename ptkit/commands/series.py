"""How a series of runs ends on the screen."""

from typing import TYPE_CHECKING

from ptkit.commands.output import Printer, complain
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.looking.series import SeriesResult


def print_series(printer: Printer, result: "SeriesResult") -> None:
    """Print a row a run, mean ± standard deviation, and which checkpoint is linked."""
    from ptkit.core.comparing.differences import metric_text, series_cells

    setting, cells = result.setting, series_cells(result.setting)
    rows = [
        (run.folder.name, *(metric_text(name, run.metrics[name]) for name in cells))
        for run in setting.runs
    ]
    printer.say(
        f"\n{table(['run', *cells], [*rows, ('mean ± std (95% of the mean)', *cells.values())])}"
    )
    for note in result.notes:
        complain(f"warning: {note}")
    printer.say(
        f"checkpoint: {result.checkpoint}, the best by validation {setting.runs[0].main}\n"
        f"summary.json and summary.csv are in {result.run}"
    )
    printer.result(result.as_dict())
