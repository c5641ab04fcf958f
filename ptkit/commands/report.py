"""`ptkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from ptkit.commands.output import Printer
from ptkit.core.wording import amount, counted


def report(
    printer: Printer,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a folder of runs for a table.")
    ],
    no_images: Annotated[
        bool,
        typer.Option("--no-images", help="Leave out images and paths of the data."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; by default RUN/report.html."),
    ] = None,
) -> None:
    """Write a run as one HTML page: summary, check-up, confusion matrix, images, curves, kernels.

    The page needs no network. A click on a cell of the matrix shows its images. Of a folder of runs
    it is a table of all with the settings that differ; a click on a heading sorts it.

    Example: ptkit report runs/1
    """
    from ptkit.core.files import write_atomically
    from ptkit.looking.reporting.gather import gather, gather_all
    from ptkit.looking.reporting.page import run_page, runs_page

    file = out or run / "report.html"
    if (run / "config.toml").is_file():
        page, what = run_page(gather(run), with_images=not no_images), "run"
    else:
        runs = gather_all(run)
        page, what = runs_page(runs, title=str(run)), counted(len(runs), "run")
    data = page.encode("utf-8", "backslashreplace")
    write_atomically(file, data)
    printer.say(f"{file}: {what}, {amount(len(data))}")
    printer.result({"file": str(file), "bytes": len(data)})
