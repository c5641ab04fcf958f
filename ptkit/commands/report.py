"""`ptkit report`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, complain
from ptkit.commands.progress import bar
from ptkit.core.wording import amount, counted

Check = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        help="Check its lists as `ptkit check` does; by default those of at most 5,000 images.",
    ),
]


def report(
    printer: Printer,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, finished or not; or a folder of runs, for a table of all of them.",
        ),
    ],
    no_images: Annotated[
        bool,
        typer.Option("--no-images", help="Leave pictures and paths of the data out."),
    ] = False,
    check: Check = None,
    root: options.Root = None,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page, by default report.html in the folder."),
    ] = None,
) -> None:
    """Write what is known of a run into one HTML file, which needs neither network nor server.

    Result with its interval, what `ptkit diagnose` and `ptkit check` say, curves, the confusion
    matrix (a click on a cell shows its images), worst mistakes, kernels, feature maps, settings and
    the command that repeats the run. Of a folder of runs: a table with the settings that differ,
    sorted by a click.

    Example: ptkit report runs/1
    """
    from ptkit.core.run_folders import run_of
    from ptkit.looking.reporting.writing import write_report

    run = run_of(run)
    written = write_report(
        run,
        out=out,
        with_images=not no_images,
        check=check,
        root=root,
        device=device,
        workers=workers,
        counting=functools.partial(bar, quiet=printer.silent),
    )
    for title, reason in written.left_out.items():
        printer.say(f"left out: {title} ({reason})")
    if written.note:
        complain(f"note: {written.note}")
    runs = "" if (run / "config.toml").is_file() else f"{counted(written.num_runs, 'run')}, "
    printer.say(f"Wrote {written.file} ({runs}{amount(written.num_bytes)})")
    printer.result(
        {
            "file": str(written.file),
            "bytes": written.num_bytes,
            "num_runs": written.num_runs,
            "left_out": written.left_out,
            "changed_lists": written.changed_lists,
        }
    )
