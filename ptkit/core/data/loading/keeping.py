"""One list with its decoded images: kept in memory, kept on disk for later runs, or decoded as they
are needed.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from ptkit import __version__
from ptkit.core.config.settings import DataSettings
from ptkit.core.counting import Counting
from ptkit.core.data import images as decoder
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.decoding import (
    Seen,
    decode_all,
    decode_each,
    decoded_bytes,
    decoded_chunks,
)
from ptkit.core.data.loading.entries import (
    FORMAT_VERSION,
    HASHES,
    PIXELS,
    SIZES,
    Entry,
    EntryWriter,
    cache_folder,
    entry_name,
    find_entry,
    free_disk_bytes,
    is_whole,
    refusal,
    shown,
)
from ptkit.core.data.loading.kept import Bad, Kept, Layout, starts_of
from ptkit.core.data.loading.sharing import decoded_once, shared
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.loading.survey import Survey, keep_survey, known_survey, survey
from ptkit.core.data.pixel_limits import max_pixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, PtkitError, StorageError, UsageError
from ptkit.core.files import from_disk
from ptkit.core.machine import free_bytes, num_processes_here
from ptkit.core.ranks import here
from ptkit.core.wording import amount

MEMORY, DISK, OPENED, NOWHERE = "memory", "disk", "opened", "nowhere"

# Files of one task: on a local disk, looking at one is quicker than handing it over.
_STATS_AT_ONCE = 1024


@dataclass(frozen=True)
class LoadedList:
    """One list without the images that cannot be read, its decoded images if they are kept, and
    where they are.

    skipped: why images were left out. reason: why the images are not kept, unless that was asked
    for. odd: how many there are of each unusual kind.
    """

    images: ImageList
    kept: Kept | None
    where: str
    reason: str = ""
    skipped: tuple[str, ...] = ()
    odd: Mapping[str, int] = field(default_factory=dict)


def load_list(
    images: ImageList,
    pipeline: Pipeline,
    data: DataSettings,
    counting: Counting,
    *,
    is_once: bool = False,
) -> LoadedList:
    """Keep a list's decoded images where settings, memory and disk allow; skip or refuse bad ones.

    is_once: the images are needed for one epoch only.

    Raises:
        DataError: images that cannot be read, with data.on_bad=stop.
        UsageError, StorageError: no room in memory, or on the disk, for what was asked for.
    """
    # First: what is in memory already needs no more of it.
    kept = shared(lambda: key_of(images, pipeline)) if data.cache in ("ram", "auto") else None
    match data.cache:
        case _ if kept is not None:
            loaded = LoadedList(images, kept, MEMORY)
        case "off":
            loaded = LoadedList(images, None, NOWHERE)
        case "ram":
            loaded = _in_memory(images, pipeline, data, counting)
        case "disk":
            loaded = _on_disk(images, pipeline, data, counting)
        case _:
            loaded = _wherever_it_fits(images, pipeline, data, counting, is_once=is_once)
    if loaded.kept is not None:
        return _without_bad(replace(loaded, odd=loaded.kept.odd), loaded.kept.bad, data)
    if data.on_bad != "skip":
        found = _surveyed(images, data, counting)
        return _without_bad(replace(loaded, odd=found.odd), found.bad, data)
    # A pass over all images: an epoch cannot leave out what it finds half way.
    with counting(f"checking {images.file.name}", len(images)) as on_images:
        seen = decode_each(images, workers=data.workers, on_images=on_images)
    return _without_bad(replace(loaded, odd=seen.odd), seen.bad, data)


def _surveyed(images: ImageList, data: DataSettings, counting: Counting) -> Survey:
    """Look at the files of a list before training on them, unless that was done before."""
    is_kept = data.cache in ("auto", "disk")
    key = list_key(images, ("survey", decoder.DECODING, max_pixels())) if is_kept else ""
    if is_kept and (known := known_survey(images, key)) is not None:
        return known
    with counting(f"looking at {images.file.name}", len(images)) as on_images:
        found = survey(images, on_images)
    if is_kept and not found.bad:
        # Without it the next run looks again.
        with suppress(StorageError):
            keep_survey(found, images, key)
    return found


def where_note(train: LoadedList, valid: LoadedList) -> str:
    """Say where the decoded images of both lists are."""
    if (train.where, train.reason) == (valid.where, valid.reason):
        return _place_note(train, valid)
    return f"training images {_place_note(train)}, validation images {_place_note(valid)}"


def _in_memory(
    images: ImageList, pipeline: Pipeline, data: DataSettings, counting: Counting
) -> LoadedList:
    needed, free = decoded_bytes(images, pipeline), free_bytes()
    if needed > free:
        raise UsageError(
            f"data.cache=ram: the decoded images of {images.file} take {amount(needed)}, and"
            f" {amount(free)} of memory are free; pass --set data.cache=disk, or auto"
        )

    def decode() -> Kept:
        with counting(f"decoding {images.file.name}", len(images)) as on_images:
            return decode_all(images, pipeline, workers=data.workers, on_images=on_images)

    return LoadedList(images, decoded_once(lambda: key_of(images, pipeline), decode), MEMORY)


def _on_disk(
    images: ImageList, pipeline: Pipeline, data: DataSettings, counting: Counting
) -> LoadedList:
    key = key_of(images, pipeline)
    if (kept := open_kept(images, key=key)) is not None:
        return LoadedList(images, kept, OPENED)
    needed, free = decoded_bytes(images, pipeline), free_disk_bytes()
    if needed > free:
        raise refusal(OSError(f"{images.file} needs {amount(needed)}, and {amount(free)} are free"))
    with counting(f"decoding {images.file.name}", len(images)) as on_images:
        kept = decode_to_disk(images, pipeline, key=key, workers=data.workers, on_images=on_images)
    return LoadedList(images, kept, DISK)


def _wherever_it_fits(
    images: ImageList,
    pipeline: Pipeline,
    data: DataSettings,
    counting: Counting,
    *,
    is_once: bool,
) -> LoadedList:
    """Keep the images in memory, else on disk, where they take less than half of what is free."""
    if is_once and pipeline.plan.prefix_size is None:
        # A pass that decodes whole images pays from the second epoch on.
        return LoadedList(images, None, NOWHERE, "once only, in the one epoch")
    needed = decoded_bytes(images, pipeline)
    # The other half is for the model, the validation images, and whoever shares the machine.
    # Several processes share what is on the disk, and would each have their own in memory.
    if here().is_alone and needed < free_bytes() // 2:
        return _in_memory(images, pipeline, data, counting)
    kept = open_kept(images, key=key_of(images, pipeline))
    if kept is not None:
        return LoadedList(images, kept, OPENED)
    # A single epoch would never read again what it writes.
    if is_once or needed >= free_disk_bytes() // 2:
        return LoadedList(images, None, NOWHERE, f"all of them would take {amount(needed)}")
    try:
        return _on_disk(images, pipeline, data, counting)
    except StorageError as error:
        # The disk's reason alone: the remedies in the message are for those who asked for it.
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        note = f"{shown(cache_folder())} cannot be written: {reason or error}"
        return LoadedList(images, None, NOWHERE, note)


def _without_bad(loaded: LoadedList, bad: Bad, data: DataSettings) -> LoadedList:
    if not bad:
        return loaded
    images = loaded.images
    if data.on_bad == "stop":
        # The first in the list's order, whichever thread met a bad one first.
        more = f" ({len(bad)} images of {images.file} cannot be read)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0][1]}{more}; --set data.on_bad=skip leaves such images out")
    good = np.setdiff1d(np.arange(len(images)), [index for index, _ in bad])
    if not len(good):
        raise DataError(f"no image of {images.file} can be read; the first: {bad[0][1]}")
    # What is kept are the readable ones already.
    return replace(loaded, images=images.subset(good), skipped=tuple(reason for _, reason in bad))


def _place_note(*lists: LoadedList) -> str:
    """Say where lists are that are in one place."""
    folder, reason = shown(cache_folder()), lists[0].reason
    size = amount(sum(loaded.kept.nbytes for loaded in lists if loaded.kept is not None))
    notes = {
        MEMORY: f"kept in memory ({size})",
        DISK: f"kept on disk ({size}, {folder}; `ptkit cache` removes it)",
        OPENED: f"opened from {folder} ({size})",
        NOWHERE: "decoded as they are needed" + (f" ({reason})" if reason else ""),
    }
    return notes[lists[0].where]


def open_kept(images: ImageList, *, key: str) -> Kept | None:
    """Return the images of a list from the entry that an earlier run made; None if there is none.

    key: see `key_of`. The pixels are read where they take less than half of the free memory, else
    they stay in their file. An entry that lacks images which can be read now is not returned.
    """
    entry = find_entry(entry_name(images.file, key), key=key)
    if entry is None:
        return None
    try:
        kept = _loaded(entry)
    except (OSError, ValueError, KeyError):  # removed or damaged since it was found
        return None
    bad = [index for index, _ in kept.bad]
    if len(kept) + len(set(bad)) != len(images) or max(bad, default=0) >= len(images):
        return None
    # Tried again: if the disk was at fault then, the entry lacks images that are good.
    return None if any(_can_be_read(images, index) for index, _ in kept.bad) else kept


def decode_to_disk(
    images: ImageList,
    pipeline: Pipeline,
    *,
    key: str,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Kept:
    """Decode every image of a list into an entry on disk, after the pipeline's prefix, and return
    it.

    Raises:
        StorageError: the disk refused; nothing of the entry is left.
    """
    sizes, seen = [], []
    with EntryWriter(entry_name(images.file, key), _facts(images, pipeline, key)) as writer:
        for chunk in decoded_chunks(images, pipeline, workers=workers, on_images=on_images):
            writer.write(chunk.pixels)
            sizes.append(chunk.sizes)
            seen.append(chunk.seen)
        table = None if pipeline.plan.prefix_size is not None else np.concatenate(sizes).tobytes()
        whole = Seen.together(seen)
        found = {
            "num_images": len(whole.hashes),
            "bad": whole.bad,
            "odd": whole.odd,
            "nbytes": writer.pixels.tell(),
            "sizes_nbytes": len(table or b""),
            "hashes_nbytes": whole.hashes.nbytes,
        }
        writer.finish(found, hashes=whole.hashes.tobytes(), sizes=table)
    # Opened as a later run would do it: what it reads has been checked.
    kept = open_kept(images, key=key)
    if kept is None:
        raise refusal(FileNotFoundError(2, "the images that were just written are gone"))
    return kept


def key_of(images: ImageList, pipeline: Pipeline) -> str:
    """Return the hexadecimal key of a list's decoded images, which changes when anything about them
    does.

    It covers path, size and time of every file, the transforms of the prefix, and the versions of
    all that computes.
    """
    return list_key(
        images,
        (
            FORMAT_VERSION,
            decoder.DECODING,
            *_versions(pipeline).items(),
            *_prefix_calls(pipeline),
        ),
    )


def list_key(images: ImageList, parts: Iterable[Any]) -> str:
    """Return the hexadecimal key of something made of a list's images and of `parts`, which are
    compared as text.
    """
    total = hashlib.sha256()
    for part in parts:
        # A zero ends each part, so that no two lists of parts give the same bytes.
        total.update(f"{part}\0".encode())

    # What `stat` says, not the bytes: reading every file is part of what an entry saves.
    def files(some: Sequence[int]) -> bytes:
        return b"".join(_file_facts(images, index) for index in some)

    # In the list's order, which belongs to the key: images are found by their place.
    for part in from_disk(files, len(images), at_once=_STATS_AT_ONCE):
        total.update(part)
    return total.hexdigest()


def _can_be_read(images: ImageList, index: int) -> bool:
    try:
        decoder.read(images.image_path(index))
    except PtkitError:
        return False
    return True


def _prefix_calls(pipeline: Pipeline) -> tuple[str, ...]:
    # The prefix alone: runs that differ only in what follows share an entry.
    calls = tuple(map(str, pipeline.calls[: len(pipeline.plan.prefix)]))
    return calls if pipeline.alpha == "drop" else (f"alpha={pipeline.alpha}", *calls)


def _versions(pipeline: Pipeline) -> dict[str, str]:
    """Return what decodes and, where there is a prefix, what computes it."""
    # Another decoder may round differently, and kept pixels must be those of decoding anew.
    versions = {"ptkit": __version__, "opencv": decoder.cv2.__version__, "pillow": PIL.__version__}
    if pipeline.plan.prefix:
        versions |= {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
    return versions


def _file_facts(images: ImageList, index: int) -> bytes:
    path = os.path.abspath(images.image_path(index))
    try:
        status = os.stat(path)
        # The time of change too: copying and unpacking may set the other back.
        facts = f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
    except (OSError, ValueError):
        # This is in the key as well: it changes when the file appears.
        facts = "\0missing\n"
    return os.fsencode(path) + facts.encode()


def _facts(images: ImageList, pipeline: Pipeline, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "list": os.path.abspath(images.file),
        "num_images": len(images),
        "size": pipeline.plan.prefix_size,
        "channels": pipeline.plan.prefix_channels,
        "calls": _prefix_calls(pipeline),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(pipeline),
    }


def _loaded(entry: Entry) -> Kept:
    """Return the images of an entry, all of them checked: no changed pixel may be trained on.

    Raises:
        OSError, ValueError, KeyError: it is damaged.
    """
    facts, file = entry.facts, entry.folder / PIXELS
    count, channels, nbytes = facts["num_images"], facts["channels"], facts["nbytes"]
    # Each process on this machine has its own.
    fits = nbytes < free_bytes() // (2 * num_processes_here())
    pixels = np.empty(nbytes, np.uint8) if fits else None
    if not is_whole(entry, pixels=None if pixels is None else pixels.data):
        raise ValueError("other bytes than were written")
    bad, odd = tuple(map(tuple, facts["bad"])), facts["odd"]
    hashes = np.fromfile(entry.folder / HASHES, np.int64).reshape(count)
    shape = (nbytes,) if facts["size"] is None else (count, *facts["size"], channels)
    array = StoredPixels(file, shape) if pixels is None else pixels.reshape(shape)
    if facts["size"] is not None:
        return Kept(array, bad, hashes=hashes, odd=odd)
    sizes = np.fromfile(entry.folder / SIZES, np.int32).reshape(count, 2)
    if sizes.min(initial=1) < 1 or channels * sizes.prod(1, np.int64).sum() != nbytes:
        raise ValueError("the sizes are not those of the pixels")
    starts, block_of = starts_of(sizes, channels), np.zeros(count, np.int32)
    layout = Layout((array,), block_of, starts, sizes, channels)
    return Kept(np.empty(0, np.uint8), bad, layout, hashes, odd)
