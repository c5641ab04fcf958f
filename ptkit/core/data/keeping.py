"""Images decoded once and kept in memory, and the passes that find the ones that cannot be read."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError
from ptkit.core.machine import free_bytes, num_cores

_FILL_CHUNK = 64


@dataclass(frozen=True)
class Kept:
    """Images decoded once: uint8 (N, H, W, 3) after the prefix, and what could not be read: (index, reason)."""

    pixels: Pixels
    bad: tuple[tuple[int, str], ...]


def decode_all(
    images: ImageList, pipeline: Pipeline, *, workers: int = 0, on_images: Callable[[int], None] | None = None
) -> Kept:
    """Decode every image of a list into memory, after the pipeline's prefix, which must give one size.

    on_images: told how many more are done, for a progress bar.
    """
    assert pipeline.prefix_size is not None
    pixels = np.empty((len(images), *pipeline.prefix_size, 3), np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        bad = []
        for index in range(start, min(start + _FILL_CHUNK, len(images))):
            try:
                pixels[index] = pipeline.before(decoder.read(images.image_path(index)))
            except DataError as error:
                bad.append((index, str(error)))
        return bad

    found: list[tuple[int, str]] = []
    starts = range(0, len(images), _FILL_CHUNK)
    with thread_pool(workers or num_cores()) as pool:
        for start, bad in zip(starts, pool.map(fill, starts), strict=True):
            found += bad
            if on_images is not None:
                on_images(min(_FILL_CHUNK, len(images) - start))
    return Kept(pixels, tuple(found))


def unreadable(images: ImageList, *, workers: int = 0) -> tuple[tuple[int, str], ...]:
    """Decode every image and keep none: return what cannot be read as (index, reason)."""

    def check(index: int) -> tuple[int, str] | None:
        try:
            decoder.read(images.image_path(index))
        except DataError as error:
            return index, str(error)
        return None

    with thread_pool(workers or num_cores()) as pool:
        return tuple(found for found in pool.map(check, range(len(images)), chunksize=_FILL_CHUNK) if found)


def fits_in_memory(images: ImageList, pipeline: Pipeline) -> bool:
    """Say whether the decoded images take less than half of the memory that is free."""
    if pipeline.prefix_size is None:
        return False
    height, width = pipeline.prefix_size
    return len(images) * height * width * 3 < free_bytes() // 2


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch's kernels on one core each."""
    return ThreadPoolExecutor(threads, "ptkit-decode", initializer=torch.set_num_threads, initargs=(1,))
