"""What a command looks at: a checkpoint, a run folder, or bare weights with what the user says
about them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ptkit.core.data.labels import SINGLE
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import read_weights, rebuild
from ptkit.core.models.weights import Weights
from ptkit.core.parts.calls import parse
from ptkit.core.training.tasks.task import Task, read_task

if TYPE_CHECKING:
    from ptkit.core.data.transforms.pipeline import Pipeline


@dataclass(frozen=True)
class Subject:
    """A model with all that is needed to use it.

    path: of the weights file. state_dict: as it stands in the file. pipeline: the calls that turn
    an image file into what the model takes, with its tensors. size: pixels of a side, if known.
    mean, std: of that pipeline, 0..1.
    task: how outputs are read. has_class_names: False where the names are mere indices because
    nobody said more.
    run: the run folder that the file lies in, if any. epoch: of the weights, if known.
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    model: nn.Module
    class_names: tuple[str, ...]
    pipeline: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: Task
    has_class_names: bool
    run: Path | None
    epoch: int | None

    def parse_pipeline(self) -> "Pipeline":
        """Return the pipeline, planned; it names built-in transforms only.

        Raises:
            CheckpointError: it names user code.
        """
        from ptkit.core.data.transforms.pipeline import Pipeline

        return Pipeline.parse(self.pipeline, allow_user_code=False, tensors=self.tensors)

    @property
    def described(self) -> str:
        """The file and its epoch, for the footer of a figure."""
        return describe(self.path, self.epoch)


def load_subject(
    path: Path,
    *,
    model: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    size: int | None = None,
    classes: Path | None = None,
) -> Subject:
    """Load a model from a checkpoint or run folder, or from bare weights and the five answers.

    model: a call; of a checkpoint, only needed where its own names user code. mean, std: "R,G,B" in
    0..1. classes:
    a file with one class name a line.

    Raises:
        UsageError: bare weights with an answer missing, or a checkpoint with one that it gives
            itself.
        CheckpointError: no such file, damaged, or weights that do not fit the model.
    """
    weights = read_weights(path)
    if weights.checkpoint is None:
        return _from_bare_weights(
            weights, path, model=model, mean=mean, std=std, size=size, classes=classes
        )
    given = {"--mean": mean, "--std": std, "--size": size, "--classes": classes}
    needless = [flag for flag, value in given.items() if value is not None]
    if needless:
        raise UsageError(
            f"{path} is a checkpoint and says this itself: leave out {', '.join(needless)}"
        )
    return _from_checkpoint(weights, weights.checkpoint, model)


def run_folder(file: Path) -> Path | None:
    """Return the run folder that a file lies in (seen through links), or None."""
    folder = file.resolve().parent
    return _short(folder) if (folder / "config.toml").is_file() else None


def output_folder(run: Path | None, *, command: str, out: Path | None) -> Path:
    """Return where a command's pictures go: `out`, else RUN/COMMAND, else ./ptkit-COMMAND."""
    if out is not None:
        return out
    return Path(f"ptkit-{command}") if run is None else run / command


def epoch_of(checkpoint: Mapping[str, Any] | None) -> int | None:
    """Return the epoch of a checkpoint's weights, or None where it does not say."""
    epoch = (checkpoint or {}).get("metrics", {}).get("epoch")
    return int(epoch) if isinstance(epoch, int | float) else None


def describe(path: Path, epoch: int | None) -> str:
    """Return `runs/1/ckpt.pkl · epoch 12`."""
    shown = str(_short(path.resolve()) if path.is_symlink() else path)
    return shown if epoch is None else f"{shown} · epoch {epoch}"


def _from_checkpoint(weights: Weights, checkpoint: dict[str, Any], model: str | None) -> Subject:
    pipeline = checkpoint["pipeline"]
    size = pipeline.get("size")
    return Subject(
        path=weights.path,
        state_dict=weights.state_dict,
        model=rebuild(checkpoint, model=model),
        class_names=tuple(checkpoint["classes"]),
        pipeline=tuple(pipeline["calls"]),
        tensors=pipeline.get("tensors") or {},
        size=size if isinstance(size, int) else None,
        # Without Normalize the pixels are what the model sees.
        mean=tuple(pipeline.get("mean") or (0.0, 0.0, 0.0)),
        std=tuple(pipeline.get("std") or (1.0, 1.0, 1.0)),
        task=_task_of(checkpoint, weights.path),
        has_class_names=True,
        run=run_folder(weights.path),
        epoch=epoch_of(checkpoint),
    )


def _task_of(checkpoint: Mapping[str, Any], path: Path) -> Task:
    try:
        return read_task(checkpoint["task"])
    except UsageError as error:
        raise CheckpointError(f"this ptkit cannot read the outputs of {path}: {error}") from error


def _from_bare_weights(
    weights: Weights,
    path: Path,
    *,
    model: str | None,
    mean: str | None,
    std: str | None,
    size: int | None,
    classes: Path | None,
) -> Subject:
    needed = {
        "--model NAME": model,
        "--mean R,G,B": mean,
        "--std R,G,B": std,
        "--size PIXELS": size,
    }
    missing = [flag for flag, value in needed.items() if value is None]
    if missing:
        raise UsageError(
            f"{path} holds bare weights: add {', '.join(missing)} (and --classes FILE for names)"
        )
    assert model is not None
    assert mean is not None
    assert std is not None
    assert size is not None
    from ptkit.core.data.lists import read_classes
    from ptkit.core.data.transforms.completion import complete, evaluation_geometry

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
    return Subject(
        path=weights.path,
        state_dict=weights.state_dict,
        model=rebuild(contents, model=model),
        class_names=names or tuple(map(str, range(num_classes))),
        pipeline=complete(evaluation_geometry(size), size=size, mean=means, std=stds),
        tensors={},
        size=size,
        mean=means,
        std=stds,
        task=Task(SINGLE, "softmax"),
        has_class_names=names is not None,
        run=run_folder(weights.path),
        epoch=None,
    )


def _num_classes(model: str, weights: Weights, size: int) -> int:
    """Return how many classes bare weights tell apart: the call says it, or the rows of the model's
    last layer do.
    """
    from ptkit.core.models.zoo import build_model, find_head

    call = parse(model)
    if isinstance(call.kwargs.get("num_classes"), int):
        return call.kwargs["num_classes"]
    # A number that no other layer of a model has, so that the head is the one that has it.
    unusual = 1013
    module, _ = build_model(call, num_classes=unusual, size=size, seed=0)
    try:
        head = find_head(module, unusual)
    except UsageError:
        raise UsageError(
            f"cannot see how many classes {model} has: write {call.name}(num_classes=...)"
        ) from None
    weight = weights.state_dict.get(f"{head}.weight")
    if weight is None:
        raise CheckpointError(f"{weights.path} does not fit {model}: it has no {head}.weight")
    return len(weight)


def _rgb(flag: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise UsageError(
            f"{flag} must be three numbers of 0..1 such as 0.485,0.456,0.406, found {text!r}"
        )
    return values


def _short(path: Path) -> Path:
    """Return a path relative to the working directory where it lies inside."""
    here = Path(os.path.realpath("."))
    return path.relative_to(here) if path.is_relative_to(here) else path
