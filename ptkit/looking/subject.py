"""A model to look at: from a checkpoint, a run folder, or bare weights with the user's answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import SINGLE, ImageList, read_classes
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.data.transforms.completion import complete, evaluation_geometry
from ptkit.core.data.transforms.pipeline import Pipeline, denormalise
from ptkit.core.device import choose_device
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import rebuild
from ptkit.core.models.locate import read_weights
from ptkit.core.models.weights import Weights
from ptkit.core.models.zoo import build_model, find_head
from ptkit.core.parts.calls import parse
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.prediction import Predicted, predict_list
from ptkit.core.training.tasks.task import Task, read_task

# A number of outputs that no layer but the head has.
_UNUSUAL = 1013


@dataclass(frozen=True)
class Subject:
    """A model with all that is needed to use it.

    class_names: mere indices where nobody gave names. task: how outputs are read.
    """

    weights: Weights
    model: nn.Module
    class_names: tuple[str, ...]
    task: Task

    @property
    def has_class_names(self) -> bool:
        """Whether the classes have names, rather than mere indices."""
        return self.weights.class_names is not None

    def parse_pipeline(self) -> Pipeline:
        """Return the pipeline, planned; it names built-in transforms only.

        Raises:
            CheckpointError: it names user code.
        """
        return Pipeline.parse(
            self.weights.pipeline, allow_user_code=False, tensors=self.weights.tensors
        )

    def predict(
        self, images: ImageList, *, device: str, workers: int, bad: Unreadable | None = None
    ) -> Predicted:
        """Run the model over a list of images; it stays on the device. bad: see `predict_list`.

        Raises:
            DataError: an image that cannot be read.
            CheckpointError: the pipeline names user code.
            UsageError: not a device, or one that is not there.
        """
        place, sampling = choose_device(device), Sampling(evaluation_batch_size(self.weights.size))
        pipeline = self.parse_pipeline()
        batches = Batches(images, pipeline, sampling, device=place, workers=workers)
        return predict_list(self.model.to(place), batches, task=self.task, bad=bad)

    def pixels(self, images: Tensor) -> npt.NDArray[np.uint8]:
        """Return what the model gets (n, 3, H, W) as pictures, uint8 (n, H, W, 3)."""
        # Without Normalize the pixels are what the model sees.
        mean, std = self.weights.mean or (0.0, 0.0, 0.0), self.weights.std or (1.0, 1.0, 1.0)
        return denormalise(images, mean, std)


def load_subject(
    path: Path,
    *,
    model: str | None = None,
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    size: int | None = None,
    classes: Path | None = None,
) -> Subject:
    """Load a model from a checkpoint or run folder, or from bare weights and the five answers.

    model: a call; of a checkpoint, only needed where its own names user code. mean, std: three
    numbers of 0..1, or "R,G,B". classes: a file with one class name a line.

    Raises:
        UsageError: bare weights with an answer missing, or a checkpoint with one that it holds.
        CheckpointError: no such file, damaged, or weights that do not fit the model.
    """
    weights = read_weights(path)
    checkpoint = weights.checkpoint
    if checkpoint is None:
        return _of_bare_weights(
            weights, model=model, mean=mean, std=std, size=size, classes=classes
        )
    given = {"--mean": mean, "--std": std, "--size": size, "--classes": classes}
    if needless := ", ".join(flag for flag, value in given.items() if value is not None):
        raise UsageError(f"{path} is a checkpoint and already stores this: leave out {needless}")
    module = rebuild(checkpoint, model=model)
    try:
        task = read_task(checkpoint["task"])
    except UsageError as error:
        text = f"this ptkit cannot read the outputs of {weights.path}: {error}"
        raise CheckpointError(text) from error
    return Subject(weights, module, tuple(checkpoint["classes"]), task)


def _of_bare_weights(
    weights: Weights,
    *,
    model: str | None,
    mean: str | Sequence[float] | None,
    std: str | Sequence[float] | None,
    size: int | None,
    classes: Path | None,
) -> Subject:
    if model is None or mean is None or std is None or size is None:
        needed = {"--model NAME": model, "--mean R,G,B": mean, "--std R,G,B": std,
                  "--size PIXELS": size}  # fmt: skip
        missing = ", ".join(flag for flag, value in needed.items() if value is None)
        raise UsageError(
            f"{weights.source} holds bare weights: add {missing} (and --classes FILE for names)"
        )
    means, stds = _rgb("--mean", mean), _rgb("--std", std)
    if min(stds) <= 0:
        raise UsageError(f"--std must be above 0, found {std}")
    names = read_classes(classes) if classes is not None else None
    num_classes = _num_classes(model, weights, size)
    if names is not None and len(names) != num_classes:
        raise DataError(
            f"{classes} has {len(names)} class names, but the weights have {num_classes} outputs"
        )
    contents = {
        "model": {"call": model, "num_classes": num_classes},
        "pipeline": {"size": size},
        "state_dict": weights.state_dict,
    }
    calls = complete(evaluation_geometry(size), size=size, mean=means, std=stds)
    completed = replace(
        weights,
        call=model,
        class_names=names,
        pipeline=tuple(map(str, calls)),
        size=size,
        mean=means,
        std=stds,
    )
    indices = tuple(map(str, range(num_classes)))
    module = rebuild(contents, model=model)
    return Subject(completed, module, names or indices, Task(SINGLE, "softmax"))


def _num_classes(model: str, weights: Weights, size: int) -> int:
    """Return how many classes bare weights tell apart: the call says it, or the rows of the model's
    last layer do.
    """
    call = parse(model)
    given = call.kwargs.get("num_classes")
    if isinstance(given, int):
        return given
    module, _ = build_model(call, num_classes=_UNUSUAL, size=size, seed=0)
    try:
        head = find_head(module, _UNUSUAL)
    except UsageError:
        raise UsageError(
            f"cannot see how many classes {model} has: write {call.name}(num_classes=...)"
        ) from None
    weight = weights.state_dict.get(f"{head}.weight")
    if weight is None:
        raise CheckpointError(f"{weights.path} does not fit {model}: it has no {head}.weight")
    return len(weight)


def _rgb(flag: str, given: str | Sequence[float]) -> tuple[float, ...]:
    try:
        values = tuple(map(float, given.split(",") if isinstance(given, str) else given))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise UsageError(
            f"{flag} must be three numbers of 0..1 such as 0.485,0.456,0.406, found {given!r}"
        )
    return values
