"""Images to batches in threads: each thread decodes some images of a batch into the batch's own
memory.

The decoder and torch's kernels release the interpreter lock, so threads keep every core at work,
and nothing is
copied from one process to another.
"""

import math
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.cache import Kept
from ptkit.core.data.loading.read_ahead import Content, Reading, checked, read_ahead
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import Pipeline, same_size
from ptkit.core.data.transforms.spec import Draws, Size
from ptkit.core.errors import DataError

Indices = npt.NDArray[np.int64]

# What a thread gets of a batch at a time, once it is decoded: so little that all threads end
# together.
_BYTES_A_PART = 1 << 19


class Plan(NamedTuple):
    """Images of a batch, indices (n,) into the list, and their draws, (n, num_draws)."""

    indices: Indices
    draws: Draws

    def part(self, start: int, end: int) -> "Plan":
        return Plan(self.indices[start:end], self.draws[start:end])


# A batch before it goes to the device: uint8 (n, H, W, 3) or float (n, 3, H, W).
Prepared = tuple[Plan, Pixels | Tensor]


@dataclass(frozen=True)
class Source:
    """Where the images of a batch come from; a copy of it runs in each worker process.

    reduced_decode: JPEGs are decoded smaller where what is cut out of them is made smaller anyway.
    finishes: images come as the model takes them, normalised in the threads too: on a CPU, where
        nothing is left to do for a batch as a whole.
    """

    images: ImageList
    pipeline: Pipeline
    kept: Kept | None
    reduced_decode: bool = False
    finishes: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether batches are cut out of kept images of one size, and no image is worked on by
        itself.
        """
        has_one_size = self.kept is not None and self.kept.size is not None
        return has_one_size and not self.pipeline.plan.image_steps

    def prepared(self, plan: Plan, contents: Sequence[Content] | None = None) -> Pixels | Tensor:
        """Return some images as they go to the device.

        contents: of their files, where they have been read.
        """
        batch = self._unfinished(plan, contents)
        if not self.finishes:
            return batch
        return self.pipeline.finish_on_device(
            batch if isinstance(batch, Tensor) else torch.from_numpy(batch), plan.draws
        )

    def _unfinished(self, plan: Plan, contents: Sequence[Content] | None) -> Pixels | Tensor:
        if self.is_whole:
            assert self.kept is not None
            return self.pipeline.apply_to_batch(self.kept.gathered(plan.indices), plan.draws)
        read = contents if contents is not None else [None] * len(plan.indices)
        triples = zip(plan.indices.tolist(), plan.draws, read, strict=True)
        batch = self.pipeline.stack(
            [self._image(index, row, content) for index, row, content in triples]
        )
        if isinstance(batch, Tensor):
            return batch
        return self.pipeline.apply_to_batch(batch, plan.draws)

    def _image(self, index: int, draws: Draws, content: Content | None) -> Tensor:
        if self.kept is not None:
            return self.pipeline.apply_to_image(self.kept.image(index), draws)
        path = self.images.image_path(index)
        data = decoder.read_bytes(path) if content is None else checked(content)
        pixels, reduction = self._reduced(data, draws) or (decoder.decode(data, path), None)
        return self.pipeline.apply_to_image(
            self.pipeline.apply_prefix(pixels), draws, reduction=reduction
        )

    def _reduced(self, data: bytes, draws: Draws) -> tuple[Pixels, Reduction] | None:
        """Decode an image smaller than it is; None where that must not or cannot be."""
        if not self.reduced_decode or not decoder.is_jpeg(data):
            return None
        try:
            size = decoder.header_size(data)
        except DataError:  # decoding it whole says what is wrong
            return None
        reduction = self.pipeline.reduction(size, draws)
        pixels = decoder.decode_reduced(data, reduction.times) if reduction.times > 1 else None
        # A header that others read in another way must not move the crop.
        if pixels is None or pixels.shape[:2] != tuple(
            -(-side // reduction.times) for side in size
        ):
            return None
        return pixels, reduction


def in_threads(
    source: Source,
    plans: Iterable[Plan],
    *,
    pool: ThreadPoolExecutor,
    workers: int,
    ahead: int,
    pinned: bool,
) -> Iterator[Prepared]:
    """Yield batches that the `workers` threads of a pool prepare, so many batches ahead of the one
    that is asked for.

    Their files may be read further ahead. pinned: in memory that a GPU copies from by itself.
    """
    parts = _parts(source, plans, workers=workers, pinned=pinned)
    waiting: deque[_Batch] = deque()
    with closing(_with_readings(source, parts)) as readings:
        try:
            for part, reading in readings:
                if not waiting or part.batch is not waiting[-1]:
                    if len(waiting) > ahead:
                        yield waiting.popleft().prepared(source.pipeline)
                    waiting.append(part.batch)
                part.batch.futures.append(pool.submit(part.fill, source, reading))
            while waiting:
                yield waiting.popleft().prepared(source.pipeline)
        finally:
            for future in [future for batch in waiting for future in batch.futures]:
                future.cancel()


def _with_readings(
    source: Source, parts: "Iterator[_Part]"
) -> "Generator[tuple[_Part, Reading | None]]":
    if source.kept is None:
        yield from read_ahead(source.images, ((part, part.plan.indices.tolist()) for part in parts))
    else:
        yield from ((part, None) for part in parts)


def _parts(
    source: Source, plans: Iterable[Plan], *, workers: int, pinned: bool
) -> "Iterator[_Part]":
    """Divide each batch into parts of a few images, at least two for each thread."""
    size = source.kept.size if source.is_whole and source.kept is not None else source.pipeline.size
    least = 1 if source.is_whole else 2 * workers
    for plan in plans:
        count, batch = len(plan.indices), _Batch(plan, pinned)
        num_parts = min(
            max(math.ceil(count * math.prod(size or (1, 1)) * 3 / _BYTES_A_PART), least), count
        )
        ends = np.linspace(0, count, num_parts + 1).astype(int).tolist()
        yield from (_Part(batch, start, plan.part(start, end)) for start, end in pairwise(ends))


@dataclass(eq=False)
class _Batch:
    """A batch in preparation: its memory, as soon as the size of the images is known, and the work
    on its parts.
    """

    plan: Plan
    pinned: bool
    futures: list[Future[Size]] = field(default_factory=list)
    memory: Tensor | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, part: Tensor, *, start: int, count: int) -> None:
        """Copy what `count` images from the `start`-th became to where it belongs, unless the sizes
        do not agree.
        """
        crops = len(part) // count
        with self.lock:
            if self.memory is None:
                shape = (len(self.plan.indices) * crops, *part.shape[1:])
                # Of pinned memory torch keeps what was used, and gives it out again after the
                # copies from it ended.
                form = torch.channels_last if part.is_floating_point() else torch.contiguous_format
                self.memory = torch.empty(
                    shape, dtype=part.dtype, pin_memory=self.pinned, memory_format=form
                )
        if self.memory.shape[1:] == part.shape[1:]:
            self.memory[start * crops : (start + count) * crops] = part

    def prepared(self, pipeline: Pipeline) -> Prepared:
        """Wait for all parts and return the batch."""
        same_size([future.result() for future in self.futures], pipeline.calls)
        assert self.memory is not None
        return self.plan, self.memory


@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a batch, the first of which is its `start`-th."""

    batch: _Batch
    start: int
    plan: Plan

    def fill(self, source: Source, reading: Reading | None) -> Size:
        """Prepare the images in the batch's memory and return their size."""
        pixels = source.prepared(self.plan, reading.contents() if reading is not None else None)
        tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels)
        self.batch.put(tensor, start=self.start, count=len(self.plan.indices))
        height, width = pixels.shape[-2:] if isinstance(pixels, Tensor) else pixels.shape[1:3]
        return height, width
