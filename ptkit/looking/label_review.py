"""Labels that a run found hard to learn: the suspects for a second look, the worst first."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DataError
from ptkit.core.files import quoted, write_atomically
from ptkit.core.run_files import MARGINS, read_margins, why_no_run
from ptkit.core.training.changed_lists import TRAINING, check_same_lists
from ptkit.core.training.setup_lists import lists_of_run
from ptkit.core.wording import first_of
from ptkit.looking.subject import load_subject
from ptkit.plots.contact_sheet import contact_sheet
from ptkit.plots.fonts import class_labels
from ptkit.plots.saving import PictureFolder

# More than this nobody looks through.
MAX_SUSPECTS = 1_000
# Of the training images: wrong labels are rarer, and a run that lost more is weak.
_WEAK = 0.2


@dataclass(frozen=True)
class LabelReview:
    """Training images whose labels are suspect, at most MAX_SUSPECTS, the most suspect first.

    images: that the run was trained on. rows: where they are among these, (n,). margins: (n,), each
    the area under the margin: the mean over the epochs of the output of the image's class minus the
    largest other output, while it was trained on (Pleiss et al. 2020, section 3.1). suggested: (n,)
    the most probable other class, by the run's best weights. num_negative: of all images, how many
    have a margin below 0. alpha: how the run read them.
    """

    images: ImageList
    rows: npt.NDArray[np.int64]
    margins: npt.NDArray[np.float64]
    suggested: npt.NDArray[np.int64]
    num_negative: int
    alpha: str

    @property
    def doubts(self) -> list[str]:
        """Why the suggestions are not to be trusted as they stand, a line each."""
        found, share = [], self.num_negative / max(len(self.images), 1)
        if share > _WEAK:
            found.append(
                f"{share:.0%} of the images lost their class: the run has not learned them, and"
                " most suggestions will be wrong; train it longer first"
            )
        left = self.images.labels.copy()
        left[self.rows] = self.suggested
        gone = np.setdiff1d(self.images.labels, left)
        if len(gone):
            names = first_of([self.images.class_names[k] for k in gone.tolist()], 5)
            found.append(f"with all suggestions no image would be left of {names}")
        return found

    def as_rows(self) -> list[tuple[str, str, str, float]]:
        """Return path, given class, suggested class and margin of each."""
        names, labels = self.images.class_names, self.images.labels[self.rows]
        paths = map(self.images.listed_path, self.rows.tolist())
        given, suggested = ([names[k] for k in some.tolist()] for some in (labels, self.suggested))
        return list(zip(paths, given, suggested, self.margins.tolist(), strict=True))


def review_labels(
    run: Path, *, root: Path | None = None, device: str = "auto", workers: int = 0
) -> LabelReview:
    """Return the training images whose class lost to another one on average over a run.

    root: a folder that the images are in now.

    Raises:
        DataError: the run has no margins, or its list is another one now.
        UsageError: its settings cannot be read. CheckpointError: its weights cannot be read.
    """
    if (why := why_no_run(run)) is not None:
        raise DataError(why)
    recorded = read_margins(run)
    if recorded is None:
        raise DataError(
            f"{run} has no {MARGINS}: only runs with one class an image, without MixUp and CutMix,"
            " and with log.layers record the margins of their training images"
        )
    data = resolve(read_toml(run / "config.toml")).data
    listed, _ = lists_of_run(data if root is None else replace(data, root=str(root)))
    subject = load_subject(run)
    checkpoint = subject.weights.checkpoint or {}
    if "list_sha256" not in checkpoint.get("data", {}):
        raise DataError(f"the checkpoint of {run} does not say which list it was trained with")
    check_same_lists(
        checkpoint,
        {TRAINING: listed},
        run,
        relabel=data.relabel,
        advice="restore it: margins are numbered as its lines",
    )
    if recorded.rows is None and len(listed) != len(recorded.total):
        raise DataError(
            f"{run} left out images that could not be read, and an earlier version did not record"
            " which: train it again"
        )
    # Without the images that training left out.
    images = listed if recorded.rows is None else listed.subset(recorded.rows)
    margins = recorded.total / np.maximum(recorded.count, 1)
    negative = np.flatnonzero((recorded.count > 0) & (margins < 0))
    worst = negative[np.argsort(margins[negative], kind="stable")][:MAX_SUSPECTS]
    suspects = images.subset(worst)
    suggested = np.zeros(0, np.int64)
    if len(worst):
        found, _ = subject.predict(suspects, device=device, workers=workers)
        values = found.values.copy()
        values[np.arange(len(worst)), suspects.labels] = -np.inf
        suggested = values.argmax(axis=1)
    return LabelReview(
        images, worst, margins[worst], suggested, len(negative), subject.weights.alpha
    )


def draw_review(review: LabelReview, pictures: PictureFolder, *, num_images: int = 24) -> None:
    """Write suspects.csv and, of the first, suspects.png."""
    header = ["path", "given", "suggested", "margin"]
    pictures.add_csv("suspects.csv", header, review.as_rows())
    if not len(review.rows):
        return
    shown = review.as_rows()[:num_images]
    names = review.images.class_names
    labels = dict(zip(names, class_labels(names), strict=True))
    captions = [
        (path, f"given: {labels[given]}, margin {margin:.2f}", f"suggested: {labels[suggested]}")
        for path, given, suggested, margin in shown
    ]
    count = f"{len(shown):,} of {review.num_negative:,} images with a margin below 0"
    figure = contact_sheet(
        _pixels(review.images, review.rows[:num_images].tolist(), review.alpha),
        captions,
        title=f"Which labels are suspect? {count}",
        notes=["Margin: its class minus the best other one, mean over the epochs."],
        footer=f"{review.images.file}, n = {len(review.images):,}",
    )
    pictures.add_figure("suspects.png", figure)


def write_relabelling(review: LabelReview, file: Path) -> bool:
    """Write a list of the suspects with the class that is suggested, unless `file` is there.

    Its lines are for the user to delete and to change: `ptkit train --relabel` applies what is
    left. Returns whether it was written.

    Raises:
        StorageError: the disk refused.
    """
    if file.exists():
        return False
    images = review.images
    # As the list writes its classes: the names of some are numbers themselves.
    words = (
        [quoted(name) for name in images.class_names]
        if images.has_named_labels
        else [str(index) for index in range(images.num_classes)]
    )
    rows = zip(review.rows.tolist(), review.suggested.tolist(), strict=True)
    lines = [
        f"{quoted(os.path.relpath(images.image_path(row), file.parent))} {words[label]}\n"
        for row, label in rows
    ]
    write_atomically(file, "".join(lines).encode("utf-8", "surrogateescape"))
    return True


def _pixels(images: ImageList, rows: Sequence[int], alpha: str) -> list[np.ndarray]:
    return [decoder.read(images.image_path(row), alpha=alpha) for row in rows]
