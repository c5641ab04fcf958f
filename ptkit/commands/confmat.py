"""`ptkit confmat`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_device, table
from ptkit.commands.pictures import say_files, say_missing_font

if TYPE_CHECKING:
    from ptkit.looking.evaluation import Evaluation

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
    images, and the mistakes. The picture of these shows --num-images, those with the smallest
    probability of the true class. Where images have several labels: precision, recall, F1 and
    average precision of each class.

    Example: ptkit confmat ckpt.pkl test.txt
    """
    from ptkit.looking.confusion import draw_evaluation
    from ptkit.looking.evaluation import evaluate_list
    from ptkit.looking.subject import load_subject, output_folder
    from ptkit.plots.saving import PictureFolder

    check_device(device)
    printer = Printer(as_json=as_json, quiet=quiet)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    found = evaluate_list(subject, list_file, classes=classes, device=device, workers=workers)
    # Before the pictures: a disk that refuses them does not cost the numbers.
    _print_tables(printer, found)
    folder = output_folder(subject.weights.run, command=COMMAND, out=out)
    with PictureFolder(folder, command=COMMAND) as pictures:
        source = subject.weights.described
        draw_evaluation(found, pictures, source=source, num_images=num_images)
    say_missing_font(printer, found.class_names)
    say_files(printer, pictures)
    printer.result({**found.as_dict(), "files": list(map(str, pictures.files))})


def _print_tables(printer: Printer, found: "Evaluation") -> None:
    from ptkit.looking.evaluation import MAX_MATRIX, most_confused

    total, num_classes = len(found.labels), len(found.class_names)
    if found.has_several:
        shares = [f"{name} {value:.2%}" for name, value in found.metrics.items()]
        printer.say(
            f"{', '.join(shares[:-1])}; every label right: {found.accuracy:.2%} of"
            f" {total:,} images\n"
        )
    else:
        right = int(found.matrix.trace())
        printer.say(
            f"accuracy {found.accuracy:.2%} ± {found.standard_error:.2%} ({right:,} of {total:,}"
            " images)\n"
        )
    rows = found.class_rows()
    if len(rows) > MAX_LINES:
        # Classes without images have no recall; they are not the lowest.
        recall = 1 + found.rates.index("recall")
        rows.sort(key=lambda row: (row[recall] is None, row[recall] or 0))
        printer.say(
            f"the {MAX_LINES} of {num_classes:,} classes with the lowest recall; classes.csv has"
            " all"
        )
    rates = [name.replace("_", " ") for name in found.rates]
    lines = [(name, *map(_percent, shares), count) for name, *shares, count in rows[:MAX_LINES]]
    printer.say(table(["class", *rates, "images"], lines) + "\n")
    pairs = [] if found.has_several else most_confused(found.matrix, MAX_PAIRS)
    if pairs:
        names = found.class_names
        lines = [(names[p.true], names[p.predicted], p.count, _percent(p.share)) for p in pairs]
        printer.say(table(["most confused", "taken for", "images", "of the class"], lines) + "\n")
    if not found.has_several and num_classes > MAX_MATRIX:
        printer.say(
            f"confusion.csv has the pairs of the {num_classes:,} classes that occur, not the whole"
            " matrix\n"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
