"""`ptkit confmat`."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_device, table
from ptkit.commands.pictures import add_events, say_files, say_missing_font
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.core.data.loading.batches import Batches
    from ptkit.looking.evaluation import Evaluation
    from ptkit.looking.subject import Subject
    from ptkit.plots.saving import PictureFolder

COMMAND = "confmat"
# Of a table with more lines, the lowest ones are printed; the file has all of them.
MAX_LINES, MAX_PAIRS = 30, 10


def confmat(
    ckpt: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or bare weights.")
    ],
    list_file: Annotated[
        Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")
    ],
    num_images: options.NumImages = 24,
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
    """Test a model on a list: accuracy, confusion matrix, precision and recall per class, worst
    mistakes.

    Written as PNG and CSV: the matrix, the classes, the most confused pairs with some of their
    images, and the mistakes, of which the picture shows --num-images, those with the smallest
    probability of the true class. Where
    images have several labels: precision, recall, F1 and average precision of each class.

    Example: ptkit confmat ckpt.pkl test.txt
    """
    from ptkit.core.data.labels import MULTI, REGRESSION
    from ptkit.core.data.loading.batches import Batches
    from ptkit.core.data.sampling import Sampling
    from ptkit.core.device import choose_device
    from ptkit.core.sizes import evaluation_batch_size
    from ptkit.looking.evaluation import read_matching_list
    from ptkit.looking.subject import load_subject, output_folder
    from ptkit.plots.saving import PictureFolder

    check_device(device)
    printer = Printer(as_json=as_json, quiet=quiet)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    if subject.task.kind == REGRESSION:
        raise UsageError(
            f"{ckpt} gives numbers, and numbers are not confused with each other: `ptkit predict"
            f" {ckpt} {list_file}` shows them, and a run's metrics.csv has their errors in"
            " validation"
        )
    images, names = read_matching_list(list_file, subject, classes=classes)
    place = choose_device(device)
    batches = Batches(
        images,
        subject.parse_pipeline(),
        Sampling(evaluation_batch_size(subject.size)),
        device=place,
        workers=workers,
    )
    subject.model.to(place)
    report = _report_several if subject.task.kind == MULTI else _report_one
    with PictureFolder(
        output_folder(subject.run, command=COMMAND, out=out), command=COMMAND
    ) as pictures:
        result = report(
            subject, batches, names, printer=printer, pictures=pictures, num_images=num_images
        )
    say_missing_font(printer, names)
    say_files(printer, pictures)
    printer.result({**result, "files": list(map(str, pictures.files))})


def _report_one(
    subject: "Subject",
    batches: "Batches",
    names: tuple[str, ...],
    *,
    printer: Printer,
    pictures: "PictureFolder",
    num_images: int,
) -> dict[str, Any]:
    """Evaluate, draw and print, where images have one class each; return the JSON result."""
    from ptkit.looking.confusion import MAX_MATRIX, draw_evaluation
    from ptkit.looking.evaluation import evaluate

    images = batches.images
    found = evaluate(subject.model, batches, num_classes=len(names), task=subject.task)
    footer = f"{images.file}, n = {len(images):,} · {subject.described}"
    drawn = draw_evaluation(
        found, images, names, pictures=pictures, num_images=num_images, footer=footer
    )
    add_events(pictures, drawn)
    _print_tables(printer, found, names)
    is_large = len(names) > MAX_MATRIX
    if is_large:
        printer.say(
            f"confusion.csv has the pairs of the {len(names):,} classes that occur, not the whole"
            " matrix\n"
        )
    rates = found.per_class
    return {
        "accuracy": found.accuracy,
        "num_images": len(images),
        "classes": names,
        "matrix": found.matrix.tolist() if printer.as_json and not is_large else None,
        "precision": _without_nan(rates["precision"]),
        "recall": _without_nan(rates["recall"]),
    }


def _report_several(
    subject: "Subject",
    batches: "Batches",
    names: tuple[str, ...],
    *,
    printer: Printer,
    pictures: "PictureFolder",
    num_images: int,
) -> dict[str, Any]:
    """Evaluate, draw and print, where images have several classes each; return the JSON result."""
    from ptkit.looking.evaluation import evaluate_labels
    from ptkit.plots.label_rates import label_rates

    images = batches.images
    found = evaluate_labels(subject.model, batches, task=subject.task)
    rates, metrics = found.per_class, found.metrics
    footer = f"{images.file}, n = {len(images):,} · {subject.described}"
    figure = label_rates(rates, names, mean_average_precision=metrics["map"], footer=footer)
    add_events(pictures, {"labels": pictures.add_figure("labels.png", figure)})
    columns = ("precision", "recall", "f1", "average_precision")
    cells = [
        ["" if math.isnan(rates[c][k]) else float(rates[c][k]) for c in columns]
        for k in range(len(names))
    ]
    rows = [(name, *cells[k], int(rates["support"][k])) for k, name in enumerate(names)]
    pictures.add_csv("classes.csv", ["class", *columns, "images"], rows)
    shares = ", ".join(
        f"{name} {value:.2%}" for name, value in metrics.items() if name != "accuracy"
    )
    printer.say(
        f"{shares}; every label right: {metrics['accuracy']:.2%} of {len(images):,} images\n"
    )
    lines = [(name, *(_percent(float(rates[c][k])) for c in columns), int(rates["support"][k]))
             for k, name in enumerate(names)]  # fmt: skip
    if len(lines) > MAX_LINES:
        order = sorted(
            range(len(names)), key=lambda k: (math.isnan(rates["recall"][k]), rates["recall"][k])
        )
        lines = [lines[k] for k in order[:MAX_LINES]]
        printer.say(
            f"the {MAX_LINES} of {len(names):,} classes with the lowest recall; classes.csv has all"
        )
    printer.say(
        table(["class", "precision", "recall", "f1", "average precision", "images"], lines) + "\n"
    )
    return {
        **metrics,
        "num_images": len(images),
        "classes": names,
        "matrix": found.matrices.tolist(),
        **{column: _without_nan(rates[column]) for column in columns},
    }


def _print_tables(printer: Printer, found: "Evaluation", names: tuple[str, ...]) -> None:
    from ptkit.looking.evaluation import most_confused

    right, total = int(found.matrix.trace()), len(found.labels)
    printer.say(
        f"accuracy {found.accuracy:.2%} ± {found.standard_error:.2%} ({right:,} of {total:,}"
        " images)\n"
    )
    rates = found.per_class
    rows = [
        (
            name,
            *(_percent(float(rates[key][k])) for key in ("precision", "recall", "f1")),
            int(rates["support"][k]),
        )
        for k, name in enumerate(names)
    ]
    if len(rows) > MAX_LINES:
        # Classes without images have no recall; they are not the lowest.
        lowest = sorted(
            range(len(rows)), key=lambda k: (math.isnan(rates["recall"][k]), rates["recall"][k])
        )
        rows = [rows[k] for k in lowest[:MAX_LINES]]
        printer.say(
            f"the {MAX_LINES} of {len(names):,} classes with the lowest recall; classes.csv has all"
        )
    printer.say(table(["class", "precision", "recall", "f1", "images"], rows) + "\n")
    pairs = most_confused(found.matrix, MAX_PAIRS)
    if pairs:
        lines = [(names[p.true], names[p.predicted], p.count, _percent(p.share)) for p in pairs]
        printer.say(table(["most confused", "taken for", "images", "of the class"], lines) + "\n")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _without_nan(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
