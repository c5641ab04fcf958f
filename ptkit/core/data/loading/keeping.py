"""One list with its decoded images: kept in memory, kept on disk, or decoded as they are needed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from ptkit.core.config import DataSettings, Settings
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.cache import Bad, Kept, decode_all, decoded_bytes, unreadable
from ptkit.core.data.loading.disk_cache import decode_to_disk, key_of, open_kept
from ptkit.core.data.loading.entries import cache_folder, free_disk_bytes, refusal, shown
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.machine import free_bytes
from ptkit.core.wording import amount

# Shows how far a pass over the images is: (what, total) -> a function told how many more are done.
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

MEMORY, DISK, OPENED, NOWHERE = "memory", "disk", "opened", "nowhere"


@dataclass(frozen=True)
class Source:
    """One list without the images that cannot be read, its decoded images if they are kept, and
    where they are.

    skipped: reasons for images that were left out. reason: why the images are not kept, where
    nobody asked for that.
    """

    images: ImageList
    kept: Kept | None
    where: str
    reason: str = ""
    skipped: tuple[str, ...] = ()


def load_source(
    images: ImageList, pipeline: Pipeline, settings: Settings, counting: Counting
) -> Source:
    """Keep the decoded images of a list where the settings, the memory and the disk say; deal with
    unreadable ones.

    Raises:
        DataError: images that cannot be read, with data.on_bad=stop.
        UsageError, StorageError: no room in memory, or on the disk, for what was asked for.
    """
    data = settings.data
    choose = {"off": _nothing, "ram": _in_memory, "disk": _on_disk, "auto": _wherever_it_fits}[
        data.cache
    ]
    source = choose(images, pipeline, settings, counting)
    if source.kept is not None:
        return _without_bad(source, source.kept.bad, data)
    if data.on_bad != "skip":
        return source
    with counting(f"checking {images.file.name}", len(images)) as on_images:
        bad = unreadable(images, workers=data.workers, on_images=on_images)
    return _without_bad(source, bad, data)


def where_note(train: Source, valid: Source) -> str:
    """Say where the decoded images of both lists are."""
    if (train.where, train.reason) == (valid.where, valid.reason):
        return _place_note(train, _nbytes(train) + _nbytes(valid))
    return (
        f"training images {_place_note(train, _nbytes(train))}, validation images"
        f" {_place_note(valid, _nbytes(valid))}"
    )


def _nothing(
    images: ImageList, _pipeline: Pipeline, _settings: Settings, _counting: Counting
) -> Source:
    return Source(images, None, NOWHERE)


def _in_memory(
    images: ImageList, pipeline: Pipeline, settings: Settings, counting: Counting
) -> Source:
    needed, free = decoded_bytes(images, pipeline), free_bytes()
    if needed > free:
        raise UsageError(
            f"data.cache=ram: the decoded images of {images.file} take {amount(needed)}, and"
            f" {amount(free)} of memory are free; pass --set data.cache=disk, or auto"
        )
    with counting(f"decoding {images.file.name}", len(images)) as on_images:
        kept = decode_all(images, pipeline, workers=settings.data.workers, on_images=on_images)
    return Source(images, kept, MEMORY)


def _on_disk(
    images: ImageList, pipeline: Pipeline, settings: Settings, counting: Counting
) -> Source:
    workers = settings.data.workers
    key = key_of(images, pipeline, workers=workers)
    kept = open_kept(images, key=key)
    if kept is not None:
        return Source(images, kept, OPENED)
    needed, free = decoded_bytes(images, pipeline), free_disk_bytes()
    if needed > free:
        raise refusal(OSError(f"{images.file} needs {amount(needed)}, and {amount(free)} are free"))
    with counting(f"decoding {images.file.name}", len(images)) as on_images:
        kept = decode_to_disk(images, pipeline, key=key, workers=workers, on_images=on_images)
    return Source(images, kept, DISK)


def _wherever_it_fits(
    images: ImageList, pipeline: Pipeline, settings: Settings, counting: Counting
) -> Source:
    """Keep the images in memory, or else on disk, where they take less than half of what is free."""
    is_once = settings.train.epochs == 1
    if is_once and pipeline.plan.prefix_size is None:
        # A pass that decodes whole images pays from the second epoch on.
        return Source(images, None, NOWHERE, "once only, in the one epoch")
    needed = decoded_bytes(images, pipeline)
    if needed < free_bytes() // 2:
        return _in_memory(images, pipeline, settings, counting)
    kept = open_kept(images, key=key_of(images, pipeline, workers=settings.data.workers))
    if kept is not None:
        return Source(images, kept, OPENED)
    if is_once or needed >= free_disk_bytes() // 2:
        return Source(images, None, NOWHERE, f"all of them would take {amount(needed)}")
    try:
        return _on_disk(images, pipeline, settings, counting)
    except StorageError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        return Source(
            images, None, NOWHERE, f"{shown(cache_folder())} cannot be written: {reason or error}"
        )


def _without_bad(source: Source, bad: Bad, data: DataSettings) -> Source:
    images = source.images
    if not bad:
        return source
    if data.on_bad == "stop":
        more = f" ({len(bad)} images of {images.file} cannot be read)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0][1]}{more}; --set data.on_bad=skip leaves such images out")
    good = np.setdiff1d(np.arange(len(images)), [index for index, _ in bad])
    if not len(good):
        raise DataError(f"no image of {images.file} can be read; the first: {bad[0][1]}")
    # What is kept are the readable ones already.
    return replace(source, images=images.subset(good), skipped=tuple(reason for _, reason in bad))


def _place_note(source: Source, nbytes: int) -> str:
    folder = shown(cache_folder())
    notes = {
        MEMORY: f"kept in memory ({amount(nbytes)})",
        DISK: f"kept on disk ({amount(nbytes)}, {folder}; `ptkit cache` removes it)",
        OPENED: f"opened from {folder} ({amount(nbytes)})",
        NOWHERE: "decoded as they are needed" + (f" ({source.reason})" if source.reason else ""),
    }
    return notes[source.where]


def _nbytes(source: Source) -> int:
    return 0 if source.kept is None else source.kept.nbytes
