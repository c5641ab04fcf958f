"""The batches of a list on the device: which images each has, and the draws of each image, decide
them.

Images kept in memory are cut into batches as they are asked for; others come from threads
(streaming.py), or, where transforms draw from global generators, from worker processes
(worker_processes.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import tee

import torch
from torch import Tensor

from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.cache import Kept
from ptkit.core.data.loading.on_device import (
    InMemory,
    OnDevice,
    Values,
    can_move,
    copied,
    free_gpu_bytes,
    move,
)
from ptkit.core.data.loading.streaming import Indices, Plan, Prepared, Source, in_threads
from ptkit.core.data.loading.workers import WorkerProcesses
from ptkit.core.data.sampling import SAMPLERS, balanced_weights, draw_keys, epoch_order
from ptkit.core.data.transforms.mixing import Mixed, mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import thread_pool
from ptkit.core.errors import UsageError
from ptkit.core.machine import free_bytes, num_cores

_DRAWS_AT_ONCE = 4096
# A batch that is quicker made than handed to threads.
_QUICK_BYTES = 1 << 20


@dataclass(frozen=True)
class Batch:
    """One batch of n images; images and labels are on the device.

    images: float32 (n * num_crops, 3, H, W), channels last, image by image. labels: rows of the
    list's own, int64
    (n,), bool (n, K) or float32 (n, D). indices: into the list, (n,). mixed: what the images were
    mixed with, if the pipeline has MixUp or CutMix. num_crops: 5 or 10 with FiveCrop or TenCrop, 2
    with WithHorizontalFlip.
    """

    images: Tensor
    labels: Tensor
    indices: Indices
    mixed: Mixed | None = None
    num_crops: int = 1


class Batches:
    """The batches of a list, epoch after epoch.

    The result depends on the list, the pipeline, the seed and the epoch alone: not on `workers`,
    not on whether the images are kept (`kept`), and without MixUp and CutMix not on the batch an
    image falls into.

    shuffle: in a random order. sampler: "balanced" draws as many images as the list has, with
    replacement and in
    random order, so that every class comes equally often; see `balanced_weights`. drop_last:
    without the last batch if it is smaller. reduced_decode: JPEGs come at a half, quarter or eighth
    of their size where the first transform
    makes what it takes of them at least that much smaller; the pixels are not quite the same then.

    Raises:
        UsageError: a balanced sampler for labels that are numbers, or reduced_decode where it
            cannot be.
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
        reduced_decode: bool = False,
    ) -> None:
        assert sampler in SAMPLERS
        if reduced_decode:
            check_reduced_decode(pipeline, is_kept=kept is not None)
        self.device = torch.device(device)
        self.images, self.pipeline, self.kept = images, pipeline.for_device(self.device), kept
        finishes = (
            self.device.type == "cpu"
            and not self.pipeline.plan.float_steps
            and not self.pipeline.is_foreign
        )
        self.source = Source(images, self.pipeline, kept, reduced_decode, finishes)
        self.batch_size, self.seed = batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.weights = balanced_weights(images.labels) if sampler == "balanced" else None
        self.workers = workers or num_cores()
        # On a CPU, model and decoding take turns with every core. A core for each was a tenth
        # quicker with one small net, but would halve the model's threads, also where decoding is
        # little work, and change its last digits.
        self.ahead = 0 if self.device.type == "cpu" else 2
        # Called whenever a batch is ready, or ready to be copied to the device.
        self.when_prepared: Callable[[], None] = lambda: None
        self._pool: ThreadPoolExecutor | None = None
        self._processes = WorkerProcesses(
            self.source, self._plans, num_batches=len(self), workers=self.workers
        )

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
        batches = (
            self._cut(self._held, epoch) if self._held else self._on_device(self._prepared(epoch))
        )
        for number, (plan, images, labels) in enumerate(batches):
            mixed = None
            if self.pipeline.mix is not None:
                images, mixed = mix(
                    self.pipeline.mix, images, labels, seed=self.seed, epoch=epoch, batch=number
                )
            yield Batch(images, labels, plan.indices, mixed, self.pipeline.num_crops)

    def close(self) -> None:
        """End the threads and worker processes; the next epoch starts them anew."""
        self._processes.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self.__dict__.pop("_held", None)

    def _prepared(self, epoch: int) -> Iterator[Prepared]:
        """Yield the batches of an epoch before they go to the device."""
        if self.pipeline.is_foreign:
            return self._processes.prepared(epoch)
        if self._pool is None:
            self._pool = thread_pool(self.workers)
        return in_threads(
            self.source,
            self._plans(epoch),
            pool=self._pool,
            workers=self.workers,
            ahead=self.ahead,
            pinned=self.device.type == "cuda",
        )

    def _cut(self, held: InMemory | OnDevice, epoch: int) -> Iterator[tuple[Plan, Tensor, Tensor]]:
        """Yield batches that need no preparation: of images that lie where they are wanted."""
        plans, wanted = tee(self._plans(epoch))
        for plan, (images, labels) in zip(plans, held.batches(wanted), strict=True):
            self.when_prepared()
            yield plan, images, labels

    @cached_property
    def _held(self) -> InMemory | OnDevice | None:
        """The kept images, if batches are cut out of them so quickly that handing that to threads
        would cost more.
        """
        if self.kept is None or not self.source.is_whole:
            return None
        pixels, labels = self.kept.pixels, self.images.labels
        if self.device.type == "cuda":
            fits = can_move(pixels, self.pipeline, free=free_gpu_bytes(self.device))
            return move(pixels, labels, self.pipeline, device=self.device) if fits else None
        if self.kept.origin is not None and self.kept.nbytes > free_bytes():
            # Each image waits for the disk: threads wait for several at once.
            return None
        is_small = self.batch_size * pixels[0].size <= _QUICK_BYTES
        is_quick = self.device.type == "cpu" and (self.pipeline.only_moves_pixels or is_small)
        return InMemory(pixels, labels, self.pipeline) if is_quick else None

    def _plans(self, epoch: int) -> Iterator[Plan]:
        """Yield the indices of each batch with their draws."""
        count = len(self.images)
        order = epoch_order(count, self.weights, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        keys = order if self.weights is None else draw_keys(order)
        # Several batches at once: the hash costs little an image, but a lot a call.
        per_block = max(_DRAWS_AT_ONCE // self.batch_size, 1) * self.batch_size
        end = min(len(self) * self.batch_size, count)
        for first in range(0, end, per_block):
            last = min(first + per_block, end)
            draws = self.pipeline.draws(self.seed, epoch=epoch, keys=keys[first:last])
            for start in range(first, last, self.batch_size):
                stop = min(start + self.batch_size, last)
                yield Plan(order[start:stop], draws[start - first : stop - first])

    def _on_device(self, batches: Iterator[Prepared]) -> Iterator[tuple[Plan, Tensor, Tensor]]:
        """Yield each batch with its images and labels on the device, finished there."""
        for plan, (pixels, labels, *draws) in copied(map(self._to_copy, batches), self.device):
            if not self.source.finishes:
                pixels = self.pipeline.finish_on_device(
                    pixels, plan.draws, device_draws=draws[0] if draws else None
                )
            yield plan, pixels, labels

    def _to_copy(self, prepared: Prepared) -> tuple[Plan, Values]:
        plan, pixels = prepared
        self.when_prepared()
        labels = self.images.labels[plan.indices]
        draws = (plan.draws,) if self.pipeline.plan.device_steps else ()
        return plan, (pixels, labels, *draws)


def batches_at(batches: Batches, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the images at some places of the list in batches (n, 3, H, W); of several crops the
    first.

    Raises:
        DataError: an image that cannot be read.
    """
    places = list(indices)
    chosen = Batches(
        batches.images.subset(places),
        batches.pipeline,
        batch_size=batches.batch_size,
        device=batches.device,
        workers=batches.workers,
        kept=None if batches.kept is None else batches.kept.subset(places),
    )
    try:
        for batch in chosen.epoch():
            yield batch.images[:: batch.num_crops]
    finally:
        chosen.close()


def check_reduced_decode(pipeline: Pipeline, *, is_kept: bool) -> None:
    """Refuse to decode JPEGs smaller where that has no effect.

    Raises:
        UsageError: the images are kept decoded, or no transform makes them smaller.
    """
    if is_kept:
        raise UsageError(
            "data.reduced_decode decodes each image anew for its crop: it needs data.cache=auto"
            " or off"
        )
    if not pipeline.can_reduce:
        raise UsageError(
            "data.reduced_decode needs a first transform that makes images smaller, Resize or"
            " RandomResizedCrop, found " + (pipeline.calls[0] if pipeline.calls else "none")
        )
