"""A trained model as a file that other programs run: written, then replayed on real images."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ptkit.core.calibration.strangers import Strangers
from ptkit.core.data.labels import REGRESSION
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import CheckpointError, PtkitError, StorageError, UsageError
from ptkit.core.exporting import onnx_graphs, quantising, torch_files
from ptkit.core.exporting.answering import (
    NUMBERS,
    PROBABILITIES,
    STRANGENESS,
    Answering,
    Interface,
    Run,
    several,
)
from ptkit.core.exporting.metadata import Description, is_exported
from ptkit.core.exporting.preprocessing import preprocessing_of
from ptkit.core.exporting.stranger_check import StrangerCheck
from ptkit.core.files import make_folder, sync_folder
from ptkit.core.training.tasks.task import Task
from ptkit.core.wording import check_choice, reason_of
from ptkit.looking.hub import HUB, NO_CHECK
from ptkit.looking.output_folders import default_folder
from ptkit.looking.replaying import Inputs, Replayed, find_replayed, replay
from ptkit.looking.subject import Subject

SUFFIXES = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "torchscript": ".pt",
    "safetensors": ".safetensors",
}
PRECISIONS = ("fp32", "fp16", "int8")
# So many images are replayed, and so many measured for int8.
_NUM_REPLAYED, _NUM_MEASURED = 64, 256


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be written.

    to: a format of SUFFIXES. precision: one of PRECISIONS. preprocessing: whether the graph has the
    pipeline. opset: of ONNX, None for the usual one.
    """

    to: str = "onnx"
    precision: str = "fp32"
    preprocessing: bool = True
    opset: int | None = None

    def checked(self, task: Task) -> "Wanted":
        """Return it with everything decided.

        Raises:
            UsageError: settings that do not go together, or a missing library.
        """
        check_choice("--to", self.to, (*SUFFIXES, HUB))
        check_choice("--precision", self.precision, PRECISIONS)
        if self.opset is not None and self.to != "onnx":
            raise UsageError(f"--opset is of ONNX, and --to {self.to} has none: leave it out")
        if self.precision == "int8" and self.to != "onnx":
            raise UsageError(f"int8 is made for onnxruntime: add --to onnx, found --to {self.to}")
        if self.precision == "int8" and task.kind == REGRESSION:
            raise UsageError(
                "int8 is judged by accuracy, which a model that gives numbers does not have: take"
                " --precision fp16"
            )
        if self.to == "safetensors":
            if not self.preprocessing:
                raise UsageError(
                    "--to safetensors writes weights without a graph: leave"
                    " --without-preprocessing out"
                )
            return replace(self, preprocessing=False)
        if self.to == "onnx":
            opset = onnx_graphs.OPSET if self.opset is None else self.opset
            onnx_graphs.check_onnx(opset)
            return replace(self, opset=opset)
        return self


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A file that was written, and how it compares with the model on real images."""

    file: Path
    wanted: Wanted
    replayed: Replayed
    num_bytes: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what `ptkit export --json` prints."""
        wanted, replayed = self.wanted, self.replayed
        return {
            "file": str(self.file),
            "to": wanted.to,
            "precision": wanted.precision,
            "preprocessing": wanted.preprocessing,
            "opset": wanted.opset,
            "bytes": self.num_bytes,
            **replayed.as_dict(),
        }


def export_model(
    subject: Subject,
    wanted: Wanted,
    *,
    images: str | None = None,
    root: Path | None = None,
    workers: int = 0,
    out: Path | None = None,
) -> ExportedModel:
    """Write a model as a file, replay images through both, and keep the file only if they agree.

    images: a list or a folder, by default the validation list of the model's run. root: where the
    images of a list are now. out: the file, by default model.onnx or the like in RUN/export.

    Raises:
        UsageError: settings that do not go together, a step of the pipeline that no graph can have,
            or no images.
        CheckpointError: the model cannot be exported, or the file does not agree with it.
        DataError: an image or a list that cannot be read.
        StorageError: the disk refused.
    """
    wanted = wanted.checked(subject.task)
    file = _target(subject, wanted, out)
    pipeline, notes = subject.parse_pipeline(), subject.weights.lines
    if subject.task.strangers is not None and (why := _why_no_check(wanted, pipeline)):
        subject = replace(subject, task=replace(subject.task, strangers=None))
        notes = (*notes, NO_CHECK.format(why))
    # Refused before any image is read.
    before = preprocessing_of(pipeline) if wanted.preprocessing else None
    inputs = Inputs(pipeline, as_pixels=wanted.preprocessing)
    labelled = find_replayed(subject, images, root=root)
    if wanted.precision == "int8" and not labelled.has_labels:
        raise UsageError("int8 is judged by accuracy: --images must be a list with labels")
    # Refused as well: what goes in must have a size.
    interface = _interface(subject, pipeline, before)
    module = _answering(subject, before, is_half=wanted.precision == "fp16")
    measured = (batch for _, batch in inputs.batches(labelled.some(_NUM_MEASURED).images))
    with _in_place_of(file) as temporary:
        try:
            run = _written(temporary, subject, module, interface, wanted=wanted, measured=measured)
        except PtkitError:
            raise
        except OSError as error:
            raise _not_written(file, error) from error
        # Exporters raise anything of a model that they cannot take.
        except Exception as error:
            raise CheckpointError(
                f"{file} is not written: this model cannot be exported: {reason_of(error)[:300]}"
            ) from error
        chosen = labelled if wanted.precision == "int8" else labelled.some(_NUM_REPLAYED)
        replayed = replay(subject, chosen, run, inputs, workers=workers)
        if fault := replayed.fault(wanted.precision) or _fault_of_sizes(run, module, interface):
            raise CheckpointError(f"{file} is not written: {fault}")
    return ExportedModel(
        file=file,
        wanted=wanted,
        replayed=replayed,
        num_bytes=file.stat().st_size,
        notes=notes,
    )


def _why_no_check(wanted: Wanted, pipeline: Pipeline) -> str | None:
    """Say why a file cannot tell strangers, if it cannot."""
    if wanted.to == "safetensors":
        return "weights alone tell nothing"
    if wanted.precision == "int8":
        return "int8 is too coarse for it"
    if pipeline.num_crops > 1:
        return "it takes the mean of an image's crops"
    return None


def _answering(subject: Subject, before: nn.Module | None, *, is_half: bool) -> Answering:
    task, check = subject.task, None
    if isinstance(task.strangers, Strangers):
        num_classes, read = len(subject.class_names), task.plain_probabilities
        check = StrangerCheck(task.strangers, num_classes=num_classes, probabilities=read)
    model = subject.model.to("cpu").eval()
    return Answering(model, task.values, preprocessing=before, strangers=check, is_half=is_half)


@contextmanager
def _in_place_of(file: Path) -> Iterator[Path]:
    """Yield where to write a file, which gets its name at the end unless there is an error."""
    # With its ending, which torch looks at.
    temporary = file.with_name(f".{secrets.token_hex(4)}.{file.name}")
    make_folder(file.parent)
    try:
        yield temporary
        _put(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, file: Path) -> None:
    try:
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
        sync_folder(file.parent)
    except OSError as error:
        raise _not_written(file, error) from error


def _not_written(file: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {file}: {error.strerror or error}")


def _target(subject: Subject, wanted: Wanted, out: Path | None) -> Path:
    """Return the file to write; one there that ptkit did not export is left alone."""
    suffix = SUFFIXES[wanted.to]
    if out is None:
        out = default_folder("export", subject.weights.run) / f"model{suffix}"
    if out.suffix != suffix:
        raise UsageError(f"--out {out} must end in {suffix}, as files of --to {wanted.to} do")
    if os.path.lexists(out) and not (out.is_file() and _is_own(out)):
        raise UsageError(
            f"{out} is there already, and ptkit did not write it: name another with --out"
        )
    return out


def _is_own(file: Path) -> bool:
    try:
        return is_exported(file)
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error


def _interface(subject: Subject, pipeline: Pipeline, before: nn.Module | None) -> Interface:
    """Return what goes into a file and comes out.

    Raises:
        UsageError: nobody knows how large the model's images are.
    """
    weights, task = subject.weights, subject.task
    told = () if task.strangers is None else (STRANGENESS,)
    outputs = (NUMBERS if task.kind == REGRESSION else PROBABILITIES, *told)
    own = None if weights.size is None else (weights.size, weights.size)
    sides = pipeline.size or own
    if sides is None:
        raise UsageError(
            f"{weights.source} takes images of any size, and its pipeline makes none of one size:"
            " a graph needs a Resize((height, width)) in it"
        )
    if before is not None:
        # Where it does not depend on them, any size will do.
        is_any_size = pipeline.size is not None
        height, width = (sides[0] + 7, sides[1] + 11) if is_any_size else sides
        noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        return Interface(torch.from_numpy(noise), outputs, is_any_size)
    channels = pipeline.channels or 3
    noise = np.random.default_rng(0).standard_normal((2, channels, *sides), np.float32)
    return Interface(torch.from_numpy(noise), outputs, is_any_size=False)


def _written(
    path: Path,
    subject: Subject,
    module: Answering,
    interface: Interface,
    *,
    wanted: Wanted,
    measured: Iterator[np.ndarray],
) -> Run:
    """Write the file and return what runs it."""
    told = _description(subject, wanted)
    if wanted.to == "onnx":
        assert wanted.opset is not None
        model = onnx_graphs.onnx_of(module, interface, opset=wanted.opset)
        if wanted.precision == "int8":
            model = quantising.quantised(model, measured)
        onnx_graphs.write_onnx(path, model, told)
        return onnx_graphs.runner_of(path)
    if wanted.to == "safetensors":
        torch_files.write_safetensors(path, module.model, told)
        return torch_files.runner_of_weights(path, module)
    write, runner = {
        "torch-export": (torch_files.write_torch_export, torch_files.runner_of_torch_export),
        "torchscript": (torch_files.write_torchscript, torch_files.runner_of_torchscript),
    }[wanted.to]
    write(path, module, interface, told)
    return runner(path)


def _description(subject: Subject, wanted: Wanted) -> Description:
    weights, task = subject.weights, subject.task
    thresholds = None
    if task.thresholds is not None:
        thresholds = dict(zip(subject.class_names, task.thresholds.tolist(), strict=True))
    return Description(
        kind=task.kind,
        class_names=subject.class_names,
        thresholds=thresholds,
        temperature=task.temperature,
        preprocessing=wanted.preprocessing,
        pipeline={key: value for key, value in weights.pipeline_record.items() if key != "tensors"},
        model=weights.call or "",
        source_sha256=weights.sha256,
        precision=wanted.precision,
        unknown_limit=None if task.strangers is None else task.strangers.limit,
    )


def _fault_of_sizes(run: Run, module: Answering, interface: Interface) -> str | None:
    """Say what is wrong with the file for other numbers and sizes of images, if anything."""
    for trial in interface.trials():
        with torch.inference_mode():
            expected = several(module(trial))
        for found, own in zip(run(trial.numpy()), expected, strict=True):
            if found.shape != own.shape:
                shape = "×".join(map(str, trial.shape))
                return f"of {shape} it makes {found.shape}, expected {tuple(own.shape)}"
    return None
