"""From list files to batches: sizes, statistics, pipelines, and the images kept in memory."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ptkit.core.calls import parse
from ptkit.core.config import DataSettings, Settings
from ptkit.core.data import images as decoder
from ptkit.core.data import statistics
from ptkit.core.data.batches import Batches
from ptkit.core.data.keeping import Kept, decode_all, fits_in_memory, unreadable
from ptkit.core.data.lists import ImageList, read_classes, read_list
from ptkit.core.data.pipeline import Pipeline
from ptkit.core.data.transforms import build_transform, complete, default_transforms, evaluation_geometry
from ptkit.core.errors import DataError, UsageError
from ptkit.core.machine import num_cores
from ptkit.core.training.starting_weights import StartingWeights

_SAMPLE_ABOVE, _SAMPLE = 50_000, 10_000
_NUM_HEADERS = 64

# Shows how far a pass over the images is: (what, total) -> a function told how many more are done.
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class PreparedData:
    """What training takes from the data.

    settings: the data settings with everything resolved. skipped: reasons for images that were left out.
    notes: what was decided, a line each.
    """

    train: Batches
    valid: Batches
    settings: DataSettings
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.images.class_names

    @property
    def size(self) -> int:
        assert self.settings.size is not None
        return self.settings.size


@dataclass(frozen=True)
class _Source:
    """One list with its decoded images, if they are kept."""

    images: ImageList
    kept: Kept | None
    skipped: tuple[str, ...]


def prepare_data(
    settings: Settings, *, device: torch.device, counting: Counting, start: StartingWeights | None = None
) -> PreparedData:
    """Read the lists, decide on size and statistics, decode what is kept, and return the batches.

    start: weights whose own size and statistics come before measured ones.

    Raises:
        DataError, UsageError: bad lists or images; transforms that do not fit.
    """
    data = settings.data
    train_list, valid_list = read_lists(data)
    size = data.size or (start.size if start else None) or choose_size(train_list)
    train_calls, eval_calls = _calls(data, size)
    draft = replace(data, size=size)
    train = _load(train_list, _draft(train_calls, size), draft, counting)
    valid = _load(valid_list, _draft(eval_calls, size), draft, counting)
    mean, std, origin = _named_statistics(train_calls, draft) or _statistics(
        train, draft, start, counting, settings.train.seed
    )
    train_pipeline = Pipeline.parse(complete(train_calls, size=size, mean=mean, std=std))
    eval_pipeline = Pipeline.parse(complete(eval_calls, size=size, mean=mean, std=std))
    if eval_pipeline.is_random or eval_pipeline.mix is not None:
        raise UsageError(f"data.eval_transforms must not be random, found {', '.join(eval_calls)}")
    train_batches = _batches(train, train_pipeline, settings, device, is_training=True)
    valid_batches = _batches(valid, eval_pipeline, settings, device, is_training=False)
    differs = train_pipeline.size not in (None, (size, size))
    sides = "×".join(map(str, train_pipeline.size or ()))
    notes = (
        _data_note(train, valid, size) + (f"; training images become {sides}" if differs else ""),
        f"augment: {_list_note(train_calls)}; normalised with {origin}",
    )
    return PreparedData(
        train_batches, valid_batches, replace(draft, mean=mean, std=std), train.skipped + valid.skipped, notes
    )


def read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the training and the validation list, checked against each other.

    Raises:
        DataError: missing or empty lists, one class only, or an image that stands in both.
    """
    for file, flag in ((data.train, "--train"), (data.valid, "--valid")):
        if not os.path.exists(file):
            raise DataError(f"no list {file}: run `ptkit split FOLDER` first, or name another by {flag}")
    classes = Path(data.classes) if data.classes else None
    train = read_list(Path(data.train), classes=classes)
    beside = Path(data.train).parent / "classes.txt"
    valid = read_list(Path(data.valid), classes=classes or (beside if beside.exists() else None))
    if not len(train) or not len(valid):
        raise DataError(f"{(train if not len(train) else valid).file} has no images")
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{train.file} has images of one class only; a classifier needs two")
    if valid.num_classes > train.num_classes:
        raise DataError(
            f"{valid.file} has labels up to {valid.num_classes - 1}, the training list {train.num_classes} classes"
        )
    _check_names(train, data)
    _check_leak(train, valid, data)
    return train, replace(valid, class_names=train.class_names)


def choose_size(images: ImageList) -> int:
    """Return the input size for a list: its images' own up to 64 pixels, at least 16; else 224.

    The median shorter side of some images decides, read from their headers.
    """
    chosen = np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int)
    sides = []
    for index in np.unique(chosen):
        try:
            sides.append(min(decoder.size_of(images.image_path(int(index)))))
        except DataError:
            continue
    if not sides:
        raise DataError(f"none of the first images looked at in {images.file} can be read")
    side = int(np.median(sides))
    return max(side, 16) if side <= 64 else 224


def _check_names(train: ImageList, data: DataSettings) -> None:
    """Refuse a validation list beside which other class names stand."""
    beside = Path(data.valid).parent / "classes.txt"
    if data.classes is None and beside.is_file() and (names := read_classes(beside)) != train.class_names:
        raise DataError(f"{beside} names other classes ({', '.join(names[:3])}, ...) than the training list's")


def _check_leak(train: ImageList, valid: ImageList, data: DataSettings) -> None:
    if data.allow_leak:
        return
    seen = {os.path.abspath(train.image_path(i)) for i in range(len(train))}
    for index in range(len(valid)):
        path = valid.image_path(index)
        if os.path.abspath(path) in seen:
            raise DataError(
                f"{path} stands in both {train.file} and {valid.file}: the accuracy would be too good; "
                "split again, or pass --set data.allow_leak=true"
            )


def _calls(data: DataSettings, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if data.transforms and data.augment not in ("auto", "none"):
        raise UsageError("--transform replaces the ready list: leave --augment out")
    train = data.transforms or default_transforms(data.augment, size)
    return train, data.eval_transforms or evaluation_geometry(size)


def _draft(calls: tuple[str, ...], size: int) -> Pipeline:
    """Plan the calls before the statistics are known: what is decoded does not depend on them."""
    return Pipeline.parse(complete(calls, size=size, mean=(0, 0, 0), std=(1, 1, 1)))


def _load(images: ImageList, pipeline: Pipeline, data: DataSettings, counting: Counting) -> _Source:
    """Decode a list into memory where that is wanted and fits, and deal with images that cannot be read."""
    can_keep = pipeline.prefix_size is not None
    if data.cache == "ram" and not can_keep:
        raise UsageError(
            "data.cache=ram needs a fixed size before the random transforms: put Resize((height, width)) first"
        )
    if data.cache != "off" and can_keep and (data.cache == "ram" or fits_in_memory(images, pipeline)):
        with counting(f"decoding {images.file.name}", len(images)) as on_images:
            kept = decode_all(images, pipeline, workers=data.workers, on_images=on_images)
        return _without_bad(images, kept, kept.bad, data)
    bad = unreadable(images, workers=data.workers) if data.on_bad == "skip" else ()
    return _without_bad(images, None, bad, data)


def _without_bad(images: ImageList, kept: Kept | None, bad: tuple[tuple[int, str], ...], data: DataSettings) -> _Source:
    if not bad:
        return _Source(images, kept, ())
    if data.on_bad == "stop":
        more = f" ({len(bad)} images of {images.file} cannot be read)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0][1]}{more}; --set data.on_bad=skip leaves such images out")
    good = np.setdiff1d(np.arange(len(images)), [index for index, _ in bad])
    if not len(good):
        raise DataError(f"no image of {images.file} can be read; the first: {bad[0][1]}")
    left = Kept(kept.pixels[good], ()) if kept is not None else None
    return _Source(images.subset(good), left, tuple(reason for _, reason in bad))


def _named_statistics(
    calls: tuple[str, ...], data: DataSettings
) -> tuple[tuple[float, ...], tuple[float, ...], str] | None:
    """Return mean and std of the Normalize that the user's own list names: evaluation must see the same."""
    named = [call for call in map(parse, calls) if call.name == "Normalize" and not call.prefix]
    if not named:
        return None
    if data.mean or data.std:
        raise named[0].error("the statistics are given twice: here and as data.mean, data.std")
    normalize = build_transform(named[0])
    mean, std = (
        tuple(float(v) for v in torch.as_tensor(x).flatten().expand(3)) for x in (normalize.mean, normalize.std)
    )
    return mean, std, "the transforms' own Normalize"


def _statistics(
    train: _Source, data: DataSettings, start: StartingWeights | None, counting: Counting, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean, std and where they come from."""
    if bool(data.mean) != bool(data.std) or len(data.mean) not in (0, 3) or len(data.std) not in (0, 3):
        raise UsageError("data.mean and data.std go together, three numbers each")
    if data.mean:
        return data.mean, data.std, "the given statistics"
    if start is not None and start.mean and start.std:
        return start.mean, start.std, "the statistics of the weights"
    size = data.size
    assert size is not None
    images = train.images
    found = statistics.find(images.file, list_sha256=images.sha256, size=size)
    if found is not None:
        return found.mean, found.std, str(images.file.parent / statistics.FILE_NAME)
    if train.kept is not None:
        found = statistics.of_pixels(train.kept.pixels, size=size, list_sha256=images.sha256)
        return *_usable(found), f"statistics measured over {found.num_images:,} images"
    num = _SAMPLE if len(images) > _SAMPLE_ABOVE else None
    with counting("measuring", num or len(images)) as on_images:
        found = statistics.measure(images, num=num, seed=seed, workers=data.workers or num_cores(), on_images=on_images)
    return *_usable(found), f"statistics measured over {found.num_images:,} images"


def _usable(found: statistics.ChannelStatistics) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std; a constant channel gets a std of 1, so that nothing is divided by zero."""
    return found.mean, tuple(value if value > 1e-6 else 1.0 for value in found.std)


def _batches(
    source: _Source, pipeline: Pipeline, settings: Settings, device: torch.device, *, is_training: bool
) -> Batches:
    train, count = settings.train, len(source.images)
    if is_training and train.batch_size > count:
        raise UsageError(f"--batch-size {train.batch_size} is larger than the training list ({count} images): lower it")
    return Batches(
        source.images,
        pipeline,
        batch_size=train.batch_size if is_training else 2 * train.batch_size,
        device=device,
        workers=settings.data.workers,
        seed=train.seed,
        shuffle=is_training,
        # BatchNorm needs two samples per step; a last batch of one would raise.
        drop_last=is_training and count % train.batch_size == 1 and count > 1,
        kept=source.kept,
    )


def _data_note(train: _Source, valid: _Source, size: int) -> str:
    kept = sum(source.kept.pixels.nbytes for source in (train, valid) if source.kept is not None)
    where = f"kept in memory ({kept / 1e6:,.1f} MB)" if train.kept is not None else "decoded as they are needed"
    return (
        f"data: {len(train.images):,} training and {len(valid.images):,} validation images, "
        f"{train.images.num_classes} classes, {size}×{size}, {where}"
    )


def _list_note(calls: tuple[str, ...]) -> str:
    return ", ".join(calls) or "none"
