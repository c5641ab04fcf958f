"""An ONNX file to predict with and to evaluate: it takes the place of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ptkit.core.calibration.strangers import ToldStrangers
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.lists import read_classes
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.models.checkpoints import size_of
from ptkit.core.models.onnx_files import OnnxFile, read_onnx
from ptkit.core.models.onnx_model import OnnxModel
from ptkit.core.models.weights import Weights
from ptkit.core.training.tasks.task import DECODERS, EMBEDDING, Task
from ptkit.core.wording import nearest
from ptkit.looking.subject import (
    ANSWER_FLAGS,
    Subject,
    check_alpha,
    indices_as_names,
    numbers_of,
    usual_pipeline,
)


def load_onnx(path: Path, *, device: str = "auto", workers: int = 0, **answers: Any) -> Subject:
    """Load an ONNX file with all that is needed to use it.

    answers: as of `load_subject`, for files without ptkit's metadata; an ONNX file never needs
    `model` or `transforms`. workers: threads of ONNX Runtime, 0 for one a core.

    Raises:
        UsageError: an answer that is missing, or that the file holds; a device other than the CPU.
        CheckpointError: see `read_onnx`; or ONNX Runtime cannot load it.
        DataError: class names that are not as many as the outputs.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"{path} runs on the CPU, with ONNX Runtime: leave out --device {device}")
    check_alpha(answers.get("alpha"))
    given = {
        ANSWER_FLAGS[name]: value for name, value in answers.items() if value not in (None, ())
    }
    file = read_onnx(path)
    allowed = set() if file.about else {"--mean", "--std", "--size", "--classes", "--alpha"}
    if needless := ", ".join(flag for flag in given if flag not in allowed):
        raise UsageError(f"{path} is an ONNX file and already stores this: leave out {needless}")
    if file.about is not None:
        return _of_export(file, file.about, workers)
    return _of_other(file, given, workers)


def _of_export(file: OnnxFile, about: Mapping[str, Any], workers: int) -> Subject:
    """Return the subject in a file of `ptkit export`."""
    pipeline, names = about["pipeline"], tuple(about["class_names"])
    if not names or file.num_outputs not in (None, len(names)):
        raise CheckpointError(
            f"{file.path} names {len(names)} classes and gives {file.num_outputs} numbers an image"
        )
    weights = Weights(
        state_dict={},
        path=file.path,
        source=str(file.path),
        class_names=names,
        # Inside the graph, where it has preprocessing.
        pipeline=() if file.takes_pixels else tuple(pipeline["calls"]),
        alpha=pipeline.get("alpha", "drop"),
        size=size_of(pipeline),
        mean=tuple(pipeline.get("mean") or ()) or None,
        std=tuple(pipeline.get("std") or ()) or None,
    )
    model = OnnxModel(file, workers=workers)
    return Subject(weights, model, names, _task(file, about), takes_pixels=file.takes_pixels)


def _task(file: OnnxFile, about: Mapping[str, Any]) -> Task:
    """Return how the outputs of `ptkit export` are read: they are probabilities or numbers."""
    kind, names = about["kind"], about["class_names"]
    if kind not in DECODERS:
        raise CheckpointError(
            f"this ptkit cannot read the outputs of {file.path}: no kind of task is called"
            f" {kind[:80]}{nearest(kind, DECODERS)}"
        )
    if kind == REGRESSION:
        return Task(REGRESSION, "number")
    if kind == EMBEDDING:
        kind = SINGLE
    strangers = ToldStrangers(about["unknown_limit"]) if file.tells_strangers else None
    thresholds = about.get("thresholds")
    if thresholds is None:
        return Task(kind, "none", strangers=strangers)
    if missing := [name for name in names if name not in thresholds]:
        raise CheckpointError(f"{file.path} has no threshold of the class {missing[0][:80]}")
    limits = torch.tensor([thresholds[name] for name in names])
    return Task(kind, "none", thresholds=limits, strangers=strangers)


def _of_other(file: OnnxFile, given: Mapping[str, Any], workers: int) -> Subject:
    """Return the subject in a file of another program, with the user's answers."""
    size = _size(file, given.get("--size"))
    answers = {"--mean R,G,B": given.get("--mean"), "--std R,G,B": given.get("--std"),
               "--size PIXELS": size}  # fmt: skip
    if missing := ", ".join(flag for flag, value in answers.items() if value is None):
        raise UsageError(
            f"{file.path} has no metadata of ptkit: add {missing} (and --classes FILE for names)"
        )
    assert size is not None
    mean, std = numbers_of(given["--mean"], given["--std"])
    if len(mean) != file.channels:
        raise UsageError(
            f"{file.path} takes images of {file.channels} channels: give --mean and --std as many"
            f" numbers, found {len(mean)}"
        )
    model = OnnxModel(file, workers=workers)
    num_outputs = file.num_outputs or model(torch.zeros(1, file.channels, size, size)).shape[1]
    classes = given.get("--classes")
    names = None if classes is None else read_classes(classes)
    if names is not None and len(names) != num_outputs:
        raise DataError(
            f"{classes} has {len(names)} class names, but {file.path} gives {num_outputs} numbers"
        )
    has_softmax = file.last_step == "Softmax"
    note = "the graph gives probabilities" if has_softmax else "softmax of what the graph gives"
    weights = Weights(
        state_dict={},
        path=file.path,
        source=str(file.path),
        notes=(note,),
        class_names=names,
        pipeline=usual_pipeline(size, mean=mean, std=std),
        alpha=given.get("--alpha", "drop"),
        size=size,
        mean=mean,
        std=std,
    )
    task = Task(SINGLE, "none" if has_softmax else "softmax")
    return Subject(weights, model, names or indices_as_names(num_outputs), task)


def _size(file: OnnxFile, given: int | None) -> int | None:
    """Return the pixels of a side: the graph's own, where it has some."""
    own = {file.height, file.width} - {None}
    if len(own) == 2 or (given is not None and own - {given}):
        written = "×".join(str(side or "any") for side in (file.height, file.width))
        found = f", found --size {given}" if given else "; only square ones are made"
        raise UsageError(f"{file.path} takes images of {written} pixels{found}")
    return given or next(iter(own), None)
