"""A graph of an ONNX file as a module: ONNX Runtime computes what it gives."""

import functools
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.machine import free_bytes, num_cores
from ptkit.core.models.onnx_files import INSTALL, OnnxFile
from ptkit.core.wording import reason_of

# Of the memory that is free: what is asked for beyond it is refused by ONNX Runtime.
_SHARE_OF_MEMORY = 0.75
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
# ONNX Runtime's lowest level but one: what it logs comes back as an exception.
_ONLY_FATAL = 4


class OnnxModel(nn.Module):
    """Runs an ONNX file on the CPU; without parameters, gradients or layers.

    workers: threads, 0 for one a core.

    Raises:
        CheckpointError: ONNX Runtime cannot load it.
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, file: OnnxFile, *, workers: int = 0) -> None:
        super().__init__()
        self.file = file
        # Threads may share a model.
        self._told = threading.local()
        self._session = _session(file.path, workers or num_cores())

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, float (n, num_outputs).

        images: float (n, C, H, W), normalised; or levels over 255, for a graph that takes pixels.

        Raises:
            CheckpointError: the graph cannot be run on them, or gives something else.
        """
        if self.file.takes_pixels:
            # Batches are floats everywhere; rounding gives the very levels again.
            images = images.permute(0, 2, 3, 1).mul(255).round_().to(torch.uint8)
        kind = np.float16 if self.file.is_half else None
        array = np.ascontiguousarray(images.cpu().numpy(), kind)
        step = self.file.batch or len(array)
        found = [self._run(array[start : start + step]) for start in range(0, len(array), step)]
        by_output = zip(*found, strict=True)
        outputs, *told = (torch.from_numpy(np.concatenate(parts)) for parts in by_output)
        self._told.strangeness = told[0][:, None] if told else None
        return outputs

    def strangeness(self) -> Tensor:
        """Return how strange the images are that this thread ran last, float (n, 1), of a graph
        that tells it.
        """
        found: Tensor = self._told.strangeness
        return found

    def _run(self, images: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        count, missing = len(images), (self.file.batch or len(images)) - len(images)
        if missing:
            self._check_memory(images[0].nbytes)
            # A graph of a fixed batch: what the last image gives again is dropped.
            images = np.concatenate([images, images[-1:].repeat(missing, 0)])
        path = self.file.path
        try:
            found = self._session.run(None, {self.file.input_name: images})
        except Exception as error:
            raise CheckpointError(f"{path} cannot be run: {_reason(error)}") from error
        # A table, and where the graph tells strangers a number for each image.
        for part, num_axes in zip(found, (2, 1), strict=False):
            is_right = isinstance(part, np.ndarray) and part.ndim == num_axes
            if not is_right or part.dtype.kind != "f" or len(part) != len(images):
                shape = getattr(part, "shape", type(part).__name__)
                what = "row of numbers" if num_axes == 2 else "number"
                raise CheckpointError(
                    f"{path} gives {shape} for {len(images)} images; expected a {what} for each"
                )
        if len(found) > 1 and np.isnan(found[1]).any():
            raise CheckpointError(f"{path} gives NaN for how strange an image is")
        return [np.asarray(part[:count], np.float32) for part in found]

    def _check_memory(self, bytes_per_image: int) -> None:
        """Refuse a fixed batch, which a file may claim as it likes, of more images than fit."""
        batch = self.file.batch or 1
        if batch * bytes_per_image > _SHARE_OF_MEMORY * free_bytes():
            raise CheckpointError(
                f"{self.file.path} takes {batch:,} images at once, more than fit into memory:"
                " export it with a batch of any size"
            )


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"running {path} needs ONNX Runtime ({error}): {INSTALL}") from error
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ONLY_FATAL
    more = {
        "session.use_env_allocators": "1",
        # Waiting threads would take the cores of those that decode.
        "session.intra_op.allow_spinning": "0",
        # It computes while the file is opened, in memory that has no limit.
        "optimization.disable_specified_optimizers": "ConstantFolding",
    }
    for key, value in more.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # A class of ONNX Runtime's own for each kind, and none that all have.
        raise CheckpointError(f"ONNX Runtime cannot load {path}: {_reason(error)}") from error


@functools.cache
def _limit_memory() -> None:
    """Let graphs take no more memory than there is: a few bytes can ask for a terabyte."""
    import onnxruntime

    kinds = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
    place = onnxruntime.OrtMemoryInfo("Cpu", kinds[0].ORT_ARENA_ALLOCATOR, 0, kinds[1].DEFAULT)
    limit = onnxruntime.OrtArenaCfg({"max_mem": int(_SHARE_OF_MEMORY * free_bytes())})
    onnxruntime.create_and_register_allocator(place, limit)


def _reason(error: Exception) -> str:
    text = _PREFIX.sub("", reason_of(error))
    # Before the place in its own source.
    return re.sub(r"\S*/onnxruntime/\S+\.(cc|h):\d+ ", "", text)[:300]
