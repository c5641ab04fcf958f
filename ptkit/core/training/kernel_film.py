"""The first layer's kernels from epoch to epoch, kept beside the run until they become a film."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.device import begin_copy
from ptkit.core.files import write_atomically
from ptkit.core.training.observers import EpochResult, Pixels, Recorder, Write

# About so many frames at most, each of at most so many weights: the file stays small.
MAX_FRAMES, MAX_WEIGHTS = 100, 32_768
_FILE = "kernels.npz"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class KernelFrames:
    """epochs: rising, 0 is before training. kernels: float32 (epochs, outputs, inputs, H, W).

    num_outputs: of the whole layer; the film has the first ones, as many as a small file holds.
    """

    layer: str
    num_outputs: int
    epochs: tuple[int, ...]
    kernels: npt.NDArray[np.float32]


class KernelFilm(Recorder):
    """Adds the kernels of the first convolution to `kernels.npz` of a run, epoch by epoch.

    The file is whole after every epoch, and resuming cuts it back to `up_to_epoch`: an interrupted
    run gives the same film as any other.
    """

    def __init__(self, run: Path, *, up_to_epoch: int | None = None) -> None:
        self._file = run / _FILE
        film = None if up_to_epoch is None else read_film(run)
        frames = zip(film.epochs, film.kernels, strict=True) if film else ()
        last = up_to_epoch or 0
        self._frames = {epoch: kernels for epoch, kernels in frames if epoch <= last}

    def start(
        self, model: nn.Module, example: Tensor, texts: Mapping[str, str], input_image: Pixels
    ) -> None:
        """Keep the kernels before training, as epoch 0."""
        self._frame(model, 0)()

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Keep the kernels after an epoch."""
        return self._frame(model, result.epoch)

    def _frame(self, model: nn.Module, epoch: int) -> Write:
        found = first_convolution(model)
        if found is None:
            return lambda: None
        layer, weight = found
        some = begin_copy(weight[: max(1, MAX_WEIGHTS // weight[0].numel())])
        return lambda: self._add(some, epoch, layer=layer, num_outputs=len(weight))

    def _add(self, kernels: Tensor, epoch: int, *, layer: str, num_outputs: int) -> None:
        """Write the film with one more frame."""
        self._frames[epoch] = kernels.float().numpy()
        # Every second one goes when there are too many; the first and the newest stay.
        stride = 1
        while epoch // stride > MAX_FRAMES:
            stride *= 2
        self._frames = {
            k: frame for k, frame in self._frames.items() if k == epoch or k % stride == 0
        }
        epochs, frames = list(self._frames), np.stack(list(self._frames.values()))
        content = io.BytesIO()
        np.savez(content, layer=layer, num_outputs=num_outputs, epochs=epochs, kernels=frames)
        write_atomically(self._file, content.getvalue())


def first_convolution(model: nn.Module) -> tuple[str, Tensor] | None:
    """Return the name and the weights (outputs, inputs, H, W) of the first convolution, or None."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel():
            return name, layer.weight
    return None


def read_film(run: Path) -> KernelFrames | None:
    """Return the frames of a run; None where there are none that can be read."""
    try:
        # From memory: numpy leaves the handle of a damaged file open.
        content = io.BytesIO((run / _FILE).read_bytes())
        with zipfile.ZipFile(content) as archive:
            # A packed file of a few kilobytes may hold gigabytes of zeros.
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                return None
        with np.load(content, allow_pickle=False) as found:
            epochs, kernels = found["epochs"], found["kernels"]
            film = KernelFrames(
                str(found["layer"]), int(found["num_outputs"]), tuple(epochs.tolist()), kernels
            )
    # Damaged archives raise nearly anything.
    except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError,
            zipfile.BadZipFile, zlib.error):  # fmt: skip
        return None
    is_sound = epochs.dtype.kind == "i" and kernels.dtype.kind == "f" and kernels.ndim == 5
    return film if is_sound and epochs.shape == kernels.shape[:1] else None
