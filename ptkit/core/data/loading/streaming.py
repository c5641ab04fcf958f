"""Images to batches in threads: each thread decodes some images of a batch into the batch's own
memory.

The decoder and torch's kernels release the interpreter lock, so threads keep every core at work,
and nothing is copied from one process to another.
"""

import math
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data import images as decoder
from ptkit.core.data.complaints import capturing_stderr
from ptkit.core.data.fingerprints import fingerprints
from ptkit.core.data.formats import is_jpeg
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Indices, Selection
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.decoding import decoded_image
from ptkit.core.data.loading.gpu_decoding import GpuDecoder, apart
from ptkit.core.data.loading.kept import Kept
from ptkit.core.data.loading.reading import (
    Content,
    PendingFiles,
    checked,
    content_of,
    read_ahead,
    sizes_of,
)
from ptkit.core.data.transforms.filling import filled, filled_shape
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.data.transforms.spec import Draws
from ptkit.core.errors import DataError

# What a thread gets of a batch at a time, decoded: so little that all threads end together.
_BYTES_A_PART = 1 << 19
# The same where batches are made ahead and nobody waits for this one: handing over a part costs a
# tenth of a millisecond where threads are many.
_BYTES_AHEAD_A_PART = 1 << 20

# A batch before it goes to the device: uint8 (n, H, W, C) or float (n, C, H, W).
HostBatch = tuple[Selection, Pixels | Tensor]
# Index in the list -> why that image cannot be read.
Unreadable = dict[int, str]


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches of a list from its files or its kept images; a copy of it runs in each worker
    process.

    hashes: of the files, int64 (N,), 0 until an image is read; filled in place, and shared between
        processes where there are any.
    reduced_decode: JPEGs are decoded smaller where what is cut out of them is made smaller anyway.
    finishes: images come as the model takes them, normalised in the threads too: on a CPU, where
        nothing is left to do for a batch as a whole.
    bad: gets the images that cannot be read, in whose place a black one is put; without it they are
        an error.
    gpu: decodes JPEGs on the device.
    """

    images: ImageList
    pipeline: Pipeline
    kept: Kept | None
    hashes: Tensor
    reduced_decode: bool = False
    finishes: bool = False
    bad: Unreadable | None = None
    gpu: GpuDecoder | None = None

    @property
    def is_whole(self) -> bool:
        """Whether batches are cut out of kept images of one size, and no image is worked on by
        itself.
        """
        has_one_size = self.kept is not None and self.kept.size is not None
        return has_one_size and not self.pipeline.plan.image_steps

    @property
    def shape_in_place(self) -> tuple[int, ...] | None:
        """(h, w, C) of images that can be made in a batch's own memory, uint8; None for others."""
        plan = self.pipeline.plan
        if self.is_whole or self.finishes or plan.batch_steps or self.gpu is not None:
            return None
        return filled_shape(plan)

    def make(
        self,
        selection: Selection,
        contents: Sequence[Content] | None = None,
        *,
        out: Pixels | None = None,
    ) -> Pixels | Tensor:
        """Return images as they go to the device.

        contents: of their files, if read already. out: where they are made, see `shape_in_place`.
        """
        batch = self._unfinished(selection, contents, out)
        if not self.finishes:
            return batch
        return self.pipeline.finish_on_device(
            batch if isinstance(batch, Tensor) else torch.from_numpy(batch), selection.draws
        )

    def _unfinished(
        self, selection: Selection, contents: Sequence[Content] | None, out: Pixels | None
    ) -> Pixels | Tensor:
        if self.is_whole:
            assert self.kept is not None
            # Indexing copies, so the steps may write into the batch.
            return self.pipeline.apply_to_batch(
                self.kept.pixels[selection.indices], selection.draws
            )
        indices = selection.indices.tolist()
        read: Sequence[Content | None] = [None] * len(indices)
        if self.kept is None:
            read = contents or [content_of(self.images, index) for index in indices]
            self._remember(selection.indices, read)
            if self.gpu is not None:
                return self._from_gpu(self.gpu, selection, read)
        sources: Iterable[tuple[Pixels, Reduction | None]] = map(
            self._source, indices, selection.draws, read
        )
        # What a user's own step writes is not a decoder's: then each image is captured by itself.
        with nullcontext() if self.pipeline.is_foreign else capturing_stderr:
            if filled_shape(self.pipeline.plan) is not None:
                if self.kept is None and self.pipeline.plan.prefix:
                    sources = ((self.pipeline.view_prefix(pixels), None) for pixels, _ in sources)
                batch: Pixels | Tensor = filled(
                    self.pipeline.plan, sources, selection.draws, out=out
                )
            else:
                images = map(self._image, sources, selection.draws)
                batch = self.pipeline.stack(list(images))
        if isinstance(batch, Tensor):
            return batch
        return self.pipeline.apply_to_batch(batch, selection.draws)

    def _from_gpu(
        self, gpu: GpuDecoder, selection: Selection, contents: Sequence[Content | None]
    ) -> Tensor:
        indices = selection.indices.tolist()
        images = gpu.images([data if isinstance(data, bytes) else b"" for data in contents])

        def usual(place: int) -> Pixels:
            return self._source(indices[place], selection.draws[place], contents[place])[0]

        with capturing_stderr:
            return gpu.batch(self.pipeline, images, selection.draws, usual)

    def _source(
        self, index: int, draws: Draws, content: Content | None
    ) -> tuple[Pixels, Reduction | None]:
        """Return the pixels of an image, and how much smaller they came."""
        if self.kept is not None:
            return self.kept.image(index), None
        try:
            return self._decoded(index, draws, content)
        except DataError as error:
            if self.bad is None:
                raise
            self.bad[index] = str(error)
            return self._black(), None

    def _image(self, source: tuple[Pixels, Reduction | None], draws: Draws) -> Tensor:
        pixels, reduction = source
        # What is kept has been through the prefix already.
        if self.kept is None:
            pixels = self.pipeline.apply_prefix(pixels)
        return self.pipeline.apply_to_image(pixels, draws, reduction=reduction)

    def _remember(self, indices: Indices, contents: Sequence[Content | None]) -> None:
        # Once, in the first epoch. Whoever else writes to these places writes the same.
        known = self.hashes.numpy()
        if not known[indices].all():
            known[indices] = fingerprints(contents)

    def _decoded(
        self, index: int, draws: Draws, content: Content | None
    ) -> tuple[Pixels, Reduction | None]:
        assert content is not None
        reduced = self._reduced(checked(content), draws)
        if reduced is not None:
            return reduced
        return decoded_image(self.images, index, content, alpha=self.pipeline.alpha), None

    def _black(self) -> Pixels:
        """As large as the first image that has a header: without a Resize all have one size."""
        sizes = (sizes_of(self.images, [index])[0] for index in range(len(self.images)))
        return np.zeros((*next(filter(None, sizes), (64, 64)), 3), np.uint8)

    def _reduced(self, data: bytes, draws: Draws) -> tuple[Pixels, Reduction] | None:
        """Decode an image smaller than it is; None where that must not or cannot be."""
        if not self.reduced_decode or not is_jpeg(data):
            return None
        try:
            size = decoder.header_size(data)
        except DataError:  # decoding it whole says what is wrong
            return None
        reduction = self.pipeline.reduction(size, draws)
        pixels = decoder.decode_reduced(data, reduction.times) if reduction.times > 1 else None
        # A header that others read in another way must not move the crop.
        expected = tuple(-(-side // reduction.times) for side in size)
        return None if pixels is None or pixels.shape[:2] != expected else (pixels, reduction)


def in_threads(
    maker: BatchMaker,
    selections: Iterable[Selection],
    *,
    pool: ThreadPoolExecutor,
    workers: int,
    ahead: int,
    pinned: bool,
) -> Iterator[HostBatch]:
    """Yield batches that the `workers` threads of a pool make, `ahead` of them before they are
    asked for; their files may be read further ahead.

    pinned: in memory that a GPU copies from by itself.
    """
    started: deque[_PendingBatch] = deque()
    # At least so many parts a batch: where each is waited for, all threads end at about one time.
    least, most_bytes = (
        (2 * workers, _BYTES_A_PART) if ahead == 0 else (workers // 2, _BYTES_AHEAD_A_PART)
    )
    parts = _parts(maker, selections, least=least, most_bytes=most_bytes, pinned=pinned)
    # Closed when the epoch is given up: its readers stop then, not when the collector comes by.
    with closing(_with_files(maker, parts)) as parts_and_files:
        try:
            for part, files in parts_and_files:
                # The first part of a batch: one that was started before is handed over first.
                if part.start == 0:
                    if len(started) > ahead:
                        yield started.popleft().finished(maker.pipeline)
                    started.append(part.batch)
                part.batch.futures.append(pool.submit(part.make, maker, files))
            while started:
                yield started.popleft().finished(maker.pipeline)
        finally:
            # The epoch may be given up half way.
            for batch in started:
                for future in batch.futures:
                    future.cancel()


def _parts(
    maker: BatchMaker, selections: Iterable[Selection], *, least: int, most_bytes: int, pinned: bool
) -> "Iterator[_Part]":
    """Divide each batch into parts of a few images, at least so many."""
    size = maker.pipeline.size
    if maker.is_whole:
        assert maker.kept is not None
        # Copying kept pixels is quick: a small batch is not worth dividing.
        size, least = maker.kept.size, 1
    image_bytes = 3 * math.prod(size or (1, 1))
    for selection in selections:
        count, batch = len(selection.indices), _PendingBatch(selection, pinned)
        # No part without an image.
        num_parts = min(max(math.ceil(count * image_bytes / most_bytes), least), count)
        for k in range(num_parts):
            start, end = count * k // num_parts, count * (k + 1) // num_parts
            yield _Part(batch, start, selection.part(start, end))


def _with_files(
    maker: BatchMaker, parts: "Iterator[_Part]"
) -> "Generator[tuple[_Part, PendingFiles | None]]":
    if maker.kept is not None:
        yield from ((part, None) for part in parts)
    else:
        named = ((part, part.selection.indices.tolist()) for part in parts)
        yield from read_ahead(maker.images, named)


@dataclass(eq=False)
class _PendingBatch:
    """A batch in the making: the work on its parts, and its memory, once the size of the images is
    known.
    """

    selection: Selection
    pinned: bool
    futures: list[Future[tuple[int, ...]]] = field(default_factory=list)
    memory: Tensor | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, pixels: Tensor, *, start: int, count: int) -> None:
        """Copy the pixels of `count` images to their place, from the `start`-th image on."""
        crops = len(pixels) // count
        whole = self.whole(crops, pixels.shape[1:], pixels.dtype, pixels.device)
        # Shapes that differ are an error, which `finished` raises when all are known.
        if whole.shape[1:] == pixels.shape[1:]:
            whole[start * crops : (start + count) * crops] = pixels

    def whole(
        self, crops: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return the batch's memory, of so many crops of an image, which the first part makes; all
        write side by side, each to its place.
        """
        with self.lock:
            if self.memory is not None:
                return self.memory
            with apart(device):
                # Of pinned memory torch keeps what was used, and gives it out again after the
                # copies from it ended.
                self.memory = torch.empty(
                    (len(self.selection.indices) * crops, *shape),
                    dtype=dtype,
                    device=device,
                    pin_memory=self.pinned and device.type == "cpu",
                    # As convolutions want it: the model would rearrange every batch otherwise.
                    memory_format=torch.channels_last
                    if dtype.is_floating_point
                    else torch.contiguous_format,
                )
            return self.memory

    def finished(self, pipeline: Pipeline) -> HostBatch:
        """Wait for all parts and return the batch."""
        # Part by part: of several bad images the first in the batch is named.
        same_shape([future.result() for future in self.futures], pipeline.calls)
        assert self.memory is not None
        return self.selection, self.memory


@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a batch, the first of which is its `start`-th."""

    batch: _PendingBatch
    start: int
    selection: Selection

    def make(self, maker: BatchMaker, files: PendingFiles | None) -> tuple[int, ...]:
        """Make the images in the batch's memory and return their shape (C, H, W)."""
        contents = None if files is None else files.contents()
        count = len(self.selection.indices)
        if (shape := maker.shape_in_place) is not None:
            whole = self.batch.whole(1, shape, torch.uint8, torch.device("cpu"))
            place = whole[self.start : self.start + count].numpy()
            maker.make(self.selection, contents, out=place)
            return shape[-1], *shape[:-1]
        own_stream = nullcontext if maker.gpu is None else maker.gpu.own_stream
        with own_stream():
            pixels = maker.make(self.selection, contents)
        tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels)
        # Apart: the batch's memory may be what was free a moment ago, and other threads write to
        # it in streams of theirs.
        with own_stream():
            self.batch.put(tensor, start=self.start, count=count)
        # Pixels that are not finished are (n, H, W, C).
        is_finished = tensor.is_floating_point()
        return tuple((tensor if is_finished else tensor.movedim(-1, 1)).shape[1:])
