"""From list files to batches: sizes, statistics, pipelines, and the images kept in memory."""

import functools
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ptkit.core.config import DataSettings, TrainSettings
from ptkit.core.data import images as decoder
from ptkit.core.data import statistics
from ptkit.core.data.formats import sniff
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import (
    REGRESSION,
    SINGLE,
    ImageList,
    classes_file,
    read_classes,
    read_list,
)
from ptkit.core.data.loading.batches import Batches, check_reduced_decode
from ptkit.core.data.loading.decoding import sizes_of
from ptkit.core.data.loading.keeping import Counting, LoadedList, load_list, where_note
from ptkit.core.data.shared_images import first_shared
from ptkit.core.data.transforms.completion import (
    MeanAndStd,
    Statistics,
    complete,
    evaluation_of,
    mirrors,
    own_statistics,
    training_calls,
)
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.machine import num_cores
from ptkit.core.models.weights import Weights
from ptkit.core.parts.calls import Call, joined, parse_all
from ptkit.core.sizes import is_small

_UNSCALED: MeanAndStd = (0, 0, 0), (1, 1, 1)
# Statistics of a longer list are measured over so many of its images.
_SAMPLE_ABOVE, _SAMPLE = 50_000, 10_000
_BATCH_SIZE = 64
# Of so many files the headers are read, to choose a size.
_NUM_HEADERS = 64


@dataclass(frozen=True)
class PreparedData:
    """What training takes from the data.

    reference: the training images as evaluation sees them, in the list's order.
    settings: with everything resolved. skipped: why images were left out. notes: what was chosen,
    a line each.
    """

    train: Batches
    valid: Batches
    reference: Batches
    settings: DataSettings
    size: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.images.class_names


def prepare_data(
    data: DataSettings,
    asked: TrainSettings,
    *,
    device: torch.device,
    counting: Counting,
    start: Weights | None = None,
) -> PreparedData:
    """Read the lists, decide on size and statistics, decode what is kept, and return the batches.

    start: weights whose own size and statistics come before measured ones.

    Raises:
        DataError, UsageError: bad lists or images; transforms that do not fit.
    """
    train_list, valid_list = read_lists(data)
    size = data.size or (start.size if start else None) or choose_size(train_list)
    data = replace(data, size=size)
    train_calls, eval_calls = _calls(data, size, start)
    # Drafts: decoding needs the pipelines, and measuring the statistics needs decoded images. What
    # comes before Normalize does not depend on them.
    train_draft, eval_draft = _pipeline(train_calls, size), _pipeline(eval_calls, size)
    if eval_draft.is_random or eval_draft.mix is not None:
        raise UsageError(f"data.eval_transforms must not be random, found {joined(eval_calls)}")
    if data.reduced_decode:
        _check_reduced(data, train_list, train_draft)
    # With reduced_decode each crop decodes a JPEG in its own way: there is nothing to keep.
    train_data = replace(data, cache="off") if data.reduced_decode else data
    is_once = asked.epochs == 1
    train = load_list(train_list, train_draft, train_data, counting, is_once=is_once)
    valid = load_list(valid_list, eval_draft, data, counting, is_once=is_once)
    mean, std, origin = (
        own_statistics(train_calls, data.mean, data.std)
        or _known_statistics(train.images, data, start)
        or _measured(train, train_draft, data, counting, asked.seed)
    )
    train_pipeline = _pipeline(train_calls, size, (mean, std))
    eval_pipeline = _pipeline(eval_calls, size, (mean, std))
    evaluated = functools.partial(
        Batches,
        pipeline=eval_pipeline,
        # Without gradients a batch takes less than half the memory.
        sampling=Sampling(2 * (asked.batch_size or _BATCH_SIZE)),
        device=device,
        workers=data.workers,
    )
    kept = train.kept if _share_a_prefix(train_pipeline, eval_pipeline) else None
    return PreparedData(
        train=_training_batches(train, train_pipeline, data, asked, device),
        valid=evaluated(valid.images, kept=valid.kept),
        reference=evaluated(train.images, kept=kept),
        settings=replace(data, mean=mean, std=std),
        size=size,
        skipped=train.skipped + valid.skipped,
        notes=(
            _data_note(train, valid, train_pipeline, data=data),
            f"augment: {joined(train_calls) or 'none'}; normalised with {origin}",
        ),
    )


def _calls(
    data: DataSettings, size: int, start: Weights | None
) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """Return the transforms for training and for evaluation, as the user or the defaults say."""
    train = training_calls(data.transforms, data.augment, size)
    evaluation = parse_all(data.eval_transforms)
    if _has(evaluation, "WithHorizontalFlip") and not mirrors(train):
        raise UsageError(
            "data.eval_transforms has WithHorizontalFlip, and no training transform mirrors images:"
            " add one, such as AlternatingFlip(), or pass --set data.eval_transforms=none"
        )
    if start is not None and start.is_whitened and not _has(train, "LinearTransformation"):
        raise UsageError(
            "these weights were trained on whitened images: pass --transform"
            " 'LinearTransformation(\"FILE\")' too"
        )
    return train, evaluation or evaluation_of(train, size)


def _has(calls: tuple[Call, ...], name: str) -> bool:
    return any(call.name == name for call in calls)


def _pipeline(calls: tuple[Call, ...], size: int, scale: MeanAndStd = _UNSCALED) -> Pipeline:
    return Pipeline.of(complete(calls, size=size, mean=scale[0], std=scale[1]))


def _check_reduced(data: DataSettings, images: ImageList, pipeline: Pipeline) -> None:
    check_reduced_decode(pipeline, is_kept=data.cache in ("ram", "disk"))
    if not has_jpegs(images):
        raise UsageError(f"data.reduced_decode is for JPEGs, and none was found in {images.file}")


def _known_statistics(
    images: ImageList, data: DataSettings, start: Weights | None
) -> Statistics | None:
    """Return the statistics that are given, come with the weights, or lie beside the list."""
    if data.mean:
        return data.mean, data.std, "the given statistics"
    if start is not None and start.mean and start.std:
        return start.mean, start.std, "the statistics of the weights"
    assert data.size is not None
    found = statistics.find(images.file, list_sha256=images.sha256, size=data.size)
    if found is None:
        return None
    return found.mean, found.std, str(images.file.parent / statistics.FILE_NAME)


def _measured(
    train: LoadedList, pipeline: Pipeline, data: DataSettings, counting: Counting, seed: int
) -> Statistics:
    """Measure images after the pipeline's prefix, so that kept or not they give the same."""
    images = train.images
    num = _SAMPLE if len(images) > _SAMPLE_ABOVE else None
    chosen = statistics.sample(images, num=num, seed=seed)
    if train.kept is not None:
        stacks = train.kept.stacks(chosen)
        found = statistics.of_stacks(stacks, size=data.size, list_sha256=images.sha256)
    else:
        try:
            with counting("measuring", len(chosen)) as on_images:
                found = statistics.measure(
                    images,
                    chosen,
                    workers=data.workers or num_cores(),
                    on_images=on_images,
                    read=lambda path: pipeline.apply_prefix(decoder.read(path)),
                )
        except DataError as error:
            raise DataError(f"{error}; --set data.on_bad=skip leaves such images out") from None
    # Of a constant channel nothing may be divided by zero.
    std = tuple(value if value > 1e-6 else 1.0 for value in found.std)
    return found.mean, std, f"statistics measured over {found.num_images:,} images"


def _training_batches(
    source: LoadedList,
    pipeline: Pipeline,
    data: DataSettings,
    asked: TrainSettings,
    device: torch.device,
) -> Batches:
    count = len(source.images)
    if data.sampler != "none" and not data.shuffle:
        raise UsageError("data.sampler draws at random: it needs data.shuffle=true")
    if data.sampler == "balanced" and source.images.label_kind == REGRESSION:
        raise UsageError("data.sampler=balanced balances classes, and these labels are numbers")
    batch_size = asked.batch_size or min(_BATCH_SIZE, count)
    if batch_size > count:
        raise UsageError(
            f"--batch-size {batch_size} is larger than the training list ({count} images): lower it"
        )
    return Batches(
        source.images,
        pipeline,
        Sampling(
            batch_size,
            data.shuffle,
            data.sampler,
            # BatchNorm needs two samples per step; a last batch of one would raise.
            drop_last=data.drop_last or (count % batch_size == 1 and count > 1),
            seed=asked.seed,
        ),
        device=device,
        workers=data.workers,
        kept=source.kept,
        reduced_decode=data.reduced_decode,
    )


def _share_a_prefix(one: Pipeline, other: Pipeline) -> bool:
    """Say whether images kept for one pipeline serve the other."""
    length = len(one.plan.prefix)
    return length == len(other.plan.prefix) and one.calls[:length] == other.calls[:length]


def _data_note(
    train: LoadedList, valid: LoadedList, pipeline: Pipeline, *, data: DataSettings
) -> str:
    images, size, count = train.images, data.size, train.images.num_classes
    if images.label_kind == REGRESSION:
        labels = "one number per image" if count == 1 else f"{count} numbers per image"
    elif images.label_kind == SINGLE:
        labels = f"{count} classes"
    else:
        labels = f"{images.labels.sum(axis=1).mean():.1f} of {count} classes per image"
    note = (
        f"data: {len(images):,} training and {len(valid.images):,} validation images, {labels},"
        f" {size}×{size}, {where_note(train, valid)}"
    )
    if pipeline.size not in (None, (size, size)):
        note += f"; training images become {'×'.join(map(str, pipeline.size or ()))}"
    if data.reduced_decode:
        note += "; training JPEGs are decoded smaller where the crop allows it"
    return note


def read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the training and the validation list, checked against each other.

    Raises:
        DataError: missing or empty lists, labels of other kinds or all alike, or an image that is
            in both.
    """
    for file, flag in ((data.train, "--train"), (data.valid, "--valid")):
        if not os.path.exists(file):
            raise DataError(
                f"no list {file}: run `ptkit split FOLDER` first, or name another with {flag}"
            )
    classes = Path(data.classes) if data.classes else None
    train = read_list(Path(data.train), classes=classes)
    # Both lists have the class names of the training list.
    names = classes_file(Path(data.train), classes)
    valid = read_list(Path(data.valid), classes=names, kind=train.label_kind)
    _check_variety(train)
    if train.label_kind == REGRESSION and valid.num_classes != train.num_classes:
        raise DataError(
            f"{valid.file} has {valid.num_classes} numbers per image, {train.file}"
            f" {train.num_classes}"
        )
    if valid.num_classes > train.num_classes:
        raise DataError(
            f"{valid.file} has labels up to {valid.num_classes - 1}, the training list"
            f" {train.num_classes} classes"
        )
    beside = classes_file(Path(data.valid))
    if classes is None and beside and (others := read_classes(beside)) != train.class_names:
        raise DataError(
            f"{beside} names other classes ({', '.join(others[:3])}, ...) than the training list's"
        )
    path = None if data.allow_leak else first_shared(train, valid)
    if path is not None:
        raise DataError(
            f"{path} is in both {train.file} and {valid.file}: accuracy would be inflated; "
            "split again, or pass --set data.allow_leak=true"
        )
    return train, valid.with_classes(train.class_names)


def has_jpegs(images: ImageList) -> bool:
    """Say whether there is a JPEG among some images of a list, by their first bytes."""
    for index in _some_of(images):
        # What cannot be read is reported by decoding.
        with suppress(DataError):
            if sniff(decoder.read_bytes(images.image_path(index), most=64)) == "JPEG":
                return True
    return False


def choose_size(images: ImageList) -> int:
    """Return the input size for a list: its images' own up to 64 pixels, at least 16; else 224.

    The median shorter side of some images decides, read from their headers.
    """
    sides = [min(size) for size in sizes_of(images, _some_of(images)) if size is not None]
    if not sides:
        raise DataError(f"none of the images looked at in {images.file} can be read")
    side = int(np.median(sides))
    return max(side, 16) if is_small(side) else 224


def _some_of(images: ImageList) -> list[int]:
    places: list[int] = (
        np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int).tolist()
    )
    return places


def _check_variety(train: ImageList) -> None:
    """Refuse labels that are all alike."""
    if (train.labels != train.labels[0]).any():
        return
    if train.label_kind == SINGLE:
        raise DataError(f"{train.file} has images of one class only; a classifier needs two")
    raise DataError(f"{train.file} gives every image the same label: there is nothing to learn")
