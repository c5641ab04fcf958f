"""`ptkit predict`."""

from pathlib import Path
from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_device, table


def predict(
    ckpt: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or bare weights.")
    ],
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
    from ptkit.looking.predictions import predict_sources, write_predictions
    from ptkit.looking.subject import load_subject

    check_device(device)
    printer = Printer(as_json=as_json, quiet=quiet)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    found = predict_sources(subject, sources, top=top, device=device, workers=workers)
    header, *lines = found.table("{:.1%}")
    printer.say(table(header, lines))
    if out is not None:
        printer.say(f"saved in {write_predictions(found, out)}")
    printer.result(found.rows)
