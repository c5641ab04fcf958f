"""What a finished run is looked at with: curves, confusion matrix and predictions of its best epoch."""

import csv
import io
from pathlib import Path

import numpy as np

from ptkit.core.files import write_atomically
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.transfer import load_state_dict
from ptkit.core.training.live_run import Run
from ptkit.core.training.metrics import confusion_matrix
from ptkit.core.training.prediction import Predicted, predict_list
from ptkit.plots.confusion import confusion_figure
from ptkit.plots.curves import learning_curves
from ptkit.plots.saving import save_figure


def write_summaries(run: Run) -> tuple[Path, ...]:
    """Write curves.png, confusion.png and valid_predictions.csv into the run folder and return their paths.

    The model is left with its best weights.
    """
    training, images = run.training, run.training.valid.images
    load_state_dict(training.model, read_checkpoint(run.checkpoint)["state_dict"])
    found = predict_list(
        training.model, training.valid, activation=training.loss.rule.reading, dtype=training.settings.dtype
    )
    matrix = confusion_matrix(images.labels, found.classes, images.num_classes)
    assert run.best is not None
    footer = f"{images.file.name}, n = {len(images):,}, epoch {int(run.best['epoch'])} of {run.folder}"
    confusion = confusion_figure(matrix, images.class_names, footer=footer)
    majority = float(np.bincount(images.labels).max() / len(images))
    curves = learning_curves(
        run.rows,
        num_classes=images.num_classes,
        majority_share=majority,
        num_valid=len(images),
        best_epoch=int(run.best["epoch"]),
        footer=str(run.folder),
    )
    run.events.figure("confusion", confusion, int(run.best["epoch"]))
    run.events.figure("curves", curves, int(run.rows[-1]["epoch"]))
    return (
        save_figure(curves, run.folder / "curves.png"),
        save_figure(confusion, run.folder / "confusion.png"),
        _write_predictions(run, found),
    )


def _write_predictions(run: Run, found: Predicted) -> Path:
    images = run.training.valid.images
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "true", "predicted", "probability", "probability_of_true"])
    rows = zip(found.probabilities, found.classes, images.labels, strict=True)
    for index, (row, best, label) in enumerate(rows):
        names = images.class_names[label], images.class_names[best]
        writer.writerow([images.listed_path(index), *names, f"{row[best]:.6g}", f"{row[label]:.6g}"])
    file = run.folder / "valid_predictions.csv"
    write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
    return file
