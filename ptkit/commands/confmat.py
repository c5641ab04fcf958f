"""`ptkit confmat`."""

from typing import TYPE_CHECKING, Unpack

from ptkit.api import evaluation
from ptkit.commands import options
from ptkit.commands.output import Printer, end_without, naming_on_bad
from ptkit.commands.pictures import report_pictures, say_missing_font
from ptkit.core.ranks import rank_of_environment
from ptkit.core.wording import absent_note, counted, table, trained_on_note

if TYPE_CHECKING:
    from ptkit.looking.evaluation import Evaluation

# Of a table with more lines, the lowest ones are printed; the file has all of them.
MAX_LINES, MAX_PAIRS = 30, 10
# As people write them.
METRIC_NAMES = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "top5": "top-5",
}


@options.reads_images
@options.writes_names
@options.for_bare_weights
@naming_on_bad()
def confmat(
    printer: Printer,
    ckpt: options.CheckpointOrOnnx,
    list_file: options.ListFile,
    num_images: options.NumImages = 24,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    on_bad: options.OnBad = "stop",
    root: options.Root = None,
    out: options.Out = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Test a model on a list: accuracy, confusion matrix, precision and recall per class, worst
    mistakes.

    Written as PNG and CSV: the matrix, the classes, the most confused pairs with some of their
    images, and the mistakes. The picture of these shows --num-images, those with the smallest
    probability of the true class. Where images have several labels: precision, recall, F1 and
    average precision of each class.

    Example: ptkit confmat ckpt.pkl test.txt
    """
    from ptkit.core.distributed import joined
    from ptkit.looking.calibration_pictures import draw_coverage
    from ptkit.looking.confusion import draw_evaluation
    from ptkit.looking.pictures import picture_folder

    with joined():
        found = evaluation.evaluate(
            ckpt, list_file, device=device, workers=workers, on_bad=on_bad, root=root, **answers
        )
    if not rank_of_environment().is_main:
        return
    for note in found.notes:
        printer.say(note)
    # Before the pictures: a disk that refuses them does not cost the numbers.
    _print_tables(printer, found)
    with picture_folder("confmat", run=found.run, out=out) as pictures:
        draw_evaluation(found, pictures, num_images=num_images)
        if found.unknown is not None:
            draw_coverage(found, pictures)
    say_missing_font(printer, found.class_names)
    report_pictures(printer, pictures, **found.as_dict())
    end_without(found.skipped)


def _print_tables(printer: Printer, found: "Evaluation") -> None:
    from ptkit.looking.evaluation import MAX_MATRIX, most_confused

    num_classes, names = len(found.class_names), found.class_names
    printer.say("\n".join(_scores(found)) + "\n")
    if found.num_ignored:
        printer.say(
            f"{counted(found.num_ignored, 'image')} left out: the model's loss ignored their"
            " class\n"
        )
    if found.unknown is not None:
        printer.say(_answered(found) + "\n")
    if count := found.num_trained_on:
        others = "no other is left to test it on"
        if found.unseen is not None:
            others = f"without them: {'; '.join(_scores(found.unseen))}"
        printer.say(f"{trained_on_note(count, len(found.labels))}; {others}\n")
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
    if found.has_several:
        return
    if pairs := most_confused(found.matrix, MAX_PAIRS):
        lines = [(names[p.true], names[p.predicted], p.count, _percent(p.share)) for p in pairs]
        printer.say(table(["most confused", "taken for", "images", "of the class"], lines) + "\n")
    if num_classes > MAX_MATRIX:
        printer.say(
            f"confusion.csv has the pairs of the {num_classes:,} classes that occur, not the whole"
            " matrix\n"
        )


def _scores(found: "Evaluation") -> tuple[str, str]:
    """Return the accuracy in words, and the other metrics."""
    from ptkit.core.shares import share_text

    right, total = found.num_right, len(found.labels)
    accuracy = f"{share_text(right, total)}, {right:,} of {counted(total, 'image')}"
    others = ", ".join(
        f"{METRIC_NAMES.get(name, name)} {value:.2%}"
        for name, value in found.metrics.items()
        if name != "accuracy"
    )
    if found.has_several:
        return f"every label right: {accuracy}", others
    if num_absent := int((found.per_class["support"] == 0).sum()):
        others += f"; {absent_note(num_absent, len(found.class_names), 'macro F1 leaves')}"
    return f"accuracy {accuracy}, {found.majority}", others


def _answered(found: "Evaluation") -> str:
    """Return how many of the images `ptkit predict` answers, and how right it is then."""
    from ptkit.core.shares import share_text

    right, answered = found.num_right_answered, found.num_answered
    share = f"; accuracy among them {share_text(right, answered)}" if answered else ""
    return f"answered, not unknown: {share_text(answered, len(found.labels))} of the images{share}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
