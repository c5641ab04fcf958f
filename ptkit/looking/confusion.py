"""The pictures and tables of an evaluation."""

import numpy as np

from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.looking.evaluation import (
    MAX_MATRIX,
    Evaluation,
    mistakes_of,
    most_confused,
    worst_mistakes,
)
from ptkit.looking.pictures import add_events
from ptkit.plots.confusion import confusion_figure
from ptkit.plots.contact_sheet import Strip, contact_sheet, strip_sheet
from ptkit.plots.fonts import class_labels
from ptkit.plots.label_rates import label_rates
from ptkit.plots.saving import PictureFolder
from ptkit.plots.style import percent

NUM_STRIPS, NUM_THUMBNAILS = 10, 8


def draw_evaluation(found: Evaluation, pictures: PictureFolder, *, num_images: int = 24) -> None:
    """Write an evaluation as PNG, CSV and TensorBoard images.

    The matrix, the rates of the classes, the most confused pairs and the worst mistakes, the latter
    two only as tables where there are no mistakes. Where images have several classes, the rates.

    num_images: of the picture of mistakes.
    """
    footer = f"{found.images.file}, n = {len(found.images):,} · {found.source}"
    if found.has_several:
        drawn = _draw_rates(found, pictures, footer)
    else:
        drawn = _draw_confusion(found, pictures, num_images, footer)
    pictures.add_csv("classes.csv", ["class", *found.rates, "images"], found.class_rows())
    add_events(pictures, drawn)


def _draw_rates(found: Evaluation, pictures: PictureFolder, footer: str) -> dict[str, np.ndarray]:
    mean = found.metrics["map"]
    figure = label_rates(
        found.per_class, found.class_names, mean_average_precision=mean, footer=footer
    )
    return {"labels": pictures.add_figure("labels.png", figure)}


def _draw_confusion(
    found: Evaluation, pictures: PictureFolder, num_images: int, footer: str
) -> dict[str, np.ndarray]:
    figure = confusion_figure(found.matrix, found.class_names, footer=footer)
    drawn = {"confusion": pictures.add_figure("confusion.png", figure)}
    _write_matrix(found, pictures)
    _write_pairs(found, pictures)
    _write_mistakes(found, pictures)
    if worst_mistakes(found).size:
        drawn["pairs"] = _draw_pairs(found, pictures, footer)
        drawn["mistakes"] = _draw_mistakes(found, pictures, num_images, footer)
    return drawn


def _write_matrix(found: Evaluation, pictures: PictureFolder) -> None:
    names = found.class_names
    if len(names) > MAX_MATRIX:
        cells = zip(*np.nonzero(found.matrix), strict=True)
        pairs = [(names[true], names[said], int(found.matrix[true, said])) for true, said in cells]
        pictures.add_csv("confusion.csv", ["true", "predicted", "images"], pairs)
        return
    rows = [(name, *counts) for name, counts in zip(names, found.matrix.tolist(), strict=True)]
    pictures.add_csv("confusion.csv", ["true \\ predicted", *names], rows)


def _write_pairs(found: Evaluation, pictures: PictureFolder) -> None:
    names = found.class_names
    pairs = most_confused(found.matrix, found.matrix.size)
    rows = [(names[pair.true], names[pair.predicted], pair.count, pair.share) for pair in pairs]
    pictures.add_csv("pairs.csv", ["true", "predicted", "images", "share_of_true"], rows)


def _write_mistakes(found: Evaluation, pictures: PictureFolder) -> None:
    names, path = found.class_names, found.images.listed_path
    rows = [
        (path(index), names[true], names[predicted], *chances)
        for index, true, predicted, *chances in _mistakes(found)
    ]
    header = ["path", "true", "predicted", "probability_of_true", "probability_of_predicted"]
    pictures.add_csv("mistakes.csv", header, rows)


def _draw_pairs(found: Evaluation, pictures: PictureFolder, footer: str) -> np.ndarray:
    images, labels = found.images, class_labels(found.class_names)
    pairs, strips = most_confused(found.matrix, found.matrix.size), []
    for pair in pairs[:NUM_STRIPS]:
        thumbnails = [_read(images, index) for index in mistakes_of(found, pair, NUM_THUMBNAILS)]
        heading = f"“{labels[pair.true]}” taken for “{labels[pair.predicted]}”"
        line = f"{pair.count:,} of {found.matrix[pair.true].sum():,} ({percent(pair.share)})"
        strips.append(Strip(heading, line, thumbnails))
    title = f"What do confused classes look like? {strips[0].heading}: {strips[0].line}"
    shown = f"{len(strips):,} of {len(pairs):,} confused pairs"
    notes = [f"{shown}; up to {NUM_THUMBNAILS} images each, the surest mistakes first."]
    figure = strip_sheet(strips, title=title, notes=notes, footer=footer)
    return pictures.add_figure("pairs.png", figure)


def _draw_mistakes(
    found: Evaluation, pictures: PictureFolder, num_images: int, footer: str
) -> np.ndarray:
    images, labels = found.images, class_labels(found.class_names)
    mistakes = _mistakes(found)
    shown = mistakes[:num_images]
    captions = [
        (
            images.listed_path(index),
            f"true: {labels[true]} ({percent(of_true)})",
            f"predicted: {labels[predicted]} ({percent(of_predicted)})",
        )
        for index, true, predicted, of_true, of_predicted in shown
    ]
    _, true, predicted, _, sureness = mistakes[0]
    pair = f"“{labels[true]}” taken for “{labels[predicted]}” with {percent(sureness)}"
    count = f"{len(shown):,} of {len(mistakes):,} mistakes"
    figure = contact_sheet(
        [_read(images, index) for index, *_ in shown],
        captions,
        title=f"Which mistakes are the worst? {pair}",
        notes=[f"{count}, the smallest probability of the true class first."],
        footer=footer,
    )
    return pictures.add_figure("mistakes.png", figure)


def _mistakes(found: Evaluation) -> list[tuple[int, int, int, float, float]]:
    """Return the mistakes, the worst first: the image, its class, the predicted class, and the
    probabilities of both.
    """
    worst = worst_mistakes(found)
    true, predicted = found.labels[worst], found.answers[worst]
    chances = (found.probabilities[worst, classes].tolist() for classes in (true, predicted))
    return list(zip(worst.tolist(), true.tolist(), predicted.tolist(), *chances, strict=True))


def _read(images: ImageList, index: int) -> np.ndarray:
    return decoder.read(images.image_path(int(index)))
