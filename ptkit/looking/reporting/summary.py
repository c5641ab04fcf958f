"""A run in words, its curves, its settings and how to repeat it, as parts of a page."""

import shlex
from dataclasses import fields

import numpy as np

from ptkit.core.comparing.differences import metric_text
from ptkit.core.comparing.runs import Predictions, value_text
from ptkit.core.config.settings import DataSettings
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.diagnosis.chance import is_as_majority
from ptkit.core.shares import is_share
from ptkit.core.training.tasks.metrics import majority_of
from ptkit.core.wording import counted, duration
from ptkit.looking.reporting.charts import as_row, chart, lines_of
from ptkit.looking.reporting.gather import Missing, Reported
from ptkit.looking.reporting.markup import Html, joined, tag
from ptkit.plots.style import number, percent

# Settings that are paths of the data.
DATA_PATHS = {f"data.{each.name}" for each in fields(DataSettings) if each.metadata["is_path"]}
_NO_EPOCH = Missing("no epoch was finished")


def summary_section(report: Reported) -> Html | Missing:
    """Return the result with its interval, what guessing would give, and what was trained."""
    run = report.run
    if not run.rows:
        return tag("p", "The run ended before its first epoch did.")
    metric = run.main
    value = tag("span", metric_text(metric, run.metrics[metric]), class_="value")
    found = run.predictions
    told = f" {metric} in validation"
    if found is not None:
        low, high = (metric_text(metric, end) for end in found.intervals[metric])
        told += f", 95% interval {low} to {high}, {counted(len(found.paths), 'image')}"
    lines = [tag("p", value, told, class_="headline")]
    lines += [tag("p", text) for text in _sentences(report)]
    if told := report.told_changes:
        now = "" if isinstance(report.check, Missing) else ", “The data” is of them as they are now"
        lines.append(tag("p", f"{told[0].upper()}{told[1:]}{now}."))
    return joined(lines)


def curves_section(report: Reported) -> Html | Missing:
    """Return loss, main metric and rate over the epochs."""
    run, found = report.run, report.run.predictions
    if not run.rows:
        return _NO_EPOCH
    metric, baseline = run.main, None
    if found is not None and found.kind == SINGLE and metric == "accuracy":
        baseline = ("always the same class", majority_of(found.truth, found.names).share)
    columns = {
        "Loss": {"train_loss": ("training", "train"), "valid_loss": ("validation", "valid")},
        metric.capitalize(): {
            f"train_{metric}": ("training", "train"), f"valid_{metric}": ("validation", "valid")
        },
        "Learning rate": {"lr": ("first group", "train")},
    }  # fmt: skip
    charts = []
    for title, named in columns.items():
        if lines := lines_of(run.rows, named):
            is_metric = title == metric.capitalize()
            marked = baseline if is_metric else None
            words = percent if is_metric and is_share(metric) else number
            best = None if title == "Learning rate" else run.best["epoch"]
            charts.append(chart(title, lines, baseline=marked, best_epoch=best, words=words))
    return as_row(charts) if charts else Missing("no number of its epochs is finite")


def settings_section(report: Reported) -> Html | Missing:
    """Return every setting; without images, those that are paths of the data are left out."""
    hidden = set() if report.with_images else DATA_PATHS
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", value_text(value)))
        for name, value in report.run.setting.items()
        if name not in hidden
    ]
    table = tag("div", tag("table", tag("tbody", *rows), class_="plain"), class_="wide")
    return tag("details", tag("summary", counted(len(rows), "setting")), table)


def repeat_section(report: Reported) -> Html | Missing:
    """Return the command that repeats the run, and the one that continues it to its end."""
    file = shlex.quote(str(report.run.folder / "config.toml"))
    again = tag("p", tag("code", f"ptkit train --config {file}"))
    if report.continuation is None:
        return again
    return joined([tag("p", "to continue it: ", tag("code", report.continuation)), again])


def _sentences(report: Reported) -> list[str]:
    run, settings = report.run, report.settings
    epochs = f"{counted(len(run.rows), 'epoch')} of {settings.train.epochs}"
    seconds = duration(sum(row.get("seconds", 0.0) for row in run.rows))
    best = f"the best was epoch {run.best['epoch']:.0f}"
    texts = [f"{epochs} in {seconds} (without start and pictures); {best}."]
    if run.predictions is None:
        texts.insert(0, "The run has not reached its end: these are the numbers of its best epoch.")
    else:
        texts.insert(0, _against_guessing(run.predictions))
    weights, lr = settings.model.weights, settings.optimizer.lr
    parts = [
        settings.model.call,
        f"from the weights {weights}" if weights else None,
        # A probe has neither loss nor optimizer.
        settings.loss.call,
        settings.optimizer.call,
        None if lr is None else f"lr {lr:g}",
        f"seed {settings.train.seed}",
    ]
    return [*texts, ", ".join(filter(None, parts)) + "."]


def _against_guessing(found: Predictions) -> str:
    """Return what the best answer that is the same for every image would reach."""
    if found.kind == SINGLE:
        majority = majority_of(found.truth, found.names)
        text = f'Always answering "{majority.name}" would be right for {majority.share:.1%} of them'
        accuracy, total = float(found.right.mean()), len(found.paths)
        if is_as_majority(accuracy, share=majority.share, total=total):
            return f"{text}: the run is not told from that."
        return f"{text}: the run is better than that."
    if found.kind == REGRESSION:
        error = np.abs(found.truth - np.median(found.truth, axis=0)).mean()
        return f"Always answering the median would have an mae of {error:.4g}."
    share = found.truth.mean()
    return f"{share:.1%} of all labels are given: a random order would reach about that mAP."
