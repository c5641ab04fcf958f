"""A model's answers for images that have no labels."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import IMAGE_EXTENSIONS
from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.data.lists import ImageList, list_of, read_list
from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.device import channels_last
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.files import make_folder, write_csv
from ptkit.core.models.features import seeing_features
from ptkit.core.models.hooks import evaluating
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import Predicted, predicted
from ptkit.core.training.tasks.task import Task
from ptkit.looking.subject import Subject

# What predict_images takes: a path, an encoded image, or its pixels (H, W, 3).
Image = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray

# What stands for the class of an image whose answer is withheld; its index is None.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answers:
    """What a model says about some images, in order.

    paths: None for an image that came from memory. kind: of the task, as Task.kind. values: float32
    (N, K) probabilities, or (N, D) numbers. answers: int64 (N,) classes, bool (N, K) for several
    labels, or the numbers again. top: how many classes a row names. notes: what was done to get
    bare weights, a line each. trained_on: bool (N,), which images the weights were trained on; None
    where that is unknown.
    unknown: bool (N,), for which images the answer is withheld: less probable than the threshold of
    its class, or unlike the training images; None where the model never says so.
    errors: row -> why that image cannot be read; its values are nan, and its answer means nothing.
    """

    paths: tuple[str | None, ...]
    class_names: tuple[str, ...]
    kind: str
    values: np.ndarray
    answers: np.ndarray
    top: int = 1
    notes: tuple[str, ...] = ()
    trained_on: np.ndarray | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    unknown: np.ndarray | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain mapping an image: path, and what the kind of task has to say.

        One class an image: class, index, probability, and with `top` above 1 the most probable
        classes under `top`; where the answer is withheld, class "unknown", index None, the
        probability of the most probable class, and its name under `most_probable`. Several: classes, indices,
        probabilities. Numbers: numbers. All: trained_on, true, for an image that the weights were trained on.
        An image that cannot be read: error.
        """
        rows = [{"path": path, **self._answer(k)} for k, path in enumerate(self.paths)]
        for k in [] if self.trained_on is None else np.flatnonzero(self.trained_on).tolist():
            rows[k]["trained_on"] = True
        return rows

    def table(self, share: str = "{:.6g}") -> list[list[str]]:
        """Return a header and a line of text an image; `share` formats probabilities."""
        rows = [{"path": row["path"] or "", **_cells(row, share)} for row in self.rows]
        # In the order in which they come, but errors last.
        names = dict.fromkeys(name for row in rows for name in row if name != "error")
        header = [*names, *(["error"] if self.errors else [])]
        return [header, *([row.get(name, "") for name in header] for row in rows)]

    def save(self, folder: Path) -> Path:
        """Write predictions.csv into a folder and return its path.

        Raises:
            StorageError: the disk refused.
        """
        file = make_folder(folder) / "predictions.csv"
        header, *rows = self.table()
        write_csv(file, header, rows)
        return file

    def _answer(self, row: int) -> dict[str, Any]:
        if row in self.errors:
            return {"error": self.errors[row]}
        values, names = self.values[row], self.class_names
        if self.kind == REGRESSION:
            return {"numbers": dict(zip(names, map(float, values), strict=True))}
        if self.kind == MULTI:
            present = np.flatnonzero(self.answers[row]).tolist()
            return {
                "classes": [names[k] for k in present],
                "indices": present,
                "probabilities": dict(zip(names, map(float, values), strict=True)),
            }

        def named(k: int) -> dict[str, Any]:
            return {"class": names[k], "index": k, "probability": float(values[k])}

        answer = named(int(self.answers[row]))
        if self.unknown is not None and self.unknown[row]:
            most_probable = answer["class"]
            answer |= {"class": UNKNOWN, "index": None, "most_probable": most_probable}
        if self.top > 1:
            order = np.argsort(-values, kind="stable")[: self.top].tolist()
            answer["top"] = list(map(named, order))
        return answer


def predict_sources(
    subject: Subject,
    sources: Sequence[str],
    *,
    top: int = 1,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "skip",
    root: Path | None = None,
) -> Answers:
    """Return what the model says about image files, folders (at any depth) and list files.

    on_bad: `skip` puts images that cannot be read into the answers' `errors`. root: where the
    images of the lists are now, see `read_list`.

    Raises:
        DataError: nothing there, or, with `stop`, an image that cannot be read.
        UsageError: no source, a root without a list, or `top` where classes are not ranked.
        CheckpointError: the saved pipeline names user code.
    """
    _check_top(subject, top)
    images = find_images(sources, subject.class_names, root=root)
    errors: dict[int, str] = {}
    bad = errors if on_bad == "skip" else None
    found, trained_on = subject.predict(images, device=device, workers=workers, bad=bad)
    found.values[list(errors)] = np.nan
    return Answers(
        tuple(map(images.listed_path, range(len(images)))),
        subject.class_names,
        subject.task.kind,
        found.values,
        found.answers,
        top,
        subject.weights.lines,
        trained_on,
        dict(sorted(errors.items())),
        found.unknown,
    )


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
        parts.append(_answered(subject, crops.to(place), task, num_crops=pipeline.num_crops))
    paths = tuple(os.fspath(i) if isinstance(i, str | os.PathLike) else None for i in several)
    values = np.concatenate([part.values for part in parts])
    if not np.isfinite(values).all():
        raise CheckpointError(f"{subject.weights.source} gives NaN or infinite outputs")
    answers = np.concatenate([part.answers for part in parts])
    doubts = [part.unknown for part in parts if part.unknown is not None]
    unknown = np.concatenate(doubts) if doubts else None
    return Answers(paths, subject.class_names, task.kind, values, answers, top, unknown=unknown)


def _answered(subject: Subject, crops: torch.Tensor, task: Task, *, num_crops: int) -> Predicted:
    """Return the answers for images of which each has so many crops (n * num_crops, C, H, W)."""
    features = None
    with evaluating(subject.model), torch.inference_mode(), ExitStack() as stack:
        if task.strangers is None:
            outputs = subject.model(crops).float()
        else:
            watched = seeing_features(subject.model, num_classes=len(subject.class_names))
            seen = stack.enter_context(watched)
            outputs = subject.model(crops).float()
            features = seen().unflatten(0, (-1, num_crops)).mean(dim=1)
        outputs = outputs.unflatten(0, (-1, num_crops)).mean(dim=1)
        return predicted(outputs, task, features=features)


def with_predict(subject: Subject) -> torch.nn.Module:
    """Return the model with `class_names`, `pipeline` and `predict`, which runs where the model is.

    It keeps its class, and can be copied and pickled; the subject's weights are not kept twice.
    """
    weights = subject.weights
    module: Any = subject.model
    module.class_names = subject.class_names
    module.pipeline = (weights.checkpoint or {}).get("pipeline") or {
        name: getattr(weights, name) for name in ("tensors", "alpha", "size", "mean", "std")
    } | {"calls": list(weights.pipeline)}
    subject = replace(subject, weights=replace(weights, state_dict={}, checkpoint=None))
    # Not a method of a subclass, which could not be pickled.
    module.predict = partial(_predict_rows, subject)
    return cast(torch.nn.Module, module)


def _predict_rows(
    subject: Subject, images: Image | Sequence[Image], *, top: int = 1
) -> list[dict[str, Any]]:
    return predict_images(subject, images, top=top).rows


def find_images(
    sources: Sequence[str], class_names: tuple[str, ...], *, root: Path | None = None
) -> ImageList:
    """Return the images that some image files, folders (at any depth) and list files name, in that
    order.

    root: of the images in lists, see `read_list`.

    Raises:
        DataError: nothing there, or a folder without images.
        UsageError: no source, or a root without a list.
    """
    if root is not None and not any(map(_is_list, sources)):
        raise UsageError("--root is for the images of a list; name a list file (.txt)")
    paths: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            paths += _in_folder(source)
        elif _is_list(source):
            images = read_list(Path(source), root=root)
            paths += map(images.image_path, range(len(images)))
        else:
            paths.append(source)
    if not paths:
        raise UsageError("no images: name image files, folders or list files")
    return list_of(paths, class_names)


def _is_list(source: str) -> bool:
    return source.endswith(".txt") and not os.path.isdir(source)


def _in_folder(folder: str) -> list[str]:
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        # In place: os.walk goes into what is left, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(names) if _is_image(name)]
    if not found:
        raise DataError(f"{folder} has no images; expected files such as {folder}/1.png")
    return found


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def _cells(row: Mapping[str, Any], share: str) -> dict[str, str]:
    """Return column -> text, as the kind of task has them."""
    if "error" in row:
        return {"error": row["error"]}
    if "numbers" in row:
        return {name: f"{value:.6g}" for name, value in row["numbers"].items()}
    if "classes" in row:
        chances = row["probabilities"]
        words = (f"{name} {share.format(chances[name])}" for name in row["classes"])
        return {"classes": ", ".join(words) or "none"}
    cells: dict[str, str] = {}
    for place, found in enumerate(row.get("top", [row])):
        number = f" {place + 1}" if place else ""
        cells[f"class{number}"] = found["class"]
        cells[f"probability{number}"] = share.format(found["probability"])
    return cells


def _check_top(subject: Subject, top: int) -> None:
    kind = subject.task.kind
    if top < 1:
        raise UsageError(f"top must be at least 1, found {top}")
    if top > 1 and kind in (MULTI, REGRESSION):
        raise UsageError(
            f"--top ranks classes, of which an image has one; {subject.weights.source} is a {kind}"
            " model"
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
