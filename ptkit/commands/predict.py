"""`ptkit predict`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_device, table
from ptkit.core.errors import UsageError

_FILE = "predictions.csv"


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
    from ptkit.core.data.labels import MULTI, REGRESSION
    from ptkit.core.device import choose_device
    from ptkit.looking.predictions import answer, find_images
    from ptkit.looking.subject import load_subject

    check_device(device)
    printer = Printer(as_json=as_json, quiet=quiet)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    if top > 1 and subject.task.kind in (MULTI, REGRESSION):
        raise UsageError(
            f"--top ranks classes, of which an image has one; {ckpt} is a {subject.task.kind} model"
        )
    images = find_images(sources, subject.class_names)
    rows = answer(subject, images, device=choose_device(device), workers=workers).rows(top=top)
    header, *lines = _lines(rows, "{:.1%}")
    printer.say(table(header, lines))
    if out is not None:
        _write(out, _lines(rows, "{:.6g}"))
        printer.say(f"saved in {out / _FILE}")
    printer.result(rows)


def _lines(rows: Iterable[Mapping[str, Any]], share: str) -> list[list[str]]:
    """Return a header and one line an image, as the kind of task has them; `share` formats
    probabilities.
    """
    lines: list[list[str]] = []
    for row in rows:
        if "numbers" in row:
            header, cells = (
                list(row["numbers"]),
                [f"{value:.6g}" for value in row["numbers"].values()],
            )
        elif "classes" in row:
            chances = (row["probabilities"][name] for name in row["classes"])
            words = (
                f"{name} {share.format(chance)}"
                for name, chance in zip(row["classes"], chances, strict=True)
            )
            header, cells = ["classes"], [", ".join(words) or "none"]
        else:
            best = row.get("top", [row])
            header = [text for k in range(len(best)) for text in _columns(k)]
            cells = [
                text
                for found in best
                for text in (found["class"], share.format(found["probability"]))
            ]
        lines = lines or [["path", *header]]
        lines.append([row["path"], *cells])
    return lines


def _columns(place: int) -> tuple[str, str]:
    return (
        ("class", "probability")
        if place == 0
        else (f"class {place + 1}", f"probability {place + 1}")
    )


def _write(folder: Path, lines: list[list[str]]) -> None:
    from ptkit.core.files import make_folder, write_csv

    header, *rows = lines
    write_csv(make_folder(folder) / _FILE, header, rows)
