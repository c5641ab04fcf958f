"""How runs rank the classes of an image and the images of a class: top-5 and AUROC, which the
answers alone do not tell.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ptkit.core.comparing.significance import LEVEL, Test, mcnemar
from ptkit.core.errors import DataError, StorageError
from ptkit.core.run_files import read_outputs, softmax
from ptkit.core.shares import interval
from ptkit.core.training.tasks.metrics import areas_under_roc, mean_of_known
from ptkit.core.training.tasks.task import TOP

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Ranking:
    """A run's outputs for its validation images, before softmax, (n, K); their classes, (n,)."""

    outputs: npt.NDArray[np.float32]
    labels: Indices

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Their softmax, (n, K)."""
        found: npt.NDArray[np.float32] = softmax(self.outputs)
        return found

    @cached_property
    def is_in_top(self) -> npt.NDArray[np.bool_]:
        """For which images the true class is among the five most probable ones, (n,); of equal ones
        the later class comes first, as in training and in scikit-learn.
        """
        own = np.take_along_axis(self.outputs, self.labels[:, None], axis=1)
        is_later = np.arange(self.outputs.shape[1]) > self.labels[:, None]
        is_before = (self.outputs > own) | ((self.outputs == own) & is_later)
        found: npt.NDArray[np.bool_] = is_before.sum(axis=1) < TOP
        return found

    @cached_property
    def metrics(self) -> dict[str, float]:
        """AUROC, each class against the rest, the mean over the classes that have images; top5 of
        more than five classes.
        """
        found = {}
        areas = areas_under_roc(self.labels, self.probabilities)
        if not np.isnan(areas).all():
            found["auroc"] = mean_of_known(areas)
        if self.outputs.shape[1] > TOP:
            found["top5"] = float(self.is_in_top.mean())
        return found

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of `metrics`: DeLong's of the AUROC, Wilson's of top5. An AUROC
        without a pair out of order has none: its spread is not known.
        """
        found = {}
        if "auroc" in self.metrics and (error := _standard_error(self.parts, self.labels)):
            area, half = self.metrics["auroc"], _NORMAL.inv_cdf(1 - LEVEL / 2) * error
            found["auroc"] = max(area - half, 0.0), min(area + half, 1.0)
        if "top5" in self.metrics:
            found["top5"] = interval(int(self.is_in_top.sum()), len(self.labels))
        return found

    @cached_property
    def parts(self) -> Floats:
        """What each image adds to the AUROC as one of its class's sample, (n,).

        DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
        receiver operating characteristic curves", Biometrics 44 (1988), equations 4 to 6: of an
        image of class k the share of the others that rank below it, and of each other class the
        share of its images that rank above. Of more than two classes the areas' mean is a sum over
        the classes' samples too, and so are its parts; of two they are DeLong's.
        """
        counts = np.bincount(self.labels, minlength=self.outputs.shape[1])
        known = [k for k in np.flatnonzero(counts) if counts[k] < len(self.labels)]
        parts = np.zeros(len(self.labels))
        for k in known:
            column, is_own = np.ascontiguousarray(self.probabilities[:, k]), self.labels == k
            own, rest = np.sort(column[is_own]), np.sort(column[~is_own])
            parts[is_own] += _share_below(rest, column[is_own])
            above = 1 - _share_below(own, column[~is_own])
            # The others are samples of several classes, each with its weight.
            parts[~is_own] += above * counts[self.labels[~is_own]] / len(rest)
        return parts / max(len(known), 1)

    def of_rows(self, order: Indices) -> "Ranking":
        """Return the images in another order."""
        return Ranking(self.outputs[order], self.labels[order])


def read_ranking(folder: Path, truth: Indices, answers: Indices) -> Ranking | None:
    """Read the outputs of a run's best epoch; None where there are none, or where they are not
    those of its answers.

    truth, answers: (n,) of its valid_predictions.csv, numbered in any order.
    """
    try:
        found = read_outputs(folder)
    except (DataError, StorageError):
        return None
    if found is None or found.labels.shape != truth.shape:
        return None
    outputs, labels = found.values, found.labels
    pairs = set(zip(truth.tolist(), labels.tolist(), strict=True))
    numbers = dict(pairs)
    if len(numbers) < len(pairs) or len(set(numbers.values())) < len(numbers):
        return None
    # Evaluated again in other batches, an image on the border may get another answer.
    named = np.array([numbers.get(int(answer), -1) for answer in answers])
    is_known = named >= 0
    if (outputs.argmax(axis=1) != named)[is_known].mean() > 0.01:
        return None
    return Ranking(outputs.astype(np.float32), labels)


def paired_test(metric: str, first: Ranking, second: Ranking) -> Test | None:
    """Test whether two runs differ in a metric of `Ranking.metrics` on the same images, in one
    order: DeLong's paired test of AUROC, McNemar's of top5. None where nothing is known of the
    spread.
    """
    if metric == "top5":
        mended = int((second.is_in_top & ~first.is_in_top).sum())
        broke = int((first.is_in_top & ~second.is_in_top).sum())
        return mcnemar(mended, broke)
    error = _standard_error(second.parts - first.parts, first.labels)
    if not error:
        return None
    z = (second.metrics[metric] - first.metrics[metric]) / error
    return Test("DeLong, paired", math.erfc(abs(z) / math.sqrt(2)))


def _share_below(ordered: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> Floats:
    """Return which share of some sorted values is smaller than each of others, equal ones half."""
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    shares: Floats = (below + up_to) / (2 * len(ordered))
    return shares


def _standard_error(parts: Floats, labels: Indices) -> float | None:
    """Return the standard error of what parts (n,) add up to, each class a sample of its own; None
    where a class has a single image.
    """
    groups = [parts[labels == k] for k in np.unique(labels)]
    if min(map(len, groups)) < 2:
        return None
    return math.sqrt(sum(group.var(ddof=1) / len(group) for group in groups))
