"""How weights and gradients of the first and the last layer are distributed, epoch by epoch."""

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

Floats = npt.NDArray[np.float64]

# Of the values; the first and the last are the smallest and the largest.
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
NUM_BINS = 60
KINDS = ("weights", "gradients")
# Of a larger tensor so many values, evenly spread.
_MOST_VALUES = 1_000_000
_FILE = "distributions.npz"


@dataclass(frozen=True)
class Distributions:
    """epochs: rising, E of them; 0 is before training. layers: names of weights, first and last.

    percentiles: (E, layers, KINDS, PERCENTILES); counts: (E, layers, KINDS, NUM_BINS), of even bins
    from the first percentile to the last. nan and 0 where there was no gradient.
    """

    epochs: tuple[int, ...]
    layers: tuple[str, ...]
    percentiles: Floats
    counts: npt.NDArray[np.int64]


class DistributionLog(Recorder):
    """Adds the distributions after every epoch to `distributions.npz` of a run; resuming cuts the
    file back to `up_to_epoch`.
    """

    def __init__(self, run: Path, *, up_to_epoch: int | None = None) -> None:
        self._file = run / _FILE
        known = None if up_to_epoch is None else read_distributions(run)
        last = up_to_epoch or 0
        self._frames: dict[int, tuple[Floats, npt.NDArray[np.int64]]] = {}
        if known is not None:
            rows = zip(known.epochs, known.percentiles, known.counts, strict=True)
            self._frames = {epoch: (p, c) for epoch, p, c in rows if epoch <= last}

    def start(
        self, model: nn.Module, example: Tensor, texts: Mapping[str, str], input_image: Pixels
    ) -> None:
        """Keep the weights before training, as epoch 0."""
        write = self._frame(model, 0)
        # Copies of a GPU arrive later.
        when_copied(example.device)()
        write()

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Copy weights and gradients after an epoch."""
        return self._frame(model, result.epoch)

    def _frame(self, model: nn.Module, epoch: int) -> Write:
        named = {n: p for n, p in model.named_parameters() if p.ndim > 1 and p.numel()}
        if not named:
            return lambda: None
        # One layer is first and last.
        layers = list(dict.fromkeys((next(iter(named)), next(reversed(named)))))
        copies = [
            tensor if tensor is None else begin_copy(_some(tensor))
            for name in layers
            for tensor in (named[name].detach(), named[name].grad)
        ]
        return lambda: self._add(copies, epoch, layers=layers)

    def _add(self, copies: list[Tensor | None], epoch: int, *, layers: list[str]) -> None:
        """Write the file with one more epoch."""
        found = [_distribution(copy) for copy in copies]
        shape = (len(layers), len(KINDS), -1)
        percentiles = np.stack([one for one, _ in found]).reshape(shape)
        counts = np.stack([one for _, one in found]).reshape(shape)
        self._frames = with_frame(self._frames, epoch, (percentiles, counts))
        write_arrays(
            self._file,
            epochs=list(self._frames),
            layers=layers,
            percentiles=np.stack([one for one, _ in self._frames.values()]),
            counts=np.stack([one for _, one in self._frames.values()]),
        )


def read_distributions(run: Path) -> Distributions | None:
    """Return the distributions of a run; None where there are none that can be read."""
    found = sound_arrays(run / _FILE)
    if not {"epochs", "layers", "percentiles", "counts"} <= set(found):
        return None
    epochs, layers = found["epochs"], found["layers"]
    percentiles, counts = found["percentiles"], found["counts"]
    is_sound = epochs.dtype.kind == "i" and percentiles.dtype.kind == "f"
    head = (*epochs.shape, *layers.shape, len(KINDS))
    shapes = [(*head, len(PERCENTILES)), (*head, NUM_BINS)]
    if not is_sound or [percentiles.shape, counts.shape] != shapes:
        return None
    return Distributions(
        tuple(epochs.tolist()), tuple(map(str, layers.tolist())), percentiles, counts
    )


def _some(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return dense.flatten()[:: -(-dense.numel() // _MOST_VALUES)]


def _distribution(values: Tensor | None) -> tuple[Floats, npt.NDArray[np.int64]]:
    known = np.empty(0) if values is None else values.double().numpy()
    known = known[np.isfinite(known)]
    if not known.size:
        return np.full(len(PERCENTILES), np.nan), np.zeros(NUM_BINS, np.int64)
    percentiles = np.percentile(known, PERCENTILES)
    counts, _ = np.histogram(known, NUM_BINS, (percentiles[0], percentiles[-1]))
    return percentiles, counts
