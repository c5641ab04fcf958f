"""`ptkit predict`."""

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

import typer

from ptkit.api.predictions import ask
from ptkit.commands import options
from ptkit.commands.output import Printer, end_without
from ptkit.commands.prediction_screen import PredictionScreen
from ptkit.commands.progress import bar
from ptkit.core.errors import UsageError
from ptkit.core.ranks import rank_of_environment

if TYPE_CHECKING:
    from ptkit.looking.predictions import Prediction


class Choices(TypedDict, total=False):
    """How answers are given, and what tables hold."""

    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Call an image unknown unless its most probable class has at least P; of several"
            " labels, those with at least P are present.",
        ),
    ]
    path_column: options.PathColumn
    label_column: options.LabelColumn


class Given(Choices, options.BareWeights, total=False):
    """These, and what a checkpoint would have said."""


@options.reads_images
@options.with_flags(Given.__annotations__, before="device")
def predict(
    printer: Printer,
    ckpt: options.CheckpointOrOnnx,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders, lists (.txt), tables (.csv, .tsv, .jsonl), or - for paths"
            " on standard input.",
        ),
    ],
    top: Annotated[
        int, typer.Option(help="How many classes are named, the most probable first.", min=1)
    ] = 1,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, a row an image, as the answers come.")
    ] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a JSON object a line, as the answers come.")
    ] = False,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    on_bad: options.OnBad = "skip",
    root: options.Root = None,
    out: options.Out = None,
    **given: Unpack[Given],
) -> None:
    """Say what a model sees in images: the class with its probability, several classes, or numbers.

    Where images have labels (in a list, in a table, or as the name of their folder), also how right
    that is: accuracy, precision, recall and F1, and the images that are wrong.

    With --out also as predictions.csv in that folder, and scores.json and wrong.csv where there are
    labels. An image that cannot be read gets a line with the reason. What was done when the command
    is interrupted is kept.

    Example: ptkit predict ckpt.pkl data/3 --top 3
    """
    from ptkit.core.distributed import joined

    named = _named(sources)
    form = _chosen({"json": printer.as_json, "jsonl": as_jsonl, "csv": as_csv})
    with joined():
        begun = ask(
            ckpt,
            named,
            top=top,
            device=device,
            workers=workers,
            on_bad=on_bad,
            root=root,
            **given,
        )
        screen = PredictionScreen(printer, form, begun.num_images)
        if not rank_of_environment().is_main:
            # Its share of the images is computed, and the first process prints.
            deque(begun.parts, maxlen=0)
            return
        _show(screen, begun, out)
    end_without(screen.errors, shown_in="the table" if screen.shows_table else None)


def _show(screen: PredictionScreen, begun: "Prediction", out: Path | None) -> None:
    """Print and write the answers as they come; if they end early, what there is of them stays."""
    from ptkit.looking.prediction_files import PredictionFiles

    for note in begun.notes:
        screen.say(note)
    files = None if out is None else PredictionFiles(out, begun.kind, begun.class_names)
    with screen.kept_if_stopped(files), ExitStack() as stack:
        if files is not None:
            stack.enter_context(files)
        advance = stack.enter_context(
            bar("predicting", begun.num_images, quiet=screen.hides_progress)
        )
        for part in begun.parts:
            screen.add(part)
            if files is not None:
                files.add(part)
            advance(len(part.paths))
    screen.end(begun.label_notes)
    if files is not None:
        screen.say(f"saved in {', '.join(map(str, files.files))}")


def _chosen(forms: Mapping[str, bool]) -> str:
    """Return the form that is asked for, "" for the table."""
    found = [form for form, is_on in forms.items() if is_on]
    if len(found) > 1:
        raise UsageError(f"{' and '.join(f'--{form}' for form in found)}: choose one of them")
    return "".join(found)


def _named(sources: Sequence[str]) -> list[str]:
    """Return sources with the paths on standard input in the place of `-`."""
    if "-" not in sources:
        return list(sources)
    rank = rank_of_environment()
    if not rank.is_alone:
        text = "- is read by one process, and there are several: put the paths into a list (.txt)"
        raise UsageError(text if rank.is_main else "")
    from ptkit.looking.image_sources import paths_of_text

    found = paths_of_text(sys.stdin.buffer.read())
    if not found:
        raise UsageError("no images: standard input is empty; expected a path a line")
    return [path for source in sources for path in (found if source == "-" else [source])]
