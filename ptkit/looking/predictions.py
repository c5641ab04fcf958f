"""A model's answers for images that have no labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.data.labels import MULTI, REGRESSION
from ptkit.core.data.lists import ImageList, list_of, read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.sampling import Sampling
from ptkit.core.data.splits.scanning import IMAGE_EXTENSIONS
from ptkit.core.errors import DataError, UsageError
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import predict_list
from ptkit.looking.subject import Subject


@dataclass(frozen=True)
class Answers:
    """What a model says about some images, in order.

    kind: of the task, as Task.kind. values: float32 (N, K) probabilities, or (N, D) numbers.
    answers: int64 (N,) classes, bool (N, K) for several labels, or the numbers again.
    """

    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    kind: str
    values: np.ndarray
    answers: np.ndarray

    def rows(self, *, top: int = 1) -> list[dict[str, Any]]:
        """Return one plain mapping an image: path, and what the kind of task has to say.

        One class an image: class, index, probability, and with `top` above 1 the most probable
        classes under `top`.
        """
        return [{"path": path, **self._answer(k, top)} for k, path in enumerate(self.paths)]

    def _answer(self, row: int, top: int) -> dict[str, Any]:
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
        best = int(self.answers[row])
        answer: dict[str, Any] = {
            "class": names[best],
            "index": best,
            "probability": float(values[best]),
        }
        if top > 1:
            order = np.argsort(-values, kind="stable")[:top].tolist()
            answer["top"] = [
                {"class": names[k], "index": k, "probability": float(values[k])} for k in order
            ]
        return answer


def answer(subject: Subject, images: ImageList, *, device: Any, workers: int = 0) -> Answers:
    """Run the subject over images, on the device.

    Raises:
        DataError: an image that cannot be read.
        CheckpointError: the saved pipeline names user code.
    """
    batch_size = evaluation_batch_size(subject.size)
    batches = Batches(
        images, subject.parse_pipeline(), Sampling(batch_size), device=device, workers=workers
    )
    found = predict_list(subject.model.to(device), batches, task=subject.task)
    paths = tuple(images.listed_path(k) for k in range(len(images)))
    return Answers(paths, subject.class_names, subject.task.kind, found.values, found.answers)


def find_images(sources: Sequence[str], class_names: tuple[str, ...]) -> ImageList:
    """Return the images that some image files, folders (at any depth) and list files name, in that
    order.

    Raises:
        DataError: nothing there, or a folder without images.
        UsageError: no source.
    """
    paths: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            paths += _in_folder(source)
        elif source.endswith(".txt"):
            images = read_list(Path(source))
            paths += [images.image_path(k) for k in range(len(images))]
        else:
            paths.append(source)
    if not paths:
        raise UsageError("no images: name image files, folders or list files")
    return list_of(paths, class_names)


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
