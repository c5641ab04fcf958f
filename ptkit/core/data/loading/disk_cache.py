"""Decoded images kept on disk and mapped into memory, from one run to the next."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from ptkit import __version__
from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.cache import Kept, Places, decoded_chunks, starts_of
from ptkit.core.data.loading.entries import (
    FORMAT_VERSION,
    PIXELS,
    SIZES,
    Entry,
    EntryWriter,
    entry_name,
    find_entry,
    refusal,
)
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import PtkitError
from ptkit.core.machine import num_cores

_STATS_AT_ONCE = 1024
# Reading a file takes the disk's time, not a core's: on a network more threads ask at once.
_STAT_THREADS = 16


def open_kept(images: ImageList, *, key: str) -> Kept | None:
    """Return the images of a list from the entry that an earlier run made; None if there is none.

    key: see `key_of`. What is written to the pixels never reaches the disk. Only images that could
    not be read are
    tried again: what failed may have been the disk, and then the entry is of no use.
    """
    entry = find_entry(entry_name(images.file, key), key=key)
    try:
        kept = None if entry is None else _mapped(entry)
    except (OSError, ValueError, KeyError):  # removed or damaged since it was found
        return None
    return (
        None if kept is None or any(_can_be_read(images, index) for index, _ in kept.bad) else kept
    )


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
    name = entry_name(images.file, key)
    bad: list[tuple[int, str]] = []
    sizes = []
    with EntryWriter(name, _facts(images, pipeline, key)) as writer:
        for chunk in decoded_chunks(images, pipeline, workers=workers, on_images=on_images):
            writer.write(chunk.pixels)
            sizes.append(chunk.sizes)
            bad += chunk.bad
        table = None if pipeline.plan.prefix_size is not None else np.concatenate(sizes).tobytes()
        nbytes = writer.pixels.tell()
        found = {
            "num_images": len(images) - len(bad),
            "bad": bad,
            "nbytes": nbytes,
            "sizes_nbytes": len(table or b""),
        }
        writer.finish(found, sizes=table)
    kept = open_kept(images, key=key)
    if kept is None:
        raise refusal(FileNotFoundError(2, "the images that were just written are gone"))
    return kept


def key_of(images: ImageList, pipeline: Pipeline, *, workers: int = 0) -> str:
    """Return the hexadecimal key of a list's decoded images: another one as soon as anything about
    them changes.

    It covers path, size and time of every file, the transforms of the prefix, and the versions of
    all that computes.
    """
    total = hashlib.sha256()
    for part in (FORMAT_VERSION, *_versions(pipeline).items(), *_prefix_calls(pipeline)):
        total.update(f"{part}\0".encode())

    def files(start: int) -> bytes:
        return b"".join(
            _file_facts(images, index)
            for index in range(start, min(start + _STATS_AT_ONCE, len(images)))
        )

    with ThreadPoolExecutor(workers or max(num_cores(), _STAT_THREADS), "ptkit-stat") as pool:
        for part in pool.map(files, range(0, len(images), _STATS_AT_ONCE)):
            total.update(part)
    return total.hexdigest()


def _can_be_read(images: ImageList, index: int) -> bool:
    try:
        decoder.read(images.image_path(index))
    except PtkitError:
        return False
    return True


def _prefix_calls(pipeline: Pipeline) -> tuple[str, ...]:
    return pipeline.calls[: len(pipeline.plan.prefix)]


def _versions(pipeline: Pipeline) -> dict[str, str]:
    """Return what decodes and, where there is a prefix, what computes it."""
    versions = {"ptkit": __version__, "opencv": cv2.__version__, "pillow": PIL.__version__}
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
        facts = "\0missing\n"
    return os.fsencode(path) + facts.encode()


def _facts(images: ImageList, pipeline: Pipeline, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "list": os.path.abspath(images.file),
        "num_images": len(images),
        "size": pipeline.plan.prefix_size,
        "calls": _prefix_calls(pipeline),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(pipeline),
    }


def _mapped(entry: Entry) -> Kept:
    facts, file = entry.facts, entry.folder / PIXELS
    count = facts["num_images"]
    bad = tuple((index, reason) for index, reason in facts["bad"])
    if facts["size"] is not None:
        return Kept(_mapped_pixels(file, (count, *facts["size"], 3)), bad, origin=file)
    sizes = np.fromfile(entry.folder / SIZES, np.int32).reshape(count, 2)
    block = _mapped_pixels(file, (facts["nbytes"],))
    places = Places((block,), np.zeros(count, np.int32), starts_of(sizes), sizes)
    return Kept(np.empty(0, np.uint8), bad, places, file)


def _mapped_pixels(file: Path, shape: tuple[int, ...]) -> Pixels:
    if not all(shape):
        return np.empty(shape, np.uint8)  # nothing to map
    # "c": pages of its own where somebody writes, so that torch takes the array without a warning.
    return np.asarray(np.memmap(file, np.uint8, "c", shape=shape))
