"""ONNX files: made by torch's exporters, run by onnxruntime."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.errors import CheckpointError, PtkitError, StorageError, UsageError
from ptkit.core.exporting.answering import Answering, Interface, Run, several
from ptkit.core.exporting.metadata import Description
from ptkit.core.exporting.quiet import quietly
from ptkit.core.exporting.torch_files import traced_of
from ptkit.core.models.onnx_files import INSTALL
from ptkit.core.wording import amount, reason_of

# torch's exporter writes this one by itself; others are converted from it.
OPSET, OLDEST_OPSET = 18, 18
# What one file of protobuf may hold.
_MOST_BYTES = 2**31 - 1
# How far an exporter's graph may be off on its trials before the other exporter is asked.
_NEAR = 1e-4
# A program that reads a graph as `runner_of` does.
_READ = """
import sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def check_onnx(opset: int) -> None:
    """Refuse what cannot be made here, before any work.

    Raises:
        UsageError: a library is missing, or an opset that it does not know.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--to onnx needs onnx, onnxscript and onnxruntime: {INSTALL}") from error
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"--opset must be {OLDEST_OPSET} to {newest}, found {opset}")


def onnx_of(module: Answering, interface: Interface, *, opset: int) -> Any:
    """Return a module as an ONNX model, from the first exporter whose graph computes the same.

    Raises:
        CheckpointError: none does; or it is larger than such a file may be.
    """
    _check_size(module)
    faults = []
    for exporter in (_from_export, _from_torchscript):
        try:
            with quietly(), torch.no_grad():
                model = exporter(module, interface, opset)
                fault = _fault_of(model, module, interface, opset)
        except PtkitError:
            raise
        # An exporter may raise anything of a model that it cannot take.
        except Exception as error:
            fault = reason_of(error)
        if fault is None:
            return model
        faults.append(fault[:200])
    raise CheckpointError(f"this model cannot be exported to ONNX: {faults[0]}")


def _check_size(module: Answering) -> None:
    # Before any work: protobuf does not even say the size of a model that is too large.
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > _MOST_BYTES:
        half = "" if module.is_half else "--precision fp16, or "
        raise CheckpointError(
            f"an ONNX file holds up to 2.1 GB, and the model has {amount(size)}: take {half}--to"
            " torch-export"
        )


def _from_export(module: Answering, interface: Interface, opset: int) -> Any:
    program = torch.onnx.export(
        module,
        (interface.example,),
        dynamo=True,
        input_names=["images"],
        output_names=[*interface.outputs],
        dynamic_shapes={"images": interface.dimensions},
        opset_version=opset,
    )
    assert program is not None
    return program.model_proto


def _from_torchscript(module: Answering, interface: Interface, opset: int) -> Any:
    import onnx

    # Not a path, as newer annotations ask for: what is in memory needs no place.
    file: Any = io.BytesIO()
    torch.onnx.export(
        traced_of(module, interface),
        (interface.example,),
        file,
        dynamo=False,
        input_names=["images"],
        output_names=[*interface.outputs],
        dynamic_axes={
            "images": interface.axes,
            **{name: {0: "batch"} for name in interface.outputs},
        },
        opset_version=opset,
    )
    return onnx.load_from_string(file.getvalue())


def _fault_of(model: Any, module: Answering, interface: Interface, opset: int) -> str | None:
    """Say what is wrong with a graph, if anything, by what it makes of a few images."""
    versions = {one.domain: one.version for one in model.opset_import}
    if versions.get("") != opset:
        return f"torch's exporter has no opset {opset} for it, only {versions.get('')}"
    content = model.SerializeToString()
    if crash := _crash_of(content):
        return crash
    run = runner_of(content)
    for trial in interface.trials():
        for expected, found in zip(several(module(trial)), run(trial.numpy()), strict=True):
            if found.shape != expected.shape:
                return f"of {len(trial)} images it makes {found.shape}"
            difference = np.abs(found - expected.numpy()).max()
            largest = float(expected.abs().max())
            # NaN is not near. Of noise, strangeness has no bound. Float16 has its own limit, and
            # is compared later.
            if not module.is_half and not difference <= _NEAR * max(1.0, largest):
                return f"its results differ by {difference:.2g}"
    return None


def _crash_of(content: bytes) -> str | None:
    """Return what to say if onnxruntime crashes on a graph, read in a process of its own; None if
    not.

    1.32 crashes on a vision transformer in half precision, where it rearranges convolutions.

    Raises:
        StorageError: no room for the graph.
    """
    import onnxruntime

    try:
        with tempfile.TemporaryDirectory(prefix="ptkit-onnx-") as folder:
            file = Path(folder, "model.onnx")
            file.write_bytes(content)
            # -P: nothing in the working directory is taken for a library.
            command = [sys.executable, "-P", "-c", _READ, str(file)]
            code = subprocess.run(command, capture_output=True).returncode
    except OSError as error:
        raise StorageError(f"cannot try the graph: {error.strerror or error}") from error
    # What is an error only is raised again where it is read here.
    if code in (0, 1):
        return None
    if code == -9:
        return "the system ended the process that reads the graph, as where memory is short"
    return f"onnxruntime {onnxruntime.__version__} crashes when it reads the graph"


def write_onnx(path: Path, model: Any, description: Description) -> None:
    """Write an ONNX model with its metadata."""
    import onnx

    _forget_sources(model)
    onnx.helper.set_model_props(model, description.properties())
    path.write_bytes(model.SerializeToString())


def _forget_sources(message: Any) -> None:
    """Take out where in which files of this machine each part comes from, in place.

    message: a model, or any part of one. The bodies of branches, loops and functions, and the
    values in them, say it as nodes do.
    """
    for name in {"doc_string", "metadata_props"}.intersection(message.DESCRIPTOR.fields_by_name):
        message.ClearField(name)
    # Listing what a tensor has copies its numbers.
    for field, value in [] if message.DESCRIPTOR.name == "TensorProto" else message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _forget_sources(part)


def runner_of(source: Path | bytes) -> Run:
    """Return what runs an ONNX model, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors come as exceptions too.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source),
        options,
        providers=["CPUExecutionProvider"],
    )

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(session.run(None, {"images": images}))

    return run
