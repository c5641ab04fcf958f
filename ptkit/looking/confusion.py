"""The pictures and tables that `confmat` writes."""

import numpy as np

from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.looking.evaluation import Evaluation, mistakes_of, most_confused, worst_mistakes
from ptkit.plots.confusion import confusion_figure
from ptkit.plots.contact_sheet import Strip, contact_sheet, strip_sheet
from ptkit.plots.fonts import class_labels
from ptkit.plots.saving import PictureFolder
from ptkit.plots.style import percent

NUM_STRIPS, NUM_THUMBNAILS = 10, 8
# Of more classes, confusion.csv and --json leave out the pairs that never occur: nearly all of a
# million and more.
MAX_MATRIX = 1000


def draw_evaluation(
    found: Evaluation,
    images: ImageList,
    names: tuple[str, ...],
    *,
    pictures: PictureFolder,
    num_images: int,
    footer: str,
) -> dict[str, np.ndarray]:
    """Write all pictures and tables and return the pictures by name, uint8 (H, W, 3).

    Without mistakes there are no pictures of any.
    """
    figure = confusion_figure(found.matrix, names, footer=footer)
    drawn = {"confusion": pictures.add_figure("confusion.png", figure)}
    _write_matrix(found, names, pictures)
    _write_classes(found, names, pictures)
    _write_pairs(found, names, pictures)
    _write_mistakes(found, images, names, pictures)
    if worst_mistakes(found).size:
        drawn["pairs"] = _draw_pairs(found, images, names, pictures, footer)
        drawn["mistakes"] = _draw_mistakes(found, images, names, pictures, num_images, footer)
    return drawn


def _write_matrix(found: Evaluation, names: tuple[str, ...], pictures: PictureFolder) -> None:
    if len(names) > MAX_MATRIX:
        cells = zip(*np.nonzero(found.matrix), strict=True)
        pairs = [
            (names[true], names[predicted], int(found.matrix[true, predicted]))
            for true, predicted in cells
        ]
        pictures.add_csv("confusion.csv", ["true", "predicted", "images"], pairs)
        return
    rows = [(name, *counts) for name, counts in zip(names, found.matrix.tolist(), strict=True)]
    pictures.add_csv("confusion.csv", ["true \\ predicted", *names], rows)


def _write_classes(found: Evaluation, names: tuple[str, ...], pictures: PictureFolder) -> None:
    rates = found.per_class
    columns = ("precision", "recall", "f1")
    rows = [
        (
            name,
            *("" if np.isnan(rates[c][k]) else float(rates[c][k]) for c in columns),
            int(rates["support"][k]),
        )
        for k, name in enumerate(names)
    ]
    pictures.add_csv("classes.csv", ["class", *columns, "images"], rows)


def _write_pairs(found: Evaluation, names: tuple[str, ...], pictures: PictureFolder) -> None:
    pairs = most_confused(found.matrix, found.matrix.size)
    rows = [(names[pair.true], names[pair.predicted], pair.count, pair.share) for pair in pairs]
    pictures.add_csv("pairs.csv", ["true", "predicted", "images", "share_of_true"], rows)


def _write_mistakes(
    found: Evaluation, images: ImageList, names: tuple[str, ...], pictures: PictureFolder
) -> None:
    rows = []
    for index in worst_mistakes(found).tolist():
        true, predicted = int(found.labels[index]), int(found.predictions[index])
        chances = found.probabilities[index]
        rows.append(
            (
                images.listed_path(index),
                names[true],
                names[predicted],
                float(chances[true]),
                float(chances[predicted]),
            )
        )
    header = ["path", "true", "predicted", "probability_of_true", "probability_of_predicted"]
    pictures.add_csv("mistakes.csv", header, rows)


def _draw_pairs(
    found: Evaluation,
    images: ImageList,
    names: tuple[str, ...],
    pictures: PictureFolder,
    footer: str,
) -> np.ndarray:
    labels = class_labels(names)
    strips = []
    for pair in most_confused(found.matrix, NUM_STRIPS):
        thumbnails = [_read(images, index) for index in mistakes_of(found, pair, NUM_THUMBNAILS)]
        line = f"{pair.count:,} of {found.matrix[pair.true].sum():,} ({percent(pair.share)})"
        strips.append(
            Strip(f"“{labels[pair.true]}” taken for “{labels[pair.predicted]}”", line, thumbnails)
        )
    num_pairs = len(most_confused(found.matrix, found.matrix.size))
    title = f"What do confused classes look like? {strips[0].heading}: {strips[0].line}"
    shown = f"{len(strips):,} of {num_pairs:,} confused pairs"
    notes = [f"{shown}; up to {NUM_THUMBNAILS} images each, the surest mistakes first."]
    return pictures.add_figure(
        "pairs.png", strip_sheet(strips, title=title, notes=notes, footer=footer)
    )


def _draw_mistakes(
    found: Evaluation,
    images: ImageList,
    names: tuple[str, ...],
    pictures: PictureFolder,
    num_images: int,
    footer: str,
) -> np.ndarray:
    labels = class_labels(names)
    worst = worst_mistakes(found)
    captions = []
    for index in worst[:num_images].tolist():
        true, predicted = int(found.labels[index]), int(found.predictions[index])
        chances = found.probabilities[index]
        captions.append(
            (
                images.listed_path(index),
                f"true: {labels[true]} ({percent(float(chances[true]))})",
                f"predicted: {labels[predicted]} ({percent(float(chances[predicted]))})",
            )
        )
    first = worst[0]
    sureness = percent(float(found.probabilities[first, found.predictions[first]]))
    pair = f"“{labels[found.labels[first]]}” taken for “{labels[found.predictions[first]]}”"
    figure = contact_sheet(
        [_read(images, index) for index in worst[:num_images]],
        captions,
        title=f"Which mistakes are the worst? {pair} with {sureness}",
        notes=[
            f"{len(captions):,} of {len(worst):,} mistakes, the smallest probability of the true"
            " class first."
        ],
        footer=footer,
    )
    return pictures.add_figure("mistakes.png", figure)


def _read(images: ImageList, index: int) -> np.ndarray:
    return decoder.read(images.image_path(int(index)))
