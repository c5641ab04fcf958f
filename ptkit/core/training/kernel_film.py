"""The first layer's kernels from epoch to epoch, kept beside the run until they become a film."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.device import begin_copy, when_copied
from ptkit.core.run_files import sound_arrays, write_arrays
from ptkit.core.training.frames import with_frame
from ptkit.core.training.observers import EpochResult, Pixels, Recorder, Write

# Of a frame: the file stays small.
MAX_WEIGHTS = 32_768
_FILE = "kernels.npz"


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
        write = self._frame(model, 0)
        # Copies of a GPU arrive later.
        when_copied(example.device)()
        write()

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
        self._frames = with_frame(self._frames, epoch, kernels.float().numpy())
        frames = np.stack(list(self._frames.values()))
        epochs = list(self._frames)
        write_arrays(
            self._file, layer=layer, num_outputs=num_outputs, epochs=epochs, kernels=frames
        )


def first_convolution(model: nn.Module) -> tuple[str, Tensor] | None:
    """Return the name and the weights (outputs, inputs, H, W) of the first convolution, or None."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel():
            return name, layer.weight
    return None


def read_film(run: Path) -> KernelFrames | None:
    """Return the frames of a run; None where there are none that can be read."""
    found = sound_arrays(run / _FILE)
    try:
        epochs, kernels = found["epochs"], found["kernels"]
        film = KernelFrames(
            str(found["layer"]), int(found["num_outputs"]), tuple(epochs.tolist()), kernels
        )
    except (LookupError, TypeError, ValueError):
        return None
    is_sound = epochs.dtype.kind == "i" and kernels.dtype.kind == "f" and kernels.ndim == 5
    return film if is_sound and epochs.shape == kernels.shape[:1] else None
