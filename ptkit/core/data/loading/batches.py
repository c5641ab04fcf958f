"""The batches of a list on the device; they depend only on which images each has, and on the draws
of each image.

Images kept in memory are cut into batches as they are asked for; others come from threads
(streaming.py), or, where transforms draw from global generators, from worker processes
(workers.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import tee
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data.fingerprints import Hashes, hash_files
from ptkit.core.data.keyed import (
    SAMPLERS,
    Indices,
    Sampling,
    Selection,
    balanced_weights,
    draw_keys,
    epoch_order,
)
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.gpu_decoding import gpu_decoder
from ptkit.core.data.loading.in_memory import InMemory
from ptkit.core.data.loading.kept import Kept
from ptkit.core.data.loading.on_device import OnDevice, can_move, is_moved, move
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.loading.streaming import BatchMaker, HostBatch, Unreadable, in_threads
from ptkit.core.data.loading.workers import WorkerProcesses
from ptkit.core.data.transforms.mixing import Mixed, MixedPart, mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import Values, autocast, copied, free_gpu_bytes, thread_pool
from ptkit.core.errors import UsageError
from ptkit.core.machine import num_cores

_DRAWS_AT_ONCE = 4096
# A batch up to this size is made faster than it is handed to threads.
_QUICK_BYTES = 1 << 20


# Images (n, C, H, W) to outputs (n, num_outputs): a model, or its compiled form.
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """One batch of n images; images and labels are on the device.

    images: float32 (n * num_crops, C, H, W), channels last, image by image. labels: the list's own
    rows, int64 (n,), bool (n, K) or float32 (n, D). indices: into the list, (n,). mixed: what the
    images were mixed with, if the pipeline has MixUp or CutMix. num_crops: 5 or 10 with FiveCrop or
    TenCrop, 2 with WithHorizontalFlip. whole_size: images of the batch over all ranks. is_stand_in:
    see BatchPart.
    """

    images: Tensor
    labels: Tensor
    indices: Indices
    mixed: Mixed | None = None
    num_crops: int = 1
    whole_size: int = 0
    is_stand_in: bool = False

    def outputs(self, model: Forward, dtype: torch.dtype | None = None) -> Tensor:
        """Return the model's outputs (n, num_outputs), the mean over the crops of each image.

        dtype: of autocast, None for float32.
        """
        with autocast(self.images.device, dtype):
            outputs = model(self.images)
        if self.num_crops > 1:
            # In float32: under autocast a mean would lose digits.
            several = outputs.float().unflatten(0, (-1, self.num_crops))
            outputs = cast(Tensor, several).mean(dim=1)
        return outputs


class Batches:
    """The batches of a list, epoch after epoch.

    The result depends on the list, the pipeline, the seed and the epoch alone: not on `workers`,
    not on whether the images are kept (`kept`), and without MixUp and CutMix not on the batch an
    image falls into.

    decode: "whole"; "reduced" for JPEGs at a half, quarter or eighth of their size where the first
    transform shrinks its crop at least that much, the pixels differ slightly; or "gpu" for JPEGs on
    a CUDA device, the pixels differ by a few levels.

    Raises:
        UsageError: a balanced sampler for labels that are numbers, or reduced decoding where it has
            no effect.
    """

    def __init__(
        self,
        images: ImageList,
        pipeline: Pipeline,
        sampling: Sampling,
        *,
        device: str | torch.device = "cpu",
        workers: int = 0,
        kept: Kept | None = None,
        decode: str = "whole",
    ) -> None:
        assert sampling.sampler in SAMPLERS
        assert decode in ("whole", "reduced", "gpu")
        if decode == "reduced":
            check_reduced_decode(pipeline, is_kept=kept is not None)
        self.device, self.decode = torch.device(device), decode
        self.images, self.pipeline, self.kept = images, pipeline.for_device(self.device), kept
        self.sampling, self.workers = sampling, workers or num_cores()
        is_balanced = sampling.sampler == "balanced"
        self._weights = balanced_weights(images.labels) if is_balanced else None
        # A matrix product may round differently for a part of a batch, and worker processes would
        # hand over floats, four times the bytes.
        is_divisible = not (self.pipeline.plan.float_steps or self.pipeline.is_foreign)
        finishes = self.device.type == "cpu" and is_divisible
        # Of numpy: memory that nobody writes to is not taken.
        self._hashes = torch.from_numpy(np.zeros(len(images), np.int64))
        if self.pipeline.is_foreign:
            self._hashes.share_memory_()
        self._maker = BatchMaker(
            images,
            self.pipeline,
            kept,
            self._hashes,
            decode == "reduced",
            finishes,
            gpu=gpu_decoder(self.device, self.pipeline) if decode == "gpu" else None,
        )
        self._pool: ThreadPoolExecutor | None = None
        self._processes = WorkerProcesses(self._maker, self._selections, workers=self.workers)

    def resampled(self, sampling: Sampling) -> "Batches":
        """Return batches of the same images, divided in another way."""
        return Batches(
            self.images,
            self.pipeline,
            sampling,
            device=self.device,
            workers=self.workers,
            kept=self.kept,
            decode=self.decode,
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.sampling.num_batches(len(self.images))

    @property
    def num_images(self) -> int:
        """The number of images an epoch passes."""
        return min(len(self) * self.sampling.batch_size, len(self.images))

    def epoch(
        self,
        epoch: int = 0,
        *,
        first: int = 0,
        on_ready: Callable[[], None] = lambda: None,
        bad: Unreadable | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch, from the batch `first` on, as if those before had been
        made.

        on_ready: called whenever a batch is made, before it is copied to the device.
        bad: gets the images that cannot be read, in whose place a black one is put; without it they
        are an error.

        Raises:
            DataError: an image that cannot be read, or sizes that do not agree.
            UsageError: a transform that does not fit the images.
            StorageError: the file of kept images was cut off, or the disk failed.
        """
        if self._held is not None:
            batches = self._cut(self._held, self._selections(epoch, first), on_ready)
        else:
            batches = self._copied(self._made(epoch, first, bad), on_ready)
        mixer, seed, crops = self.pipeline.mix, self.sampling.seed, self.pipeline.num_crops
        for number, (selection, images, labels) in enumerate(batches, start=first):
            part = self.sampling.part_of_batch(number, self.num_images)
            indices, mixed = selection.indices, None
            # On the device and last: partners come from the same batch, augmented and normalised.
            if mixer is not None:
                begin = number * self.sampling.batch_size
                own = MixedPart(
                    part.places.start - begin,
                    part.places.stop - begin,
                    part.batch_size,
                    has_partner=self._brings_partner,
                )
                images, mixed = mix(
                    mixer, images, labels, seed=seed, epoch=epoch, batch=number, part=own
                )
                labels, indices = labels[-len(images) :], indices[-len(images) :]
            yield Batch(images, labels, indices, mixed, crops, *part[1:])

    def image_hashes(self) -> Hashes:
        """Return the fingerprint of each image's file, int64 (N,), 0 where it cannot be read.

        They come from the pass that decoded the images. Only files that no pass has read yet are
        read here: those that a sampler or a last batch left out.
        """
        known = self.known_hashes()
        unread = np.flatnonzero(known == 0)
        known[unread] = hash_files(self.images, unread)
        return known

    def known_hashes(self) -> Hashes:
        """Return `image_hashes`, with 0 for files that no pass has read yet; reads nothing."""
        if self.kept is not None and self.kept.hashes is not None:
            return self.kept.hashes
        known: Hashes = self._hashes.numpy()
        return known

    def settle(self) -> None:
        """Move kept images to the device, if they belong there, now and not with the first batch:
        what is free then may be what training will need.
        """
        _ = self._held

    def close(self) -> None:
        """End the threads and worker processes; the next epoch starts them anew."""
        self._processes.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        # The copy on the device, which may be a quarter of its memory.
        self.__dict__.pop("_held", None)

    def _made(self, epoch: int, first: int, bad: Unreadable | None) -> Iterator[HostBatch]:
        """Yield the batches of an epoch before they go to the device."""
        if self.pipeline.is_foreign:
            return self._processes.made(epoch, first, bad=bad)
        if self._pool is None:
            self._pool = thread_pool(self.workers)
        return in_threads(
            replace(self._maker, bad=bad),
            self._selections(epoch, first),
            pool=self._pool,
            workers=self.workers,
            # On a CPU, model and decoding take turns with every core. A core for each was a tenth
            # quicker with one small net, but would halve the model's threads, also where decoding
            # is little work, and change its last digits.
            ahead=0 if self.device.type == "cpu" else 2,
            pinned=self.device.type == "cuda",
        )

    def _cut(
        self,
        held: InMemory | OnDevice,
        selections: Iterator[Selection],
        on_ready: Callable[[], None],
    ) -> Iterator[tuple[Selection, Tensor, Tensor]]:
        """Yield batches cut out of kept images, which are where they are needed."""
        # Small batches are cut several at a time, so `held` runs ahead of what is yielded here.
        selections, again = tee(selections)
        # What cuts them on a device is no wait for data.
        is_there = isinstance(held, OnDevice)

        def asked() -> Iterator[Selection]:
            for selection in selections:
                if is_there:
                    on_ready()
                yield selection

        for selection, (images, labels) in zip(asked(), held.batches(again), strict=True):
            if not is_there:
                on_ready()
            yield selection, images, labels

    def _copied(
        self, batches: Iterator[HostBatch], on_ready: Callable[[], None]
    ) -> Iterator[tuple[Selection, Tensor, Tensor]]:
        """Yield each batch with its images and labels on the device, finished there."""

        def values(batch: HostBatch) -> tuple[Selection, Values]:
            # `map` is lazy: this runs when a batch is taken, right after the wait for it.
            on_ready()
            selection, pixels = batch
            labels = self.images.labels[selection.indices]
            # Kernels on the device need the draws there as well.
            draws = (selection.draws,) if self.pipeline.plan.device_steps else ()
            return selection, (pixels, labels, *draws)

        for selection, (pixels, labels, *draws) in copied(map(values, batches), self.device):
            if not self._maker.finishes:
                pixels = self.pipeline.finish_on_device(
                    pixels, selection.draws, device_draws=draws[0] if draws else None
                )
            yield selection, pixels, labels

    # Cached: the pixels move to a GPU once in a run, not once in an epoch.
    @cached_property
    def _held(self) -> InMemory | OnDevice | None:
        """The kept images, if threads would cost more than they save."""
        if self.kept is None or not self._maker.is_whole:
            return None
        pixels, labels = self.kept.pixels, self.images.labels
        if self.device.type == "cuda":
            free = free_gpu_bytes(self.device)
            if not is_moved(pixels, self.device) and not can_move(pixels, self.pipeline, free=free):
                return None
            return move(pixels, labels, self.pipeline, device=self.device, free=free)
        if isinstance(pixels, StoredPixels):
            # Each image waits for the disk: threads wait for several at once.
            return None
        is_small = self.sampling.batch_size * pixels[0].size <= _QUICK_BYTES
        is_quick = self.device.type == "cpu" and (self.pipeline.only_moves_pixels or is_small)
        return InMemory(pixels, labels, self.pipeline) if is_quick else None

    def _selections(self, epoch: int, first: int) -> Iterator[Selection]:
        """Yield the images of each batch with their draws, from the batch `first` on."""
        count, sampling, weights = len(self.images), self.sampling, self._weights
        seed = sampling.seed
        order = epoch_order(count, weights, seed=seed, epoch=epoch, shuffle=sampling.shuffle)
        # Drawn twice in an epoch, an image is augmented in two ways.
        keys = order if weights is None else draw_keys(order)
        # Several batches at once: the hash costs little an image, but a lot a call.
        per_block = max(_DRAWS_AT_ONCE // sampling.largest_part, 1)
        for begin in range(first, len(self), per_block):
            numbers = range(begin, min(begin + per_block, len(self)))
            places = [self._places(number) for number in numbers]
            mine, own = (some[np.concatenate(places)] for some in (order, keys))
            block = Selection(mine, self.pipeline.draws(seed, epoch=epoch, keys=own))
            end = 0
            for part in places:
                start, end = end, end + len(part)
                yield block.part(start, end)

    @property
    def _brings_partner(self) -> bool:
        """Whether a part of a batch comes with the partner of its first image before it."""
        return self.pipeline.mix is not None and not self.sampling.rank.is_alone

    def _places(self, number: int) -> Indices:
        """Return where the images of a batch, or of a rank's part, are in an epoch's order."""
        part = self.sampling.part_of_batch(number, self.num_images)
        places = np.arange(part.places.start, part.places.stop)
        if not self._brings_partner:
            return places
        # The one before it, or that of the batch's first image, the last.
        begin = number * self.sampling.batch_size
        partner = begin + (part.places.start - begin - 1) % part.batch_size
        return np.concatenate([[partner], places])


def batches_at(batches: Batches, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the images at some places of the list in batches (n, C, H, W); of several crops the
    first.

    Raises:
        DataError: an image that cannot be read.
    """
    places = list(indices)
    # Neither shuffled nor dropped: every place once, in the order given.
    chosen = Batches(
        batches.images.subset(places),
        batches.pipeline,
        Sampling(batches.sampling.batch_size),
        device=batches.device,
        workers=batches.workers,
        kept=None if batches.kept is None else batches.kept.subset(places),
    )
    with closing(chosen):
        for batch in chosen.epoch():
            yield batch.images[:: batch.num_crops]


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
            " RandomResizedCrop, found " + (str(pipeline.calls[0]) if pipeline.calls else "none")
        )
