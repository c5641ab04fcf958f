"""`ptkit data`."""

import functools
import shlex
from pathlib import Path
from typing import Annotated

import typer

from ptkit.api import data_sets
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.progress import bar
from ptkit.core.wording import counted


def data(
    printer: Printer,
    data_set: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A set of `ptkit list data`, or hf:NAME (hf:NAME:CONFIG) of the Hugging Face Hub.",
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE_OR_DIR",
            help="What was downloaded by hand: the archive, or a folder with all files of the set.",
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column with the class, of a set of the Hub."),
    ] = None,
    out: options.Out = None,
) -> None:
    """Download a public data set and write it as class folders: OUT/PART/CLASS/IMAGE.

    The set's own parts and class names are kept, and files as they are; arrays become PNG. The
    folder, by default one with the name of the set, appears when it is complete.

    Example: ptkit data cifar10
    """
    counting = functools.partial(bar, quiet=printer.silent)
    found = data_sets.data(
        data_set, out, source=source, label_column=label_column, counting=counting
    )
    images = counted(sum(found.parts.values()), "image")
    classes = counted(len(found.class_names), "class", "classes")
    parts = ", ".join(f"{part} {count:,}" for part, count in found.parts.items() if part)
    printer.say(f"{images} of {classes} in {found.folder}{f' ({parts})' if parts else ''}")
    for note in found.about.notes:
        printer.say(note)
    printer.say(f"source: {found.about.source}")
    printer.say(f"licence: {found.about.licence}")
    printer.say(f"cite: {found.about.citation}")
    folder = shlex.quote(str(found.folder))
    printer.say(f"next: ptkit train {folder}, or ptkit split {folder}")
    printer.result(
        {
            "name": found.name,
            "folder": str(found.folder),
            "parts": {part or "all": count for part, count in found.parts.items()},
            "classes": list(found.class_names),
            "source": found.about.source,
            "licence": found.about.licence,
            "citation": found.about.citation,
            "notes": list(found.about.notes),
        }
    )
