"""Runs side by side: their metrics with intervals, what differs, and whether that is chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.comparing.differences import (
    Difference,
    Setting,
    differing,
    metric_text,
    pooled,
    ranked_differences,
    repeated,
    run_differences,
    setting_differences,
)
from ptkit.core.comparing.runs import FoundRun, find_runs, value_text
from ptkit.core.errors import UsageError
from ptkit.core.run_files import resume_command
from ptkit.core.shares import is_less_better
from ptkit.core.wording import check_choice, counted
from ptkit.looking.pictures import picture_folder
from ptkit.plots.comparison import Compared, comparison_figure
from ptkit.plots.saving import PictureFolder

BY = ("run", "setting")


@dataclass(frozen=True)
class Comparison:
    """settings: of pooled runs, else empty. ranked: the differences in AUROC and top-5. left_out:
    why runs of a folder are not in it.
    """

    runs: tuple[FoundRun, ...]
    settings: tuple[Setting, ...]
    differences: tuple[Difference, ...]
    ranked: tuple[Difference, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What decides."""
        return self.runs[0].main

    @property
    def columns(self) -> list[FoundRun]:
        """What is compared: the runs, or the first one of each setting."""
        return [each.runs[0] for each in self.settings] or list(self.runs)

    @property
    def names(self) -> list[str]:
        """What is compared is called so."""
        return [each.name for each in self.settings or self.runs]

    @property
    def metrics(self) -> list[str]:
        """The metrics that all runs have which reached their end; of others only some are known."""
        done = [run for run in self.runs if run.predictions is not None] or self.runs
        return [n for n in done[0].metrics if all(n in run.metrics for run in done)]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` gives."""
        return {
            "metric": self.metric,
            "runs": [_run_dict(run) for run in self.runs],
            "settings": [
                {"runs": [run.name for run in each.runs], "metrics": each.as_dict()}
                for each in self.settings
            ],
            "differing": differing(self.runs),
            "differences": [_difference_dict(each) for each in self.differences],
            "ranked": [_difference_dict(each) for each in self.ranked],
            "left_out": list(self.left_out),
        }


def compare_runs(places: Sequence[Path], *, by: str = "run") -> Comparison:
    """Compare run folders, or all runs in folders of runs; by: BY.

    Raises:
        UsageError: fewer than two runs or settings, or of different kinds of labels.
        DataError: a file of a run that cannot be read.
    """
    check_choice("--by", by, BY)
    found = find_runs(places)
    runs = [run for run in found if run.rows and run.main in run.metrics]
    left_out = tuple(
        f"{run.name} is left out: it has no {'finished epoch' if not run.rows else run.main}"
        for run in found
        if run not in runs
    )
    if len(runs) < 2:
        only = f"only {runs[0].name}" if runs else "none"
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise UsageError(
            f"compare needs two different runs with a finished epoch, found {only}{why}; name"
            " another run, or a folder of runs such as runs/"
        )
    other = next((run for run in runs if run.main != runs[0].main), None)
    if other is not None:
        raise UsageError(
            f"{runs[0].name} is judged by {runs[0].main} and {other.name} by {other.main}: runs of"
            " different kinds of labels cannot be compared"
        )
    if by == "run":
        differences = run_differences(runs)
        ranked = ranked_differences(runs, differences)
        return Comparison(tuple(runs), (), tuple(differences), tuple(ranked), left_out)
    left_out += tuple(
        f"{run.name} is left out: it has not reached its end; `{resume_command(run.folder)}`"
        " continues it"
        for run in runs
        if run.predictions is None
    )
    runs = [run for run in runs if run.predictions is not None]
    if not runs:
        raise UsageError("no run has reached its end: --by setting pools those that have")
    settings = pooled(runs)
    left_out += tuple(
        f"{name} repeats {earlier} with the same seed, and is counted once"
        for name, earlier in repeated(runs).items()
    )
    differences = setting_differences(settings) if len(settings) > 1 else []
    return Comparison(tuple(runs), tuple(settings), tuple(differences), left_out=left_out)


def write_comparison(found: Comparison, out: Path | None = None) -> PictureFolder:
    """Write metrics.csv, settings.csv, differences.csv, images.csv and compare.png into `out`, or
    ./ptkit-compare.

    Raises:
        StorageError: the disk refused. UsageError: a file there is someone else's.
    """
    with picture_folder("compare", out=out) as files:
        figure = comparison_figure(_drawn(found), metric=found.metric, footer=_footer(found))
        files.add_figure("compare.png", figure)
        files.add_csv("metrics.csv", ["run", "metric", "value", "low", "high"], _metric_rows(found))
        names = [run.name for run in found.runs]
        settings = (
            [name, *("" if value in (None, ()) else value_text(value) for value in values)]
            for name, values in differing(found.runs).items()
        )
        files.add_csv("settings.csv", ["setting", *names], settings)
        rows = list(map(_difference_dict, [*found.differences, *found.ranked]))
        if rows:
            files.add_csv("differences.csv", list(rows[0]), (list(row.values()) for row in rows))
        header = ["from", "to", "change", "path", "true", "before", "after"]
        changes = (
            [each.first, each.second, c.kind, c.path, c.true, c.before, c.after]
            for each in found.differences
            for c in each.changes or ()
        )
        files.add_csv("images.csv", header, changes)
    return files


def verdict(found: Difference) -> str:
    """Return in words whether two runs or settings differ, and what would be needed to tell."""
    if found.test is None:
        return f"{found.second} against {found.first}: no test: {found.why_none}"
    counts = ""
    if found.changes is not None:
        what = "" if found.metric == "accuracy" else "every label right: "
        mended, broke = (len(found.changed(kind)) for kind in ("mended", "broke"))
        counts = f"{what}{mended:,} mended, {broke:,} broke, "
    p, unit = f"{counts}{_p_text(found)}", counted(found.num, "run" if found.is_pooled else "image")
    return _clear(found, p=p, unit=unit) if found.is_clear else _unclear(found, p=p, unit=unit)


def _clear(found: Difference, *, p: str, unit: str) -> str:
    """Return which of two is better; unit: how many runs or images say so."""
    values = [metric_text(found.metric, value) for value in found.values]
    if _is_second_better(found):
        better, worse, values = found.second, found.first, values[::-1]
    else:
        better, worse = found.first, found.second
    both = f"{found.metric} {values[0]} against {values[1]}"
    return f"{better} is better than {worse}, with {unit}: {both}; {p}"


def _unclear(found: Difference, *, p: str, unit: str) -> str:
    """Return that two are not told apart, and how many images would tell them."""
    first, second = (metric_text(found.metric, value) for value in found.values)
    needed = ""
    if found.needed is not None and found.needed > found.num:
        needed = f"; about {counted(found.needed, 'image')} would be needed to show this difference"
    elif found.needed is None and not found.is_pooled:
        needed = "; there is no difference to show"
    both = f"{found.second} and {found.first}, {found.metric} {second} against {first}"
    return f"not distinguishable with {unit}: {both}; {p}{needed}"


def ranked_verdict(found: Difference) -> str:
    """Return in words whether two runs differ in AUROC or top-5."""
    values = [metric_text(found.metric, value) for value in found.values]
    both = f"{values[1]} against {values[0]}"
    if found.test is None:
        return f"{found.metric}: {both}, no test: {found.why_none}"
    if not found.is_clear:
        return f"{found.metric}: {both}, not distinguishable; {_p_text(found)}"
    better = found.second if _is_second_better(found) else found.first
    return f"{found.metric}: {both}, {better} is better; {_p_text(found)}"


def _is_second_better(found: Difference) -> bool:
    if found.changes is not None:
        return len(found.changed("mended")) > len(found.changed("broke"))
    first, second = found.values
    return second < first if is_less_better(found.metric) else second > first


def _p_text(found: Difference) -> str:
    assert found.test is not None
    assert found.p is not None
    p = "p < 0.0001" if found.p < 1e-4 else f"p = {found.p:.2g}"
    holm = "" if found.adjusted is None else ", Holm's correction"
    return f"{p} ({found.test.name}{holm})"


def _run_dict(run: FoundRun) -> dict[str, Any]:
    return {
        "run": run.name,
        "finished": run.predictions is not None,
        "epochs": len(run.rows),
        "num_images": None if run.predictions is None else len(run.predictions.paths),
        "metrics": run.metrics,
        "intervals": {name: run.intervals.get(name) for name in run.metrics},
    }


def _difference_dict(found: Difference) -> dict[str, Any]:
    return {
        "first": found.first,
        "second": found.second,
        "metric": found.metric,
        "first_value": found.values[0],
        "second_value": found.values[1],
        "num": found.num,
        "mended": None if found.changes is None else len(found.changed("mended")),
        "broke": None if found.changes is None else len(found.changed("broke")),
        "test": None if found.test is None else found.test.name,
        "p": None if found.test is None else found.test.p,
        "p_adjusted": found.adjusted,
        "is_clear": found.is_clear,
        "images_needed": found.needed,
        "why_none": found.why_none or None,
    }


def _metric_rows(found: Comparison) -> Iterator[list[Any]]:
    for run in found.runs:
        for name, value in run.metrics.items():
            yield [run.name, name, value, *(run.intervals.get(name) or ("", ""))]


def _footer(found: Comparison) -> str:
    """Return how many images the numbers are of, where that is one number."""
    counts = {len(run.predictions.paths) for run in found.runs if run.predictions is not None}
    return f"n = {counts.pop():,} validation images" if len(counts) == 1 else ""


def _drawn(found: Comparison) -> list[Compared]:
    """Return a row a setting where runs are pooled, else a row a run."""
    metric = found.metric
    if not found.settings:
        return [
            Compared(
                run.name,
                run.metrics[metric],
                run.intervals.get(metric),
                (_curve(run, metric),),
            )
            for run in found.runs
        ]
    return [
        Compared(
            each.name,
            each.mean(metric),
            each.interval(metric),
            tuple(_curve(run, metric) for run in each.runs),
        )
        for each in found.settings
    ]


def _curve(run: FoundRun, metric: str) -> tuple[list[float], list[float]]:
    """Return epochs and values of a run's validation metric."""
    rows = [row for row in run.rows if f"valid_{metric}" in row]
    return [row["epoch"] for row in rows], [row[f"valid_{metric}"] for row in rows]
