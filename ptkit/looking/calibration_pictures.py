"""The pictures, tables and numbers of a calibration."""

from typing import Any

import numpy as np

from ptkit.core.calibration.temperature import NUM_BINS, bins_of, expected_calibration_error
from ptkit.core.calibration.thresholds import Threshold
from ptkit.core.shares import interval
from ptkit.looking.calibrating import Calibration
from ptkit.looking.evaluation import Evaluation
from ptkit.looking.pictures import add_events
from ptkit.plots.coverage import coverage_curve, coverage_figure
from ptkit.plots.reliability import Bin, reliability_figure
from ptkit.plots.saving import PictureFolder

# More points of a curve are thinned in its table.
_MOST_ROWS = 1000


def draw_calibration(found: Calibration, pictures: PictureFolder, *, source: str) -> None:
    """Write reliability.png and, where an image has one class, coverage.png, with their numbers
    beside them; and thresholds.csv where there are any.
    """
    footer = f"{found.images.file}, n = {len(found.images):,} · {source}"
    drawn = {"reliability": _draw_reliability(found, pictures, footer)}
    if found.thresholds is not None:
        header = ["class", "threshold", "answered", "right", "precision", "low", "high", "reaches"]
        names = found.images.class_names
        rows = [_row(name, each) for name, each in zip(names, found.thresholds, strict=True)]
        pictures.add_csv("thresholds.csv", header, [list(row.values()) for row in rows])
    if found.answers.ndim == 1:
        answered = None
        if found.answering is not None and found.answering.answered:
            each = found.answering
            answered = each.answered / each.total, each.right / each.answered
        confidence = found.confidence(is_after=True)
        drawn["coverage"] = _draw_coverage(
            (confidence, found.right),
            pictures,
            answered=answered,
            point="each half with the thresholds of the other",
            footer=footer,
        )
    add_events(pictures, drawn)


def draw_coverage(found: Evaluation, pictures: PictureFolder) -> None:
    """Write coverage.png and coverage.csv of an evaluation that withholds some answers."""
    rows = np.arange(len(found.labels))
    confidence, right = found.probabilities[rows, found.answers], found.labels == found.answers
    answered = None
    if found.num_answered:
        shares = found.num_answered / len(rows), found.num_right_answered / found.num_answered
        answered = shares
    footer = f"{found.images.file}, n = {len(rows):,} · {found.source}"
    drawn = _draw_coverage(
        (confidence, right),
        pictures,
        answered=answered,
        point="what predict answers",
        footer=footer,
    )
    add_events(pictures, {"coverage": drawn})


def as_dict(found: Calibration) -> dict[str, Any]:
    """Return what `--json` prints of a calibration, beside the files."""
    temperature, answering, strangers = found.temperature, found.answering, found.task.strangers
    total = len(found.images)
    facts: dict[str, Any] = {"num_images": total, "num_trained_on": found.num_trained_on}
    if temperature is not None:
        facts |= {
            "temperature": temperature.value,
            "temperature_fitted": temperature.fitted,
            "temperatures_of_halves": list(temperature.halves),
            "ece": list(temperature.ece),
            "cross_entropy": list(temperature.loss),
        }
    if found.thresholds is not None and answering is not None:
        names = found.images.class_names
        right, answered = answering.right, answering.answered
        facts |= {
            "thresholds": [_row(*each) for each in zip(names, found.thresholds, strict=True)],
            "answered": answered,
            "precision": right / answered if answered else None,
            "precision_interval": list(interval(right, answered)) if answered else None,
        }
        if found.answers.ndim == 1:
            facts["coverage"] = answered / total
    if found.strange is not None and strangers is not None:
        facts |= {
            "unknown_limit": strangers.limit,
            "unknown_of_known": found.strange / total,
            "unknown_of_known_interval": list(interval(found.strange, total)),
        }
    return facts | ({"skipped": list(found.skipped)} if found.skipped else {})


def _row(name: str, found: Threshold) -> dict[str, Any]:
    total, right = found.num_answered, found.num_right
    low, high = interval(right, total) if total else (None, None)
    return {
        "class": name,
        "threshold": found.value,
        "answered": total,
        "right": right,
        "precision": right / total if total else None,
        "low": low,
        "high": high,
        "reaches": found.reaches,
    }


def _draw_reliability(found: Calibration, pictures: PictureFolder, footer: str) -> np.ndarray:
    right = found.right.ravel()
    several = found.answers.ndim == 2
    # A share of fewer than ten says little.
    num_bins = min(NUM_BINS, max(len(right) // 10, 1))
    lines: dict[str, list[Bin]] = {}
    for name, is_after in (("before", False), ("after", True)):
        confidence = found.confidence(is_after=is_after).ravel()
        parts = bins_of(confidence, num_bins=num_bins)
        lines[name] = [(float(confidence[p].mean()), float(right[p].mean()), len(p)) for p in parts]
    temperature = found.temperature
    if temperature is None:
        # The temperature is as it was: the probabilities are those that the checkpoint gives.
        confidence = found.confidence(is_after=True).ravel()
        lines = {"before": lines["after"]}
    ece = temperature.ece if temperature else (expected_calibration_error(confidence, right),)
    after = lines.get("after") if temperature is not None and temperature.is_used else None
    figure = reliability_figure(
        lines["before"],
        after,
        ece=ece,
        what="Probabilities of all classes" if several else "Probabilities of the answers",
        footer=footer,
    )
    shown = {"before": lines["before"], **({"after": after} if after else {})}
    rows = [(name, *each) for name, line in shown.items() for each in line]
    pictures.add_csv("reliability.csv", ["when", "probability", "right", "count"], rows)
    return pictures.add_figure("reliability.png", figure)


def _draw_coverage(
    answers: tuple[np.ndarray, np.ndarray],
    pictures: PictureFolder,
    *,
    answered: tuple[float, float] | None,
    point: str,
    footer: str,
) -> np.ndarray:
    """answers: their probabilities (n,), and which are right (n,)."""
    curve = coverage_curve(*answers)
    places = np.linspace(0, len(curve.coverage) - 1, min(len(curve.coverage), _MOST_ROWS))
    columns = (curve.probability, curve.coverage, curve.accuracy)
    kept = [column[places.round().astype(int)].tolist() for column in columns]
    header = ["probability", "coverage", "accuracy"]
    pictures.add_csv("coverage.csv", header, list(zip(*kept, strict=True)))
    return pictures.add_figure(
        "coverage.png", coverage_figure(curve, answered=answered, point=point, footer=footer)
    )
