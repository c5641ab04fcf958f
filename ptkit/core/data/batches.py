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
from ptkit.core.data.images import Pixels
from ptkit.core.data.keeping import Kept, thread_pool
from ptkit.core.data.lists import ImageList
from ptkit.core.data.sampling import SAMPLERS, balanced_weights, draw_keys, epoch_order
from ptkit.core.data.transforms.geometry import Draws
from ptkit.core.data.transforms.mixing import Mixed, mix
from ptkit.core.data.transforms.pipeline import Pipeline, same_size
from ptkit.core.errors import PtkitError
from ptkit.core.machine import num_cores

Indices = npt.NDArray[np.int64]

_DRAWS_AT_ONCE = 4096
# A thread gets no less of a batch that is only to be augmented.
_BYTES_A_PART = 1 << 19


@dataclass(frozen=True)
class Batch:
    """One batch of n images; images and labels are on the device.

    images: float32 (n * num_crops, 3, H, W), channels last, image by image. labels: rows of the list's own, int64
    (n,), bool (n, K) or float32 (n, D). indices: into the list, (n,). mixed: what the images were mixed with, if the
    pipeline has MixUp or CutMix. num_crops: 5 or 10 with FiveCrop or TenCrop.
    """

    images: Tensor
    labels: Tensor
    indices: Indices
    mixed: Mixed | None = None
    num_crops: int = 1


class Batches:
    """The batches of a list, epoch after epoch.

    The result depends on the list, the pipeline, the seed and the epoch alone: not on `workers`, not on whether the
    images are kept (`kept`), and without MixUp and CutMix not on the batch an image falls into.

    shuffle: in a random order. sampler: "balanced" draws as many images as the list has, with replacement and in
    random order, so that every class comes equally often; see `balanced_weights`. drop_last: without the last batch if
    it is smaller.

    Raises:
        UsageError: a balanced sampler for labels that are numbers.
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
        sampler: str = "none",
        drop_last: bool = False,
        kept: Kept | None = None,
    ) -> None:
        assert sampler in SAMPLERS
        self.images, self.pipeline, self.kept = images, pipeline, kept
        self.source = _Source(images, pipeline, kept)
        self.batch_size, self.device, self.seed = batch_size, torch.device(device), seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.weights = balanced_weights(images.labels) if sampler == "balanced" else None
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
            UsageError: a transform that does not fit the images.
        """
        plans = self._plans(epoch)
        if self.pipeline.is_foreign:
            prepared = self._from_processes(epoch)
        elif self._is_quick:
            prepared = ((plan, self.source.prepared(plan)) for plan in plans)
        else:
            prepared = self._from_threads(plans)
        for number, (plan, pixels) in enumerate(prepared):
            images, labels = self._on_device(pixels, plan), self._labels_of(plan.indices)
            mixed = None
            if self.pipeline.mix is not None:
                images, mixed = mix(self.pipeline.mix, images, labels, seed=self.seed, epoch=epoch, batch=number)
            yield Batch(images, labels, plan.indices, mixed, self.pipeline.num_crops)

    def close(self) -> None:
        """End the threads and worker processes; the next epoch starts them anew."""
        self._loader = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    @property
    def _is_quick(self) -> bool:
        """Whether a batch takes so little work that handing it to threads costs more."""
        if self.kept is None or self.pipeline.middle:
            return False
        is_small = self.batch_size * self.kept.pixels[0].size <= 2 * _BYTES_A_PART
        return self.pipeline.only_moves_pixels or (is_small and not self.ahead)

    def _plans(self, epoch: int) -> Iterator["_Plan"]:
        """Yield the indices of each batch with their draws."""
        count = len(self.images)
        order = epoch_order(count, self.weights, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        keys = order if self.weights is None else draw_keys(order)
        # Several batches at once: the hash costs little an image, but a lot a call.
        per_block = max(_DRAWS_AT_ONCE // self.batch_size, 1) * self.batch_size
        columns, end = self.pipeline.num_draws, min(len(self) * self.batch_size, count)
        for first in range(0, end, per_block):
            last = min(first + per_block, end)
            draws = keyed.uniforms(self.seed, "augment", epoch=epoch, indices=keys[first:last], columns=columns)
            for start in range(first, last, self.batch_size):
                stop = min(start + self.batch_size, last)
                yield _Plan(order[start:stop], draws[start - first : stop - first])

    def _from_threads(self, plans: Iterator["_Plan"]) -> Iterator["_Prepared"]:
        waiting: deque[tuple[_Plan, list[Future[Pixels | Tensor]]]] = deque()
        for plan in plans:
            waiting.append((plan, self._submitted(plan)))
            if len(waiting) > self.ahead:
                yield self._collected(*waiting.popleft())
        while waiting:
            yield self._collected(*waiting.popleft())

    def _submitted(self, plan: "_Plan") -> "list[Future[Pixels | Tensor]]":
        """Give each thread a few images of the batch."""
        if self._pool is None:
            self._pool = thread_pool(self.workers)
        num_parts = min(2 * self.workers, len(plan.indices))
        if self.kept is not None and not self.pipeline.middle:
            num_parts = min(num_parts, -(-len(plan.indices) * self.kept.pixels[0].size // _BYTES_A_PART))
        places = np.array_split(np.arange(len(plan.indices)), num_parts)
        parts = (_Plan(plan.indices[some], plan.draws[some]) for some in places)
        return [self._pool.submit(self.source.prepared, part) for part in parts]

    def _collected(self, plan: "_Plan", futures: "Sequence[Future[Pixels | Tensor]]") -> "_Prepared":
        parts = [future.result() for future in futures]
        same_size([_height_and_width(part) for part in parts], self.pipeline.calls)
        if len(parts) == 1:
            return plan, parts[0]
        return plan, torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)  # type: ignore[arg-type]

    def _from_processes(self, epoch: int) -> Iterator["_Prepared"]:
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

    def _on_device(self, images: Pixels | Tensor, plan: "_Plan") -> Tensor:
        """Copy a prepared batch to the device and finish it there."""
        tensor = images if isinstance(images, Tensor) else torch.from_numpy(images)
        return self.pipeline.finish(self._moved(tensor), plan.draws)

    def _moved(self, tensor: Tensor) -> Tensor:
        """Copy to the device, from pinned memory and without waiting on CUDA."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _labels_of(self, indices: Indices) -> Tensor:
        return self._moved(torch.from_numpy(self.images.labels[indices]))


class _Requests:
    """What DataLoader takes as its batch sampler: whole batches with their draws, for the epoch set last."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.epoch = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> "Iterator[_Plan]":
        return self.batches._plans(self.epoch)


@dataclass(frozen=True)
class _Plan:
    """Images of a batch, indices (n,) into the list, and their draws, (n, num_draws)."""

    indices: Indices
    draws: Draws


# A batch before it goes to the device: uint8 (n, H, W, 3) or float (n, 3, H, W).
_Prepared = tuple[_Plan, Pixels | Tensor]


@dataclass(frozen=True)
class _Source:
    """Where the images of a batch come from; a copy of it runs in each thread or worker process."""

    images: ImageList
    pipeline: Pipeline
    kept: Kept | None

    def prepared(self, plan: _Plan) -> Pixels | Tensor:
        """Return some images as they go to the device."""
        if self.kept is not None and not self.pipeline.middle:
            return self.pipeline.together(self.kept.pixels[plan.indices], plan.draws)
        pairs = zip(plan.indices.tolist(), plan.draws, strict=True)
        batch = self.pipeline.stacked([self.pipeline.each(self._pixels(index), row) for index, row in pairs])
        return batch if isinstance(batch, Tensor) else self.pipeline.together(batch, plan.draws)

    def _pixels(self, index: int) -> Pixels:
        if self.kept is not None:
            return self.kept.pixels[index]
        return self.pipeline.before(decoder.read(self.images.image_path(index)))


@dataclass(frozen=True)
class _InWorkers(Dataset[Any]):
    """What DataLoader hands to its worker processes: one request is one batch."""

    source: _Source

    def __getitems__(self, plan: _Plan) -> _Prepared | PtkitError:
        """Return the batch, or the error: DataLoader would put a traceback into the message of one that is raised."""
        try:
            return plan, self.source.prepared(plan)
        except PtkitError as error:
            return error


def _height_and_width(batch: Pixels | Tensor) -> tuple[int, int]:
    height, width = batch.shape[-2:] if isinstance(batch, Tensor) else batch.shape[1:3]
    return height, width


def _as_it_is(batch: Any) -> Any:
    return batch
