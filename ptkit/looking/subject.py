"""A model to look at: from a checkpoint, a run folder, or bare weights with the user's answers."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptkit.core.config.settings import ALPHA
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import ImageList, read_classes
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.data.transforms.completion import complete, evaluation_geometry
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import choose_device
from ptkit.core.distributed import own_device, share_hashes
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import rebuild
from ptkit.core.models.fitting import fit_bare_weights
from ptkit.core.models.locate import find_weights
from ptkit.core.models.onnx_model import OnnxModel
from ptkit.core.models.weights import Weights
from ptkit.core.parts.calls import Call, joined, names_code, parse, parse_all
from ptkit.core.ranks import here
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import Predicted, predict_list, predicted_parts
from ptkit.core.training.tasks.task import EMBEDDING, Task, read_task
from ptkit.core.wording import check_choice
from ptkit.looking.same_sizes import HowPixels, predict_pixel_parts, predict_pixels

BoolArray = npt.NDArray[np.bool_]
# The answers of bare weights, and the flags that give them.
ANSWER_FLAGS = {
    "model": "--model",
    "mean": "--mean",
    "std": "--std",
    "size": "--size",
    "classes": "--classes",
    "transforms": "--transform",
    "alpha": "--alpha",
}


# Numbers as Python has them, or as "R,G,B".
Numbers = str | Sequence[float]


@dataclass(frozen=True)
class Subject:
    """A model with all that is needed to use it.

    class_names: mere indices where nobody gave names. task: how outputs are read. own_steps: user
    code in the pipeline that the user has named again. takes_pixels: the model takes decoded images
    as they are, those of one size together.
    """

    weights: Weights
    model: nn.Module
    class_names: tuple[str, ...]
    task: Task
    own_steps: tuple[Call, ...] = ()
    takes_pixels: bool = False

    @property
    def has_class_names(self) -> bool:
        """Whether the classes have names, rather than mere indices."""
        return self.weights.class_names is not None

    def parse_pipeline(self) -> Pipeline:
        """Return the pipeline, planned; it runs no user code that was not named again.

        Raises:
            CheckpointError: it names user code.
        """
        return Pipeline.parse(
            self.weights.pipeline,
            allow_user_code=False,
            named_again=self.own_steps,
            tensors=self.weights.tensors,
            alpha=self.weights.alpha,
        )

    def predict(
        self, images: ImageList, *, device: str, workers: int, bad: Unreadable | None = None
    ) -> tuple[Predicted, BoolArray | None]:
        """Run the model over a list of images; it stays on the device. bad: see `predict_list`.

        Also says of each image whether the weights were trained on it, bool (N,): on a file with
        the same bytes. None where they do not know.

        Raises:
            DataError: an image that cannot be read.
            CheckpointError: the pipeline names user code.
            UsageError: not a device, or one that is not there.
        """
        if self.takes_pixels:
            found = predict_pixels(self.model, images, self._how(workers), bad=bad)
            self._check_finite(found)
            return found, None
        # Steps of the user's own run in processes, which would wait for the garbage collector.
        with closing(self.batches(images, device=device, workers=workers)) as batches:
            model = self.model.to(batches.device)
            found = predict_list(model, batches, task=self.task, bad=bad)
            self._check_finite(found)
            return found, self.trained_on(batches)

    def _how(self, workers: int) -> HowPixels:
        return HowPixels(self.task, self.weights.alpha, workers)

    def _check_finite(self, found: Predicted) -> None:
        if num_bad := int((~np.isfinite(found.values)).any(axis=1).sum()):
            raise CheckpointError(
                f"{self.weights.source} gives NaN or infinite outputs for {num_bad:,} of"
                f" {len(found.values):,} images: its weights are damaged"
            )

    def predict_parts(
        self, images: ImageList, *, device: str, workers: int, bad: Unreadable | None = None
    ) -> Iterator[tuple[Predicted, BoolArray | None]]:
        """Yield what `predict` returns in parts, in the list's order, as they come; with several
        ranks as one part.

        Raises:
            DataError, CheckpointError, UsageError: see `predict`.
        """
        if not here().is_alone:
            yield self.predict(images, device=device, workers=workers, bad=bad)
            return
        if self.takes_pixels:
            for found in predict_pixel_parts(self.model, images, self._how(workers), bad=bad):
                self._check_finite(found)
                yield found, None
            return
        batches = self.batches(images, device=device, workers=workers)
        trained_on = self.weights.image_hashes
        hashes = None if trained_on is None else np.unique(trained_on)
        with closing(batches):
            parts = predicted_parts(self.model.to(batches.device), batches, task=self.task, bad=bad)
            for indices, found in parts:
                if not np.isfinite(found.values).all():
                    row = int((~np.isfinite(found.values)).any(axis=1).argmax())
                    raise CheckpointError(
                        f"{self.weights.source} gives NaN or infinite outputs for"
                        f" {images.listed_path(int(indices[row]))}: its weights are damaged"
                    )
                known = None
                if hashes is not None:
                    known = _are_in(batches.known_hashes()[indices], hashes)
                yield found, known

    def trained_on(self, batches: Batches) -> BoolArray | None:
        """Return which images of batches that were read the weights were trained on, bool (N,);
        None where they do not know.
        """
        if (trained_on := self.weights.image_hashes) is None:
            return None
        share_hashes(batches.known_hashes())
        known: BoolArray = np.isin(batches.image_hashes(), trained_on)
        return known

    def batches(self, images: ImageList, *, device: str, workers: int) -> Batches:
        """Return the batches of a list as the model takes them; raises what `predict` does."""
        is_onnx = isinstance(self.model, OnnxModel)
        place = torch.device("cpu") if is_onnx else own_device(choose_device(device))
        sampling = Sampling(evaluation_batch_size(self.weights.size), rank=here())
        return Batches(images, self.parse_pipeline(), sampling, device=place, workers=workers)

    def pixels(self, images: Tensor) -> npt.NDArray[np.uint8]:
        """Return what the model gets (n, C, H, W) as pictures, uint8 (n, H, W, 3)."""
        # Without Normalize the pixels are what the model sees.
        return denormalise(images, self.weights.mean or (0.0,), self.weights.std or (1.0,))


def _are_in(own: npt.NDArray[np.int64], ordered: npt.NDArray[np.int64]) -> BoolArray:
    """Say which hashes of files are among others, which are in order; 0 is no hash."""
    # Not np.isin, which would sort all of them for each batch.
    places = np.searchsorted(ordered, own)
    found: BoolArray = np.append(ordered, 0)[places] == own
    found &= own != 0
    return found


def load_subject(path: Path, *, alpha: str | None = None, **answers: Any) -> Subject:
    """Load a model with all that is needed to use it: see `subject_of`, which takes the answers.

    Raises:
        UsageError: see `subject_of`.
        CheckpointError: no such file, damaged, or see `subject_of`.
    """
    check_alpha(alpha)
    weights = find_weights(str(path), model=answers.get("model"), size=answers.get("size"))
    return subject_of(weights, alpha=alpha, **answers)


def subject_of(weights: Weights, *, alpha: str | None = None, **answers: Any) -> Subject:
    """Return the model of some weights, with all that is needed to use it.

    alpha: what becomes of transparent pixels, of bare weights; see `images.read`. answers: see
    `_completed`.

    Raises:
        UsageError: another `alpha`. UsageError, CheckpointError: see `_completed`.
    """
    check_alpha(alpha)
    subject = _completed(weights, **answers)
    if alpha is None:
        return subject
    if weights.checkpoint is not None:
        raise UsageError(
            f"{weights.source} is a checkpoint and already stores this: leave out --alpha"
        )
    return replace(subject, weights=replace(subject.weights, alpha=alpha))


def check_alpha(alpha: str | None) -> None:
    """Raise a UsageError unless this can become of transparent pixels; None is for not given."""
    if alpha is not None:
        check_choice("--alpha", alpha, ALPHA)


def _completed(
    weights: Weights,
    *,
    model: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | None = None,
    classes: Path | None = None,
    transforms: Sequence[str] = (),
) -> Subject:
    """Return the model of a checkpoint, or of bare weights with the five answers, or torchvision's
    of a name.

    model: a call; of a checkpoint, only needed where its own names user code. mean, std: three
    numbers of 0..1, or "R,G,B"; one for a model of grey images. classes: a file with one class name
    a line. transforms: the user's own steps that a checkpoint's pipeline names, again, in their
    order.

    Raises:
        UsageError: bare weights with an answer missing, or a checkpoint with one that it holds.
        CheckpointError: weights that do not fit the model.
    """
    weights, own_steps = _with_own_steps(weights, transforms)
    checkpoint = weights.checkpoint
    if checkpoint is None:
        return _of_other_weights(
            weights, model=model, mean=mean, std=std, size=size, classes=classes
        )
    given = {"--mean": mean, "--std": std, "--size": size, "--classes": classes}
    if needless := ", ".join(flag for flag, value in given.items() if value is not None):
        raise UsageError(
            f"{weights.source} is a checkpoint and already stores this: leave out {needless}"
        )
    module, notes = rebuild(checkpoint, model=model)
    weights = replace(weights, notes=(*weights.notes, *notes))
    try:
        task = read_task(checkpoint["task"])
    except UsageError as error:
        text = f"this ptkit cannot read the outputs of {weights.path}: {error}"
        raise CheckpointError(text) from error
    if task.kind == EMBEDDING and task.class_means is None:
        raise CheckpointError(
            f"{weights.path} has no class means, by which images get a class; the ckpt.pkl of its"
            " run has them"
        )
    return Subject(weights, module, tuple(checkpoint["classes"]), task, own_steps)


def _with_own_steps(
    weights: Weights, transforms: Sequence[str]
) -> tuple[Weights, tuple[Call, ...]]:
    """Put calls of the user's in the place of the user code that a pipeline names."""
    own, calls = parse_all(transforms), parse_all(weights.pipeline)
    saved = [call for call in calls if names_code(call)]
    if own and len(own) != len(saved):
        raise UsageError(
            f"--transform names the own transforms of a checkpoint again: {weights.source} has"
            f" {joined(saved) or 'none'}, found {joined(own)}"
        )
    again = iter(own)
    named = [next(again) if own and names_code(call) else call for call in calls]
    notes = tuple(
        f"{new} in the place of {old}"
        for new, old in zip(named, calls, strict=True)
        if str(new) != str(old)
    )
    pipeline = tuple(map(str, named))
    return replace(weights, pipeline=pipeline, notes=(*weights.notes, *notes)), own


def _of_other_weights(
    weights: Weights,
    *,
    model: str | None,
    mean: Numbers | None,
    std: Numbers | None,
    size: int | None,
    classes: Path | None,
) -> Subject:
    is_as_trained = mean is None and std is None and size in (None, weights.size)
    # A tag has said what the weights are.
    is_told = model is None or parse(model).tag
    model, size = weights.call if is_told else model, size or weights.size
    mean = weights.mean if mean is None else mean
    std = weights.std if std is None else std
    if model is None or mean is None or std is None or size is None:
        needed = {"--model NAME": model, "--mean R,G,B": mean, "--std R,G,B": std,
                  "--size PIXELS": size}  # fmt: skip
        missing = ", ".join(flag for flag, value in needed.items() if value is None)
        raise UsageError(
            f"{weights.source} holds bare weights: add {missing} (and --classes FILE for names)"
        )
    means, stds = numbers_of(mean, std)
    names = read_classes(classes) if classes is not None else weights.class_names
    channels = len(means)
    fitted = fit_bare_weights(weights, model=model, size=size, channels=channels)
    num_classes = fitted.num_classes
    if names is not None and len(names) != num_classes:
        raise DataError(
            f"{classes or weights.source} has {len(names)} class names, but the weights have"
            f" {num_classes} outputs"
        )
    pipeline = weights.pipeline
    if not (pipeline and is_as_trained):
        pipeline = usual_pipeline(size, mean=means, std=stds)
    completed = replace(
        weights,
        notes=fitted.notes,
        call=fitted.call,
        class_names=names,
        pipeline=pipeline,
        size=size,
        mean=means,
        std=stds,
    )
    class_names = names or indices_as_names(num_classes)
    return Subject(completed, fitted.module, class_names, Task(SINGLE, "softmax"))


def usual_pipeline(
    size: int, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[str, ...]:
    """Return the steps that images of a model without a pipeline of its own usually take; of one
    mean for grey images.
    """
    grey = (Call("Grayscale"),) if len(mean) == 1 else ()
    calls = complete((*evaluation_geometry(size), *grey), size=size, mean=mean, std=std)
    return tuple(map(str, calls))


def indices_as_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of classes that have none."""
    return tuple(map(str, range(num_classes)))


def numbers_of(mean: Numbers, std: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation as given: three numbers of 0..1, or "R,G,B"; or one.

    Raises:
        UsageError: something else.
    """
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    if min(stds) <= 0:
        raise UsageError(f"--std must be above 0, found {std}")
    if len(means) != len(stds):
        raise UsageError(f"--mean and --std must be as many numbers, found {mean} and {std}")
    return means, stds


def _numbers(flag: str, given: Numbers) -> tuple[float, ...]:
    try:
        values = tuple(map(float, given.split(",") if isinstance(given, str) else given))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(0 <= value <= 1 for value in values):
        raise UsageError(
            f"{flag} must be three numbers of 0..1 such as 0.485,0.456,0.406, or one for a model of"
            f" grey images, found {given!r}"
        )
    return values
