"""Runs against each other: what one has right and the other wrong, and whether that is chance."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ptkit.core.comparing.ranking import paired_test
from ptkit.core.comparing.runs import FoundRun, Predictions, value_text
from ptkit.core.comparing.significance import (
    LEVEL,
    WELCH,
    Test,
    differences_needed,
    holm,
    images_needed,
    mcnemar,
    mean_interval,
    paired_t,
    welch,
)
from ptkit.core.data.labels import REGRESSION
from ptkit.core.run_files import resume_command
from ptkit.core.shares import is_less_better, is_share


@dataclass(frozen=True)
class Change:
    """An image that one run has right and the other wrong. kind: mended or broke, from the first
    run to the second.
    """

    kind: str
    path: str
    true: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """The second of two runs, or settings, against the first one.

    metric: what is compared; values: of both. test: None where there can be none, and why_none says
    why. adjusted: p where several tests were made (Holm's). num: images, or runs of pooled ones.
    needed: how many of them would show this difference; None where unknown or there is none.
    """

    first: str
    second: str
    metric: str
    values: tuple[float, float]
    test: Test | None = None
    why_none: str = ""
    adjusted: float | None = None
    num: int = 0
    needed: int | None = None
    changes: tuple[Change, ...] | None = None

    @property
    def p(self) -> float | None:
        """The chance that decides."""
        if self.test is None or self.adjusted is not None:
            return self.adjusted
        return self.test.p

    @property
    def is_pooled(self) -> bool:
        """Whether settings are compared, over their runs, and not two runs over their images."""
        return self.test is not None and self.test.name == WELCH

    @property
    def is_clear(self) -> bool:
        """Whether the difference is more than chance, at the 5 % level."""
        return self.p is not None and self.p < LEVEL

    def changed(self, kind: str) -> list[Change]:
        """Return the images that were mended, or broke."""
        return [change for change in self.changes or () if change.kind == kind]


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed, or fold, alone.

    values: of each metric, those of the runs.
    """

    name: str
    runs: tuple[FoundRun, ...]
    values: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Return the mean over the runs."""
        return fmean(self.values[metric])

    def deviation(self, metric: str) -> float | None:
        """Return the standard deviation over the runs (n - 1); None of a single one."""
        return stdev(self.values[metric]) if len(self.values[metric]) > 1 else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean, by Student's t; None of a single run. That of a
        share ends at 0 and 1.
        """
        found = mean_interval(self.values[metric])
        if found is None or not is_share(metric):
            return found
        return max(found[0], 0.0), min(found[1], 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` and summary.json give."""
        return {
            metric: {
                "mean": self.mean(metric),
                "std": self.deviation(metric),
                "interval": self.interval(metric),
                "values": values,
            }
            for metric, values in self.values.items()
        }


def series_cells(setting: Setting) -> dict[str, str]:
    """Return each metric as `94.1% ± 0.6% (92.6 to 95.6%)`: mean, deviation and interval of the
    mean.
    """
    return {metric: _mean_text(setting, metric) for metric in setting.values}


def metric_text(metric: str, value: float) -> str:
    """Return a metric as tables show it: shares in percent, errors of numbers as they are."""
    if not is_share(metric):
        return f"{value:.4g}"
    # What is not all does not read 100%.
    texts = (f"{value:.{digits}%}" for digits in range(1, 16))
    return next((text for text in texts if value >= 1 or not text.startswith("100.")), "100.0%")


def differing(runs: Sequence[FoundRun]) -> dict[str, tuple[Any, ...]]:
    """Return the settings that are not alike in all runs: name -> the value of each run."""
    found = {name: tuple(run.setting[name] for run in runs) for name in runs[0].setting}
    return {name: values for name, values in found.items() if len(set(map(value_text, values))) > 1}


def pooled(runs: Sequence[FoundRun]) -> list[Setting]:
    """Put runs of one setting together, in the order of their first ones, without repeated ones."""
    together: dict[Any, list[FoundRun]] = {}
    again = repeated(runs)
    for run in (run for run in runs if run.name not in again):
        together.setdefault(run.pooled_by, []).append(run)
    return [pool(members) for members in together.values()]


def repeated(runs: Sequence[FoundRun]) -> dict[str, str]:
    """Return runs that repeat an earlier one with all its settings, the seed too: name -> the
    earlier name. They say nothing about the spread between seeds.
    """
    first: dict[str, str] = {}
    found = {}
    for run in runs:
        earlier = first.setdefault(
            repr((run.pooled_by, run.settings.train.seed, run.settings.data.train)), run.name
        )
        if earlier != run.name:
            found[run.name] = earlier
    return found


def pool(runs: Sequence[FoundRun]) -> Setting:
    """Return runs as one setting, with the metrics that all of them have."""
    first = runs[0]
    metrics = [name for name in first.metrics if all(name in run.metrics for run in runs)]
    values = {name: tuple(run.metrics[name] for run in runs) for name in metrics}
    parents = {run.folder.parent for run in runs}
    is_series = len(runs) > 1 and len(parents) == 1 and first.is_of_series
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    name = str(first.folder.parent) if is_series else f"{first.name}{others}"
    return Setting(name, tuple(runs), values)


def best_of(values: Sequence[float], metric: str) -> int:
    """Return the index of the best value, of equal ones the first."""
    choose = min if is_less_better(metric) else max
    return values.index(choose(values))


def run_differences(runs: Sequence[FoundRun]) -> list[Difference]:
    """Compare two runs, the second against the first; of more, the best against all others, with
    Holm's correction.
    """
    metric = runs[0].main
    values = [run.metrics[metric] for run in runs]
    best = 1 if len(runs) == 2 else best_of(values, metric)
    pairs = [(run, runs[best]) for run in runs if run is not runs[best]]
    return corrected([between(first, second) for first, second in pairs])


def ranked_differences(
    runs: Sequence[FoundRun], differences: Sequence[Difference]
) -> list[Difference]:
    """Compare the runs of some differences, where these are of the same images, in the metrics of
    their rankings; p has Holm's correction for each metric.
    """
    by_name = {run.name: run for run in runs}
    found = []
    for metric in ("auroc", "top5"):
        pairs = [(by_name[d.first], by_name[d.second]) for d in differences if d.test is not None]
        each = [_between_rankings(first, second, metric) for first, second in pairs]
        found += corrected([difference for difference in each if difference is not None])
    return found


def setting_differences(settings: Sequence[Setting]) -> list[Difference]:
    """Compare settings like runs, by their runs' main metric: Welch's t test over the seeds."""
    metric = settings[0].runs[0].main
    best = 1 if len(settings) == 2 else best_of([s.mean(metric) for s in settings], metric)
    others = [setting for setting in settings if setting is not settings[best]]
    return corrected([_between_settings(each, settings[best], metric) for each in others])


def corrected(differences: list[Difference]) -> list[Difference]:
    """Return differences with Holm's p, where there are several tests."""
    tested = [each for each in differences if each.test is not None]
    if len(tested) < 2:
        return differences
    p_values = iter(holm([each.test.p for each in tested if each.test is not None]))
    return [
        each if each.test is None else replace(each, adjusted=next(p_values))
        for each in differences
    ]


def between(first: FoundRun, second: FoundRun) -> Difference:
    """Compare the answers of two runs for the same images."""
    metric = first.main
    values = (first.metrics[metric], second.metrics[metric])
    plain = Difference(first.name, second.name, metric, values)
    if why := _not_comparable(first, second):
        return replace(plain, why_none=why)
    before, after = first.predictions, second.predictions
    assert before is not None
    assert after is not None
    order = _order_of(first, second)
    plain = replace(plain, num=len(before.paths))
    if before.kind == REGRESSION:
        gaps = (after.errors[order] - before.errors).tolist()
        return replace(plain, test=paired_t(gaps), needed=differences_needed(gaps))
    was_right, is_right = before.right, after.right[order]
    mended, broke = ~was_right & is_right, was_right & ~is_right
    counts = int(mended.sum()), int(broke.sum())
    changes = (
        *_changes("mended", mended, before, after, order),
        *_changes("broke", broke, before, after, order),
    )
    needed = images_needed(*counts, len(before.paths))
    return replace(plain, test=mcnemar(*counts), needed=needed, changes=changes)


def _between_rankings(first: FoundRun, second: FoundRun, metric: str) -> Difference | None:
    """Compare two runs on the same images; None where one of them has no such metric."""
    before, after = first.ranking, second.ranking
    if before is None or after is None or not {metric} <= before.metrics.keys() & after.metrics:
        return None
    test = paired_test(metric, before, after.of_rows(_order_of(first, second)))
    values = before.metrics[metric], after.metrics[metric]
    plain = Difference(first.name, second.name, metric, values, test, num=len(before.labels))
    if test is not None:
        return plain
    return replace(
        plain, why_none="its spread is not known: a class has one image, or none differs"
    )


def _changes(
    kind: str, where: np.ndarray, before: Predictions, after: Predictions, order: np.ndarray
) -> list[Change]:
    return [
        Change(
            kind,
            before.paths[row],
            before.words(before.truth[row]),
            before.words(before.answers[row]),
            after.words(after.answers[order[row]]),
        )
        for row in np.flatnonzero(where)
    ]


def _not_comparable(first: FoundRun, second: FoundRun) -> str:
    """Return why two runs cannot be tested against each other; nothing if they can."""
    for run in (first, second):
        if run.predictions is None:
            return (
                f"{run.name} did not reach its end and has no answers to compare; finish it with"
                f" `{resume_command(run.folder)}`"
            )
    before, after = first.predictions, second.predictions
    assert before is not None
    assert after is not None
    keys, others = _keys(first, second)
    if set(keys) != set(others) or len(keys) != len(others):
        return (
            f"the validation lists differ ({len(keys):,} and {len(others):,} images,"
            f" {len(set(keys) & set(others)):,} in both): train both on one list"
        )
    if len(set(keys)) < len(keys):
        return "the validation list names an image twice"
    truths = (
        (before.words(b), after.words(a))
        for b, a in zip(before.truth, after.truth[_order_of(first, second)], strict=True)
    )
    num_other = sum(true != other for true, other in truths)
    return f"{num_other:,} validation images have other labels" if num_other else ""


def _keys(first: FoundRun, second: FoundRun) -> tuple[Sequence[str], Sequence[str]]:
    """Return what images of both runs are matched by: their paths as the lists have them or, where
    these are relative to different folders, from there.
    """
    assert first.predictions is not None
    assert second.predictions is not None
    before, after = first.predictions.paths, second.predictions.paths
    if set(before) == set(after):
        return before, after
    return _whole(before, first), _whole(after, second)


def _whole(paths: Sequence[str], run: FoundRun) -> list[str]:
    folder = os.path.abspath(Path(run.settings.data.valid).parent)
    return [os.path.normpath(os.path.join(folder, path)) for path in paths]


def _order_of(first: FoundRun, second: FoundRun) -> np.ndarray:
    """Return int64 (N,): where the second run has each image of the first one."""
    keys, others = _keys(first, second)
    place = {key: number for number, key in enumerate(others)}
    return np.array([place[key] for key in keys], np.int64)


def _mean_text(setting: Setting, metric: str) -> str:
    mean, deviation = setting.mean(metric), setting.deviation(metric)
    interval = setting.interval(metric)
    if deviation is None or interval is None:
        return metric_text(metric, mean)
    texts = [metric_text(metric, value) for value in (mean, deviation, *interval)]
    return f"{texts[0]} ± {texts[1]} ({texts[2]} to {texts[3]})"


def _between_settings(first: Setting, second: Setting, metric: str) -> Difference:
    plain = Difference(first.name, second.name, metric, (first.mean(metric), second.mean(metric)))
    values = first.values[metric], second.values[metric]
    plain = replace(plain, num=min(map(len, values)))
    if plain.num < 2:
        return replace(
            plain, why_none="a setting with one seed has no spread: train with --seeds 3"
        )
    return replace(plain, test=welch(*values))
