"""Samples to batches on the device: decode once and keep, or decode as they are needed.

Threads feed the model, not processes: the decoder and torch's kernels release the interpreter lock. Only transforms
that draw from global generators run in DataLoader's worker processes.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ptkit.core.data import images as decoder
from ptkit.core.data import keyed
from ptkit.core.data.geometry import Draws
from ptkit.core.data.images import Pixels
from ptkit.core.data.keeping import Kept, thread_pool
from ptkit.core.data.lists import ImageList
from ptkit.core.data.mixing import Mixed, mix
from ptkit.core.data.pipeline import Pipeline, same_size
from ptkit.core.errors import PtkitError
from ptkit.core.machine import num_cores

Indices = npt.NDArray[np.int64]

_DRAWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Batch:
    """images: float32 (n, 3, H, W), channels last; labels: int64 (n,); both on the device. indices: into the list.

    mixed: what the images were mixed with, if the pipeline has MixUp or CutMix.
    """

    images: Tensor
    labels: Tensor
    indices: Indices
    mixed: Mixed | None = None


class Batches:
    """The batches of a list, epoch after epoch.

    The result depends on the list, the pipeline, the seed and the epoch alone: not on `workers`, not on whether the
    images are kept (`kept`), and without MixUp and CutMix not on the batch an image falls into.
    """

    def __init__(
        self,
        images: ImageList,
        pipeline: Pipeline,
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        workers: int = 0,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        kept: Kept | None = None,
    ) -> None:
        self.images, self.pipeline, self.kept = images, pipeline, kept
        self.source = _Source(images, pipeline, kept)
        self.batch_size, self.device, self.seed = batch_size, torch.device(device), seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.workers = workers or num_cores()
        # On a CPU the model wants every core: preparing ahead would only take them away from it.
        self.ahead = 0 if self.device.type == "cpu" else 2
        self._pool: ThreadPoolExecutor | None = None
        self._loader: DataLoader[Any] | None = None
        self._requests: _Requests | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        count = len(self.images)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    @property
    def num_images(self) -> int:
        """The number of images an epoch passes."""
        return len(self) * self.batch_size if self.drop_last else len(self.images)

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Raises:
            DataError: an image that cannot be read, or sizes that do not agree.
        """
        plans = self._plans(epoch)
        if self.pipeline.is_foreign:
            prepared = self._from_processes(epoch)
        elif self.kept is not None and not self.pipeline.middle:
            prepared = (self._gathered(indices, draws) for indices, draws in plans)
        else:
            prepared = self._from_threads(plans)
        for number, (indices, prepared_images) in enumerate(prepared):
            images, labels = self._on_device(prepared_images), self._labels_of(indices)
            mixed = None
            if self.pipeline.mix is not None:
                images, mixed = mix(self.pipeline.mix, images, labels, seed=self.seed, epoch=epoch, batch=number)
            yield Batch(images, labels, indices, mixed)

    def close(self) -> None:
        """End the threads and worker processes; the next epoch starts them anew."""
        self._loader = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _plans(self, epoch: int) -> Iterator[tuple[Indices, Draws]]:
        """Yield the indices of each batch with their draws."""
        count = len(self.images)
        order = np.arange(count)
        if self.shuffle:
            order = keyed.permutation(self.seed, "order", epoch=epoch, length=count)
        # Several batches at once: the hash costs little an image, but a lot a call.
        per_block = max(_DRAWS_AT_ONCE // self.batch_size, 1) * self.batch_size
        columns, end = self.pipeline.num_draws, min(len(self) * self.batch_size, count)
        for first in range(0, end, per_block):
            block = order[first : min(first + per_block, end)]
            draws = keyed.uniforms(self.seed, "augment", epoch=epoch, indices=block, columns=columns)
            for start in range(0, len(block), self.batch_size):
                here = slice(start, start + self.batch_size)
                yield block[here], draws[here]

    def _gathered(self, indices: Indices, draws: Draws) -> tuple[Indices, Pixels | Tensor]:
        assert self.kept is not None
        return indices, self.pipeline.together(self.kept.pixels[indices], draws)

    def _from_threads(self, plans: Iterator[tuple[Indices, Draws]]) -> Iterator[tuple[Indices, Pixels | Tensor]]:
        waiting: deque[tuple[Indices, Draws, list[Future[list[Tensor]]]]] = deque()
        for indices, draws in plans:
            waiting.append((indices, draws, self._submitted(indices, draws)))
            if len(waiting) > self.ahead:
                yield self._collected(*waiting.popleft())
        while waiting:
            yield self._collected(*waiting.popleft())

    def _submitted(self, indices: Indices, draws: Draws) -> list[Future[list[Tensor]]]:
        """Give each thread a few images of the batch."""
        if self._pool is None:
            self._pool = thread_pool(self.workers)
        parts = np.array_split(np.arange(len(indices)), min(2 * self.workers, len(indices)))
        return [self._pool.submit(self.source.tensors, indices[part], draws[part]) for part in parts]

    def _collected(
        self, indices: Indices, draws: Draws, futures: Sequence[Future[list[Tensor]]]
    ) -> tuple[Indices, Pixels | Tensor]:
        tensors = [tensor for future in futures for tensor in future.result()]
        return indices, _stacked(self.pipeline, tensors, draws)

    def _from_processes(self, epoch: int) -> Iterator[tuple[Indices, Pixels | Tensor]]:
        for prepared in self._requested(epoch):
            if isinstance(prepared, PtkitError):
                # Ends the processes with this error; if the garbage collector has to, it waits 5 seconds for each.
                self._loader = None
                raise prepared
            yield prepared

    def _requested(self, epoch: int) -> Iterator[Any]:
        """Ask the worker processes for an epoch; they start with the first and stay."""
        with warnings.catch_warnings():
            # More workers than cores are the user's choice.
            warnings.simplefilter("ignore", UserWarning)
            if self._loader is None:
                self._requests = _Requests(self)
                self._loader = DataLoader(
                    _InWorkers(self.source),
                    batch_sampler=self._requests,  # type: ignore[arg-type]
                    num_workers=self.workers,
                    collate_fn=_as_it_is,
                    persistent_workers=True,
                    # Else it takes a number from the global one.
                    generator=torch.Generator(),
                )
            assert self._requests is not None
            self._requests.epoch = epoch
            return iter(self._loader)

    def _on_device(self, images: Pixels | Tensor) -> Tensor:
        """Copy a prepared batch to the device and finish it there."""
        tensor = images if isinstance(images, Tensor) else torch.from_numpy(images)
        tensor = self._moved(tensor)
        if self.pipeline.scale is not None:
            return self.pipeline.normalise(tensor)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _moved(self, tensor: Tensor) -> Tensor:
        """Copy to the device, from pinned memory and without waiting on CUDA."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _labels_of(self, indices: Indices) -> Tensor:
        return self._moved(torch.from_numpy(self.images.labels[indices]))


def _stacked(pipeline: Pipeline, tensors: Sequence[Tensor], draws: Draws) -> Pixels | Tensor:
    same_size([tuple(tensor.shape[1:]) for tensor in tensors], pipeline.calls)
    if pipeline.scale is None:
        return torch.stack(list(tensors))
    # Not np.stack: it keeps the strides of its parts, and what follows wants whole rows.
    pixels = np.empty((len(tensors), *tensors[0].shape[1:], 3), np.uint8)
    for place, tensor in zip(pixels, tensors, strict=True):
        place[:] = tensor.permute(1, 2, 0).numpy()
    return pipeline.together(pixels, draws)


def _as_it_is(batch: Any) -> Any:
    return batch


class _Requests:
    """What DataLoader takes as its batch sampler: whole batches with their draws, for the epoch set last."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.epoch = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Indices, Draws]]:
        return self.batches._plans(self.epoch)


@dataclass(frozen=True)
class _Source:
    """Where the images of a batch come from; a copy of it runs in each thread or worker process."""

    images: ImageList
    pipeline: Pipeline
    kept: Kept | None

    def tensors(self, indices: Indices, draws: Draws) -> list[Tensor]:
        """Return each image after the middle of the pipeline."""
        pairs = zip(indices.tolist(), draws, strict=True)
        return [self.pipeline.each(self._pixels(index), row) for index, row in pairs]

    def _pixels(self, index: int) -> Pixels:
        if self.kept is not None:
            return self.kept.pixels[index]
        return self.pipeline.before(decoder.read(self.images.image_path(index)))


@dataclass(frozen=True)
class _InWorkers(Dataset[Any]):
    """What DataLoader hands to its worker processes: one request is one batch."""

    source: _Source

    def __getitems__(self, request: tuple[Indices, Draws]) -> tuple[Indices, Pixels | Tensor] | PtkitError:
        """Return the batch, or the error: DataLoader would put a traceback into the message of one that is raised."""
        indices, draws = request
        try:
            return indices, _stacked(self.source.pipeline, self.source.tensors(indices, draws), draws)
        except PtkitError as error:
            return error
