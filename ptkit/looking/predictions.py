"""A model's answers for images: of files, folders, lists and tables, or in memory."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from ptkit.core.data import images as decoder
from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.data.loading.batches import Batch
from ptkit.core.data.splits.tables import Columns
from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.device import channels_last
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.hooks import evaluating
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import Predicted, predicted_batch
from ptkit.looking.answers import Answers, joined
from ptkit.looking.image_sources import LabelledImages, find_labelled_images
from ptkit.looking.subject import Subject

# What predict_images takes: a path, an encoded image, or its pixels (H, W, 3).
Image = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray
# Of an image that cannot be read, by what answers are: classes, several of them, numbers.
_NO_ANSWER = {"i": -1, "b": False, "f": math.nan}


@dataclass(frozen=True)
class Prediction:
    """A prediction that has not begun, for `num_images` images; `parts` are the answers as they
    come, and can be taken once. notes: what was done to get bare weights, label_notes: where labels
    come from and why others are left out, a line each.
    """

    num_images: int
    kind: str
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    label_notes: tuple[str, ...]
    parts: Iterator[Answers]


def begin_prediction(
    subject: Subject,
    sources: Sequence[str],
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    **how: Any,
) -> Prediction:
    """Find images and check everything that can be wrong before they are decoded.

    columns, root: see `find_labelled_images`. how: see `predict_parts`.

    Raises:
        DataError, UsageError: see `predict_sources`.
    """
    asked = find_labelled_images(subject, sources, columns=columns, root=root)
    parts = predict_parts(subject, asked, **how)
    kind, names = subject.task.kind, tuple(subject.class_names)
    return Prediction(len(asked.images), kind, names, subject.weights.lines, asked.notes, parts)


def predict_sources(
    subject: Subject,
    sources: Sequence[str],
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    **how: Any,
) -> Answers:
    """Return what the model says about image files, folders (at any depth), lists and tables.

    columns, root: see `find_labelled_images`. how: see `predict_parts`.

    Raises:
        DataError: nothing there, or, with `stop`, an image that cannot be read.
        UsageError: no source, a root without a list, or settings that do not fit the model.
        CheckpointError: the saved pipeline names user code.
    """
    begun = begin_prediction(subject, sources, columns=columns, root=root, **how)
    return joined(list(begun.parts))


def predict_parts(
    subject: Subject,
    asked: LabelledImages,
    *,
    top: int = 1,
    threshold: float | None = None,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "skip",
) -> Iterator[Answers]:
    """Return the model's answers in parts, in the order of the images, as they come.

    threshold: in the place of those that the checkpoint has for its classes: the probability below
    which an image is unknown; where images have several classes, from which on each is present.
    on_bad: `skip` puts images that cannot be read into the answers' `errors`.

    Raises:
        UsageError: `top` where classes are not ranked, or a threshold that is no probability or is
            for a model that gives numbers. While it runs: see `predict_sources`.
    """
    _check_top(subject, top)
    _check_threshold(subject, threshold)
    if threshold is not None:
        limits = torch.full((len(subject.class_names),), threshold)
        subject = replace(subject, task=replace(subject.task, thresholds=limits))
    errors: dict[int, str] = {}
    bad = errors if on_bad == "skip" else None
    found = subject.predict_parts(asked.images, device=device, workers=workers, bad=bad)
    blank = Answers(
        (),
        subject.class_names,
        subject.task.kind,
        np.empty(0),
        np.empty(0),
        top,
        notes=subject.weights.lines,
        thresholds=_thresholds(subject),
    )
    return _parts(blank, asked, found, errors)


def _parts(
    blank: Answers,
    asked: LabelledImages,
    found: Iterator[tuple[Predicted, np.ndarray | None]],
    bad: Mapping[int, str],
) -> Iterator[Answers]:
    has_labels, start = bool(asked.known.any()), 0
    for part, trained_on in found:
        rows = range(start, start + len(part.values))
        errors = {row - start: bad[row] for row in rows if row in bad}
        part.values[list(errors)] = np.nan
        part.answers[list(errors)] = _NO_ANSWER[part.answers.dtype.kind]
        yield replace(
            blank,
            paths=tuple(map(asked.images.listed_path, rows)),
            values=part.values,
            answers=part.answers,
            trained_on=trained_on,
            unknown=part.unknown,
            errors=errors,
            labels=asked.labels[start : rows.stop] if has_labels else None,
            known=asked.known[start : rows.stop] if has_labels else None,
        )
        start = rows.stop


def predict_images(subject: Subject, images: Image | Sequence[Image], *, top: int = 1) -> Answers:
    """Return what the model says about one image or several, on the device that it is on. Threads
    may share a subject.

    An image is a path, the bytes of a file, a PIL image, or an array uint8 (H, W, 3), or (H, W) of
    grey values.

    Raises:
        DataError: an image that cannot be read.
        UsageError: no image, an array of another kind, or `top` where classes are not ranked.
        CheckpointError: the saved pipeline names user code, or the outputs are not finite.
    """
    _check_top(subject, top)
    pipeline, model = subject.parse_pipeline(), subject.model
    several = list(images) if isinstance(images, list | tuple) else [cast("Image", images)]
    if not several:
        raise UsageError("no images: give at least one")
    place = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    size, task = evaluation_batch_size(subject.weights.size), subject.task.on(place)
    parts: list[Predicted] = []
    for start in range(0, len(several), size):
        views = [
            pipeline.view(_pixels(image, pipeline.alpha)) for image in several[start : start + size]
        ]
        same_shape([tuple(view.shape[-3:]) for view in views], pipeline.calls)
        crops = channels_last(torch.stack(views).flatten(0, -4))
        batch = Batch(
            crops.to(place), torch.empty(0), np.arange(len(views)), num_crops=pipeline.num_crops
        )
        with evaluating(model), torch.inference_mode():
            parts.append(predicted_batch(model, batch, task, len(subject.class_names)))
    paths = tuple(os.fspath(i) if isinstance(i, str | os.PathLike) else None for i in several)
    values = np.concatenate([part.values for part in parts])
    if not np.isfinite(values).all():
        raise CheckpointError(f"{subject.weights.source} gives NaN or infinite outputs")
    answers = np.concatenate([part.answers for part in parts])
    doubts = [part.unknown for part in parts if part.unknown is not None]
    unknown = np.concatenate(doubts) if doubts else None
    return Answers(
        paths,
        subject.class_names,
        task.kind,
        values,
        answers,
        top,
        unknown=unknown,
        thresholds=_thresholds(subject),
    )


def _thresholds(subject: Subject) -> np.ndarray | None:
    found = subject.task.thresholds
    return None if found is None else found.cpu().numpy()


def with_predict(subject: Subject) -> torch.nn.Module:
    """Return the model with `class_names`, `pipeline` and `predict`, which runs where the model is.

    It keeps its class, and can be copied and pickled; the subject's weights are not kept twice.
    """
    weights = subject.weights
    module: Any = subject.model
    module.class_names = subject.class_names
    module.pipeline = weights.pipeline_record
    subject = replace(subject, weights=replace(weights, state_dict={}, checkpoint=None))
    # Not a method of a subclass, which could not be pickled.
    module.predict = partial(_predict_rows, subject)
    return cast(torch.nn.Module, module)


def _predict_rows(
    subject: Subject, images: Image | Sequence[Image], *, top: int = 1
) -> list[dict[str, Any]]:
    return predict_images(subject, images, top=top).rows


def _check_top(subject: Subject, top: int) -> None:
    kind = subject.task.kind
    if top < 1:
        raise UsageError(f"top must be at least 1, found {top}")
    if top > 1 and kind in (MULTI, REGRESSION):
        raise UsageError(
            f"--top ranks classes, of which an image has one; {subject.weights.source} is a {kind}"
            " model"
        )


def _check_threshold(subject: Subject, threshold: float | None) -> None:
    if threshold is None:
        return
    if subject.task.kind == REGRESSION:
        raise UsageError(
            f"--threshold is for probabilities, and {subject.weights.source} gives numbers"
        )
    if not 0 < threshold < 1:
        raise UsageError(
            f"--threshold is a probability between 0 and 1, such as 0.7, found {threshold:g}"
        )


def _pixels(image: Image, alpha: str) -> np.ndarray:
    """Return an image as uint8 RGB (H, W, 3); a PIL image as it is, turned by its EXIF tag."""
    if isinstance(image, str | os.PathLike):
        return decoder.read(Path(image), alpha=alpha)
    if isinstance(image, bytes):
        return decoder.decode(image, alpha=alpha)
    if isinstance(image, PIL.Image.Image):
        to_pixels = decoder.on_white if alpha == "white" else decoder.to_rgb
        return np.array(to_pixels(PIL.ImageOps.exif_transpose(image)))
    is_array = isinstance(image, np.ndarray)
    if is_array and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (1,)):
        # Grey: the pipeline makes one channel of three that are alike.
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{image.dtype} of {image.shape}" if is_array else type(image).__name__
        raise UsageError(
            "an image must be a path, bytes, a Pillow image or a uint8 array (height, width, 3) or,"
            f" grey, (height, width), found {found}"
        )
    # A copy where it is read-only or turned: torch takes neither.
    return np.require(image, requirements=["C", "W"])
