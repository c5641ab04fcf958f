"""The end of a run: its curves, and pictures and predictions of its best epoch."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.files import write_csv
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.matching import load_state_dict
from ptkit.core.training.observers import Figure, Watcher
from ptkit.core.training.prediction import Predicted, predict_list, predicted
from ptkit.core.training.probe.report import ProbeReport
from ptkit.core.training.probing import head_outputs
from ptkit.core.training.run_folder import Run
from ptkit.core.training.tasks.metrics import confusion_matrix
from ptkit.core.training.tasks.task import METRICS
from ptkit.looking.confusion import matrix_table
from ptkit.looking.showcase import draw_pictures, epoch_of, footer_of
from ptkit.plots.confusion import confusion_figure
from ptkit.plots.curves import learning_curves
from ptkit.plots.data_budget import data_budget_figure
from ptkit.plots.fonts import missing_font_note, using_font
from ptkit.plots.saving import save_figure


def write_summaries(run: Run, *, watch: Watcher | None = None) -> tuple[Path, ...]:
    """Write curves.png, confusion.png (of one class an image), valid_predictions.csv and all
    PICTURES into the run folder.

    Returns their paths. The model is left with its best weights. watch: is told which class names
    no font has, None for nobody.
    """
    font = run.settings.log.font
    with nullcontext() if font is None else using_font(Path(font)):
        names = run.training.valid.images.class_names
        note = missing_font_note(names, remedy="--set log.font=FILE")
        if note is not None and watch is not None:
            watch.warn(note)
        return _write_all(run)


def _write_all(run: Run) -> tuple[Path, ...]:
    training = run.training
    # The gradients give their memory to the weights that are read.
    training.model.zero_grad(set_to_none=True)
    load_state_dict(training.model, read_checkpoint(run.checkpoint)["state_dict"])
    if (known := run.history.valid_features) is not None:
        found = predicted(head_outputs(training, known), run.task)
    else:
        found = predict_list(training.model, training.valid, task=run.task, dtype=training.dtype)
    found = replace(found, counted=run.task.counted_rows(training.valid.images.labels))
    # None where the user moved the rows of a finished run away.
    files = [_draw_curves(run)] if run.rows else []
    if run.task.kind not in (MULTI, REGRESSION):
        images = training.valid.images
        labels, answers = images.labels[found.rows], found.answers[found.rows]
        matrix = confusion_matrix(labels, answers, images.num_classes)
        confusion = confusion_figure(matrix, images.class_names, footer=footer_of(run))
        run.show(Figure("confusion", confusion), epoch_of(run))
        files.append(save_figure(confusion, run.folder / "confusion.png"))
        write_csv(run.folder / "confusion.csv", *matrix_table(matrix, images.class_names))
        files.append(run.folder / "confusion.csv")
    files.append(_write_predictions(run, found))
    if (report := run.history.probe) is not None:
        # First: of a probe it says more than the curves of its one epoch.
        files.insert(0, _draw_budget(run, report))
    if run.settings.log.pictures:
        files += draw_pictures(run, found)
    return tuple(files)


def _draw_curves(run: Run) -> Path:
    images, kind = run.training.valid.images, run.task.kind
    loss, labels = run.training.loss, images.labels[run.task.counted_rows(images.labels)]
    baselines: dict[str, float] = {}
    if kind not in (MULTI, REGRESSION):
        baselines["majority_share"] = float(np.bincount(labels).max() / len(labels))
        # What the outputs of an untrained network give; of a sum it depends on the list.
        if isinstance(loss.criterion, nn.CrossEntropyLoss) and not loss.is_sum:
            baselines["chance_loss"] = math.log(images.num_classes)
    metric, best, footer = next(iter(METRICS[kind])), epoch_of(run), str(run.folder)
    curves = learning_curves(
        run.rows, num_valid=len(labels), metric=metric, best_epoch=best, footer=footer, **baselines
    )
    run.show(Figure("curves", curves), int(run.rows[-1]["epoch"]))
    return save_figure(curves, run.folder / "curves.png")


def _draw_budget(run: Run, report: ProbeReport) -> Path:
    parts = (*report.budget, *([report.expected] if report.expected else []))
    figure = data_budget_figure(
        [part.num_images for part in parts],
        [part.accuracy for part in parts],
        interval=[part.accuracy_interval for part in parts],
        num_measured=len(report.budget),
        majority=report.majority,
        footer=footer_of(run),
    )
    run.show(Figure("data_budget", figure), epoch_of(run))
    return save_figure(figure, run.folder / "data_budget.png")


def _write_predictions(run: Run, found: Predicted) -> Path:
    """Write a row an image, by the kind of task."""
    images, kind = run.training.valid.images, run.task.kind
    names, rows = images.class_names, zip(found.values, found.answers, images.labels, strict=True)
    if kind in (MULTI, REGRESSION):
        answer = "predicted" if kind == REGRESSION else "probability of"
        header = [f"{what} {name}" for name in names for what in ("true", answer)]
        table = (
            [f"{float(v):.6g}" for pair in zip(label, row, strict=True) for v in pair]
            for row, _, label in rows
        )
    else:
        header = ["true", "predicted", "probability", "probability_of_true"]
        table = (
            [names[label], names[best], f"{row[best]:.6g}", f"{row[label]:.6g}"]
            for row, best, label in rows
        )
        if run.task.counted is not None:
            # Images of a class that the loss ignores are in no accuracy.
            counts = run.task.counted.tolist()
            header.append("counts")
            table = (
                [*row, str(int(counts[label]))]
                for row, label in zip(table, images.labels.tolist(), strict=True)
            )
    file = run.folder / "valid_predictions.csv"
    lines = ([images.listed_path(index), *row] for index, row in enumerate(table))
    write_csv(file, ["path", *header], lines)
    return file
