"""`ptkit confmat`."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_device, table
from ptkit.commands.pictures import add_events, say_files, say_missing_font

if TYPE_CHECKING:
    from ptkit.core.analysis.evaluation import Evaluation

COMMAND = "confmat"
# Of a table with more lines, the lowest ones are printed; the file has all of them.
MAX_LINES, MAX_PAIRS = 30, 10


def confmat(
    ckpt: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or bare weights.")],
    list_file: Annotated[Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")],
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
    """Test a model on a list: accuracy, confusion matrix, precision and recall per class, worst mistakes.

    Written as PNG and CSV: the matrix, the classes, the most confused pairs with some of their images, and the
    mistakes, of which the picture shows --num-images, those with the smallest probability of the true class.

    Example: ptkit confmat ckpt.pkl test.txt
    """
    from ptkit.commands.confusion_pictures import draw_evaluation
    from ptkit.core.analysis.evaluation import evaluate, read_matching_list
    from ptkit.core.analysis.subject import load_subject, output_folder
    from ptkit.core.data.batches import Batches
    from ptkit.core.data.pipeline import Pipeline
    from ptkit.core.training.device import choose_device
    from ptkit.plots.saving import PictureFolder

    check_device(device)
    printer = Printer(as_json=as_json, quiet=quiet)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    images, names = read_matching_list(list_file, subject, classes=classes)
    pipeline = Pipeline.parse(subject.pipeline, allow_user_code=False)
    place = choose_device(device)
    batch_size = 256 if (subject.size or 224) <= 64 else 64
    batches = Batches(images, pipeline, batch_size=batch_size, device=place, workers=workers)
    network = subject.model.to(place)
    found = evaluate(network, batches, num_classes=len(names), activation=subject.activation)
    footer = f"{list_file}, n = {len(images):,} · {subject.described}"
    with PictureFolder(output_folder(subject.run, command=COMMAND, out=out), command=COMMAND) as pictures:
        drawn = draw_evaluation(found, images, names, pictures=pictures, num_images=num_images, footer=footer)
        add_events(pictures, drawn)
    say_missing_font(printer, names)
    _print_tables(printer, found, names)
    say_files(printer, pictures)
    rates = found.per_class
    printer.result(
        {
            "accuracy": found.accuracy,
            "num_images": len(images),
            "classes": names,
            "matrix": found.matrix.tolist(),
            "precision": _without_nan(rates["precision"]),
            "recall": _without_nan(rates["recall"]),
            "files": list(map(str, pictures.files)),
        }
    )


def _print_tables(printer: Printer, found: "Evaluation", names: tuple[str, ...]) -> None:
    from ptkit.core.analysis.evaluation import most_confused

    right, total = int(found.matrix.trace()), len(found.labels)
    printer.say(f"accuracy {found.accuracy:.2%} ± {found.standard_error:.2%} ({right:,} of {total:,} images)\n")
    rates = found.per_class
    rows = [
        (name, *(_percent(float(rates[key][k])) for key in ("precision", "recall", "f1")), int(rates["support"][k]))
        for k, name in enumerate(names)
    ]
    if len(rows) > MAX_LINES:
        # Classes without images have no recall; they are not the lowest.
        lowest = sorted(range(len(rows)), key=lambda k: (math.isnan(rates["recall"][k]), rates["recall"][k]))
        rows = [rows[k] for k in lowest[:MAX_LINES]]
        printer.say(f"the {MAX_LINES} of {len(names):,} classes with the lowest recall; classes.csv has all")
    printer.say(table(["class", "precision", "recall", "f1", "images"], rows) + "\n")
    pairs = most_confused(found.matrix, MAX_PAIRS)
    if pairs:
        lines = [(names[p.true], names[p.predicted], p.count, _percent(p.share)) for p in pairs]
        printer.say(table(["most confused", "taken for", "images", "of the class"], lines) + "\n")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _without_nan(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
