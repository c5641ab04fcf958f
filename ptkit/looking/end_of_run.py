"""The end of a run: its curves, and pictures and predictions of its best epoch."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.data.lists import MULTI, REGRESSION, SINGLE
from ptkit.core.files import write_csv
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.matching import load_state_dict
from ptkit.core.training.observers import Figure
from ptkit.core.training.prediction import Predicted, predict_list
from ptkit.core.training.run_folder import Run
from ptkit.core.training.tasks.metrics import confusion_matrix
from ptkit.core.training.tasks.task import METRICS
from ptkit.looking.showcase import draw_pictures, epoch_of, footer_of
from ptkit.plots.confusion import confusion_figure
from ptkit.plots.curves import learning_curves
from ptkit.plots.saving import save_figure


def write_summaries(run: Run) -> tuple[Path, ...]:
    """Write curves.png, confusion.png (of one class an image), valid_predictions.csv and all
    PICTURES into the run folder.

    Returns their paths. The model is left with its best weights.
    """
    training = run.training
    # The gradients give their memory to the weights that are read.
    training.model.zero_grad(set_to_none=True)
    load_state_dict(training.model, read_checkpoint(run.checkpoint)["state_dict"])
    found = predict_list(training.model, training.valid, task=run.task, dtype=training.dtype)
    files = [_draw_curves(run)]
    if run.task.kind not in (MULTI, REGRESSION):
        files.append(_draw_confusion(run, found))
    files.append(_write_predictions(run, found))
    if run.settings.log.pictures:
        files += draw_pictures(run, found)
    return tuple(files)


def _draw_curves(run: Run) -> Path:
    images, kind = run.training.valid.images, run.task.kind
    is_cross_entropy = kind == SINGLE and "CrossEntropy" in run.training.loss.call.name
    has_classes = kind not in (MULTI, REGRESSION)
    curves = learning_curves(
        run.rows,
        num_valid=len(images),
        metric=next(iter(METRICS[kind])),
        chance_loss=math.log(images.num_classes) if is_cross_entropy else None,
        majority_share=(
            float(np.bincount(images.labels).max() / len(images)) if has_classes else None
        ),
        best_epoch=epoch_of(run),
        footer=str(run.folder),
    )
    run.show(Figure("curves", curves), int(run.rows[-1]["epoch"]))
    return save_figure(curves, run.folder / "curves.png")


def _draw_confusion(run: Run, found: Predicted) -> Path:
    images = run.training.valid.images
    matrix = confusion_matrix(images.labels, found.answers, images.num_classes)
    confusion = confusion_figure(matrix, images.class_names, footer=footer_of(run))
    run.show(Figure("confusion", confusion), epoch_of(run))
    return save_figure(confusion, run.folder / "confusion.png")


def _write_predictions(run: Run, found: Predicted) -> Path:
    images = run.training.valid.images
    header, rows = _table(run, found)
    file = run.folder / "valid_predictions.csv"
    table = ([images.listed_path(index), *row] for index, row in enumerate(rows))
    write_csv(file, ["path", *header], table)
    return file


def _table(run: Run, found: Predicted) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """Return the header and rows of the predictions, by the kind of task."""
    images = run.training.valid.images
    names, truth = images.class_names, zip(found.values, found.answers, images.labels, strict=True)
    if run.task.kind in (MULTI, REGRESSION):
        answer = "predicted" if run.task.kind == REGRESSION else "probability of"
        header = [f"{what} {name}" for name in names for what in ("true", answer)]
        return header, (
            [f"{float(v):.6g}" for pair in zip(label, row, strict=True) for v in pair]
            for row, _, label in truth
        )
    return ["true", "predicted", "probability", "probability_of_true"], (
        [names[label], names[best], f"{row[best]:.6g}", f"{row[label]:.6g}"]
        for row, best, label in truth
    )
