"""The pictures and tables of an evaluation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ptkit.core.data import images as decoder
from ptkit.looking.evaluation import (
    MAX_MATRIX,
    ConfusedPair,
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

# An image, its class, the predicted class, and the probabilities of both.
Mistake = tuple[int, int, int, float, float]

NUM_STRIPS, NUM_THUMBNAILS = 10, 8


def draw_evaluation(found: Evaluation, pictures: PictureFolder, *, num_images: int = 24) -> None:
    """Write an evaluation as PNG, CSV and TensorBoard images.

    The matrix, the rates of the classes, the most confused pairs and the worst mistakes, the latter
    two only as tables where there are no mistakes. Where images have several classes, the rates.

    num_images: of the picture of mistakes.
    """
    footer = f"{found.images.file}, n = {len(found.images):,} · {found.source}"
    if found.has_several:
        rates, names, mean_ap = found.per_class, found.class_names, found.metrics["map"]
        figure = label_rates(rates, names, mean_ap=mean_ap, footer=footer)
        drawn = {"labels": pictures.add_figure("labels.png", figure)}
    else:
        drawn = _draw_confusion(found, pictures, num_images, footer)
    header = ["class", *found.rates, "images", "recall_low", "recall_high"]
    intervals = (interval or (None, None) for interval in found.recall_intervals())
    rows = zip(found.class_rows(), intervals, strict=True)
    pictures.add_csv("classes.csv", header, [(*row, *interval) for row, interval in rows])
    add_events(pictures, drawn)


def _draw_confusion(
    found: Evaluation, pictures: PictureFolder, num_images: int, footer: str
) -> dict[str, np.ndarray]:
    pairs, mistakes = most_confused(found.matrix), _mistakes(found)
    figure = confusion_figure(found.matrix, found.class_names, footer=footer)
    drawn = {"confusion": pictures.add_figure("confusion.png", figure)}
    pictures.add_csv("confusion.csv", *matrix_table(found.matrix, found.class_names))
    _write_pairs(found, pictures, pairs)
    _write_mistakes(found, pictures, mistakes)
    if mistakes:
        figure = _pairs_figure(found, pairs, footer)
        drawn["pairs"] = pictures.add_figure("pairs.png", figure)
        figure = _mistakes_figure(found, mistakes, num_images, footer)
        drawn["mistakes"] = pictures.add_figure("mistakes.png", figure)
    return drawn


def matrix_table(
    matrix: np.ndarray, names: Sequence[str]
) -> tuple[list[str], Sequence[Sequence[object]]]:
    """Return a confusion matrix as a header and rows; of many classes only the pairs that occur."""
    if len(names) > MAX_MATRIX:
        cells = np.argwhere(matrix).tolist()
        counts = [(names[true], names[said], matrix[true, said]) for true, said in cells]
        return ["true", "predicted", "images"], counts
    rows = [(name, *counts) for name, counts in zip(names, matrix.tolist(), strict=True)]
    return ["true \\ predicted", *names], rows


def _write_pairs(found: Evaluation, pictures: PictureFolder, pairs: list[ConfusedPair]) -> None:
    names = found.class_names
    rows = [(names[pair.true], names[pair.predicted], pair.count, pair.share) for pair in pairs]
    pictures.add_csv("pairs.csv", ["true", "predicted", "images", "share_of_true"], rows)


def _write_mistakes(found: Evaluation, pictures: PictureFolder, mistakes: list[Mistake]) -> None:
    names, path = found.class_names, found.images.listed_path
    rows = [
        (path(index), names[true], names[predicted], *probabilities)
        for index, true, predicted, *probabilities in mistakes
    ]
    header = ["path", "true", "predicted", "probability_of_true", "probability_of_predicted"]
    pictures.add_csv("mistakes.csv", header, rows)


def _pairs_figure(found: Evaluation, pairs: list[ConfusedPair], footer: str) -> Figure:
    labels, strips = class_labels(found.class_names), []
    for pair in pairs[:NUM_STRIPS]:
        indices = mistakes_of(found, pair, NUM_THUMBNAILS).tolist()
        heading = f"“{labels[pair.true]}” taken for “{labels[pair.predicted]}”"
        line = f"{pair.count:,} of {found.matrix[pair.true].sum():,} ({percent(pair.share)})"
        strips.append(Strip(heading, line, _pixels(found, indices)))
    title = f"What do confused classes look like? {strips[0].heading}: {strips[0].line}"
    shown = f"{len(strips):,} of {len(pairs):,} confused pairs"
    notes = [f"{shown}; up to {NUM_THUMBNAILS} images each, the surest mistakes first."]
    return strip_sheet(strips, title=title, notes=notes, footer=footer)


def _mistakes_figure(
    found: Evaluation, mistakes: list[Mistake], num_images: int, footer: str
) -> Figure:
    shown, labels = mistakes[:num_images], class_labels(found.class_names)
    captions = [
        (
            f"{rank}  {found.images.listed_path(index)}",
            f"true: {labels[true]} ({percent(of_true)})",
            f"predicted: {labels[predicted]} ({percent(of_predicted)})",
        )
        for rank, (index, true, predicted, of_true, of_predicted) in enumerate(shown, 1)
    ]
    _, true, predicted, _, confidence = mistakes[0]
    pair = f"“{labels[true]}” taken for “{labels[predicted]}” with {percent(confidence)}"
    count = f"{len(shown):,} of {len(mistakes):,} mistakes"
    title = f"Which mistakes are the worst? {pair}"
    notes = [f"{count}, the smallest probability of the true class first."]
    drawn = _pixels(found, [index for index, *_ in shown])
    return contact_sheet(drawn, captions, title=title, notes=notes, footer=footer)


def _mistakes(found: Evaluation) -> list[Mistake]:
    """Return all mistakes, the worst first."""
    worst = worst_mistakes(found)
    true, predicted = found.labels[worst], found.answers[worst]
    probabilities = (found.probabilities[worst, classes].tolist() for classes in (true, predicted))
    return list(zip(worst.tolist(), true.tolist(), predicted.tolist(), *probabilities, strict=True))


def _pixels(found: Evaluation, indices: Sequence[int]) -> list[np.ndarray]:
    paths = map(found.images.image_path, indices)
    return [decoder.read(path, alpha=found.alpha) for path in paths]
