"""`ptkit predict`."""

from typing import Annotated, Any

import typer

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.core.wording import table


def predict(
    ckpt: options.Checkpoint,
    sources: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, or lists (.txt).")
    ],
    top: Annotated[
        int, typer.Option(help="How many classes are named, the most probable first.", min=1)
    ] = 1,
    model: options.Model = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    classes: options.Classes = None,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what a model sees in images: the class with its probability, several classes, or numbers.

    With --out also as predictions.csv in that folder.

    Example: ptkit predict ckpt.pkl data/3 --top 3
    """
    printer = Printer(as_json=as_json, quiet=quiet)
    answers: dict[str, Any] = {"model": model, "mean": mean, "std": std, "size": size}
    found = api.predict(
        ckpt, sources, top=top, classes=classes, device=device, workers=workers, **answers
    )
    header, *lines = found.table("{:.1%}")
    printer.say(table(header, lines))
    if out is not None:
        printer.say(f"saved in {found.save(out)}")
    printer.result(found.rows)
