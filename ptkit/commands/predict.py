"""`ptkit predict`."""

from typing import Annotated, Unpack

import typer

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer, end_without
from ptkit.core.ranks import rank_of_environment
from ptkit.core.wording import table, trained_on_note


@options.reads_images
@options.for_bare_weights
def predict(
    printer: Printer,
    ckpt: options.CheckpointOrOnnx,
    sources: options.Sources,
    top: Annotated[
        int, typer.Option(help="How many classes are named, the most probable first.", min=1)
    ] = 1,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    on_bad: options.OnBad = "skip",
    root: options.Root = None,
    out: options.Out = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Say what a model sees in images: the class with its probability, several classes, or numbers.

    With --out also as predictions.csv in that folder. An image that cannot be read gets a line with
    the reason.

    Example: ptkit predict ckpt.pkl data/3 --top 3
    """
    from ptkit.core.distributed import joined

    with joined():
        found = api.predict(
            ckpt,
            sources,
            top=top,
            device=device,
            workers=workers,
            on_bad=on_bad,
            root=root,
            **answers,
        )
    if not rank_of_environment().is_main:
        return
    for note in found.notes:
        printer.say(note)
    header, *lines = found.table("{:.1%}")
    printer.say(table(header, lines))
    if found.trained_on is not None and (count := int(found.trained_on.sum())):
        printer.say("\n" + trained_on_note(count, len(found.paths)))
    if out is not None:
        printer.say(f"saved in {found.save(out)}")
    printer.result(found.rows)
    end_without(list(found.errors.values()))
