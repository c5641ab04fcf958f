"""From list files to batches: sizes, statistics, pipelines, and the images kept in memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ptkit.core.config import DataSettings, Settings
from ptkit.core.data import images as decoder
from ptkit.core.data import statistics
from ptkit.core.data.images import Pixels
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.lists import ImageList, classes_file, read_classes, read_list
from ptkit.core.data.loading.batches import Batches, check_reduced_decode
from ptkit.core.data.loading.decoding import sizes_of
from ptkit.core.data.loading.keeping import Counting, LoadedList, load_list, where_note
from ptkit.core.data.sampling import Sampling
from ptkit.core.data.shared_images import first_shared
from ptkit.core.data.transforms.catalogue import (
    build_transform,
    complete,
    default_transforms,
    evaluation_of,
    mirrors,
)
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.machine import num_cores
from ptkit.core.parts.calls import Call, parse
from ptkit.core.sizes import is_small
from ptkit.core.training.starting_weights import StartingWeights

_SAMPLE_ABOVE, _SAMPLE = 50_000, 10_000
_BATCH_SIZE = 64

# Mean, std, and where they come from.
_Statistics = tuple[tuple[float, ...], tuple[float, ...], str]


@dataclass(frozen=True)
class PreparedData:
    """What training takes from the data.

    reference: the training images as evaluation sees them, in the list's order.
    settings: the data settings with everything resolved. skipped: reasons for images that were left
    out.
    notes: what was decided, a line each.
    """

    train: Batches
    valid: Batches
    reference: Batches
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


def prepare_data(
    settings: Settings,
    *,
    device: torch.device,
    counting: Counting,
    start: StartingWeights | None = None,
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
    if (
        start is not None
        and start.is_whitened
        and not any("LinearTransformation" in text for text in train_calls)
    ):
        raise UsageError(
            "these weights were trained on whitened images: pass --transform"
            " 'LinearTransformation(\"FILE\")' too"
        )
    draft = replace(data, size=size)
    train_draft, eval_draft = _draft(train_calls, size), _draft(eval_calls, size)
    train = load_list(
        train_list, train_draft, _for_training(settings, train_list, train_draft), counting
    )
    valid = load_list(valid_list, eval_draft, settings, counting)
    mean, std, origin = _named_statistics(train_calls, draft) or _statistics(
        train, train_draft, draft, start, counting, settings.train.seed
    )
    train_pipeline = Pipeline.parse(complete(train_calls, size=size, mean=mean, std=std))
    eval_pipeline = Pipeline.parse(complete(eval_calls, size=size, mean=mean, std=std))
    if eval_pipeline.is_random or eval_pipeline.mix is not None:
        raise UsageError(f"data.eval_transforms must not be random, found {', '.join(eval_calls)}")
    kept = train.kept if _share_a_prefix(train_pipeline, eval_pipeline) else None
    differs = train_pipeline.size not in (None, (size, size))
    sides = "×".join(map(str, train_pipeline.size or ()))
    notes = (
        _data_note(train, valid, size)
        + (f"; training images become {sides}" if differs else "")
        + (
            "; training JPEGs are decoded smaller where the crop allows it"
            if data.reduced_decode
            else ""
        ),
        f"augment: {_list_note(train_calls)}; normalised with {origin}",
    )
    return PreparedData(
        train=_training_batches(train, train_pipeline, settings, device),
        valid=_evaluation_batches(valid, eval_pipeline, settings, device),
        reference=_evaluation_batches(replace(train, kept=kept), eval_pipeline, settings, device),
        settings=replace(draft, mean=mean, std=std),
        skipped=train.skipped + valid.skipped,
        notes=notes,
    )


def _calls(data: DataSettings, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if data.transforms and data.augment not in ("auto", "none"):
        raise UsageError("--transform replaces the ready list: leave --augment out")
    train = data.transforms or default_transforms(data.augment, size)
    if any(
        parse(call).name == "WithHorizontalFlip" for call in data.eval_transforms
    ) and not mirrors(train):
        raise UsageError(
            "data.eval_transforms has WithHorizontalFlip, and no training transform mirrors images:"
            " add one, such as AlternatingFlip(), or pass --set data.eval_transforms=none"
        )
    return train, data.eval_transforms or evaluation_of(train, size)


def _draft(calls: tuple[str, ...], size: int) -> Pipeline:
    """Plan the calls before the statistics are known: what is decoded does not depend on them."""
    return Pipeline.parse(complete(calls, size=size, mean=(0, 0, 0), std=(1, 1, 1)))


def _for_training(settings: Settings, images: ImageList, pipeline: Pipeline) -> Settings:
    """Return the settings by which training images are kept: not at all where each crop decodes
    them in its own way.
    """
    if not settings.data.reduced_decode:
        return settings
    check_reduced_decode(pipeline, is_kept=settings.data.cache in ("ram", "disk"))
    if not has_jpegs(images):
        raise UsageError(f"data.reduced_decode is for JPEGs, and none was found in {images.file}")
    return replace(settings, data=replace(settings.data, cache="off"))


def _named_statistics(calls: tuple[str, ...], data: DataSettings) -> _Statistics | None:
    """Return what the user's own list says: evaluation must see the same. None where it leaves it
    to the run.
    """
    own = {call.name: call for call in map(parse, calls) if not call.prefix}
    if "Normalize" in own:
        return _of_normalize(own["Normalize"], data)
    if "LinearTransformation" not in own:
        return None
    # Whitened values are normalised already; the config.toml of such a run has a mean of 0.
    if any(data.mean):
        raise own["LinearTransformation"].error(
            "whitened images are not normalised: leave data.mean and data.std out"
        )
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "LinearTransformation instead of statistics"


def _of_normalize(call: Call, data: DataSettings) -> _Statistics:
    normalize = build_transform(call)
    mean, std = (
        tuple(float(v) for v in torch.as_tensor(x).flatten().expand(3))
        for x in (normalize.mean, normalize.std)
    )
    # The config.toml of such a run has both.
    if (data.mean and not np.allclose(data.mean, mean)) or (
        data.std and not np.allclose(data.std, std)
    ):
        raise call.error("the statistics are given twice: here and as data.mean, data.std")
    return mean, std, "the transforms' own Normalize"


def _statistics(
    train: LoadedList,
    pipeline: Pipeline,
    data: DataSettings,
    start: StartingWeights | None,
    counting: Counting,
    seed: int,
) -> _Statistics:
    if (
        bool(data.mean) != bool(data.std)
        or len(data.mean) not in (0, 3)
        or len(data.std) not in (0, 3)
    ):
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
    found = _measured(train, pipeline, data, counting, seed)
    return *_usable(found), f"statistics measured over {found.num_images:,} images"


def _measured(
    train: LoadedList, pipeline: Pipeline, data: DataSettings, counting: Counting, seed: int
) -> statistics.ChannelStatistics:
    """Measure the images as they are after the pipeline's prefix: the same numbers whether they are
    kept or not.
    """
    images = train.images
    num = _SAMPLE if len(images) > _SAMPLE_ABOVE else None
    if train.kept is not None:
        stacks = train.kept.stacks(statistics.sample(images, num=num, seed=seed))
        return statistics.of_stacks(stacks, size=data.size, list_sha256=images.sha256)

    def read(path: str) -> Pixels:
        return pipeline.before(decoder.read(path))

    try:
        with counting("measuring", num or len(images)) as on_images:
            workers = data.workers or num_cores()
            return statistics.measure(
                images, num=num, seed=seed, workers=workers, on_images=on_images, read=read
            )
    except DataError as error:
        raise DataError(f"{error}; --set data.on_bad=skip leaves such images out") from None


def _usable(found: statistics.ChannelStatistics) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std; a constant channel gets a std of 1, so that nothing is divided by zero."""
    return found.mean, tuple(value if value > 1e-6 else 1.0 for value in found.std)


def _training_batches(
    source: LoadedList, pipeline: Pipeline, settings: Settings, device: torch.device
) -> Batches:
    data, count = settings.data, len(source.images)
    if data.sampler != "none" and not data.shuffle:
        raise UsageError("data.sampler draws at random: it needs data.shuffle=true")
    if data.sampler == "balanced" and source.images.label_kind == REGRESSION:
        raise UsageError("data.sampler=balanced balances classes, and these labels are numbers")
    batch_size = settings.train.batch_size or min(_BATCH_SIZE, count)
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
            seed=settings.train.seed,
        ),
        device=device,
        workers=data.workers,
        kept=source.kept,
        reduced_decode=data.reduced_decode,
    )


def _evaluation_batches(
    source: LoadedList, pipeline: Pipeline, settings: Settings, device: torch.device
) -> Batches:
    batch_size = 2 * (settings.train.batch_size or _BATCH_SIZE)
    workers = settings.data.workers
    return Batches(
        source.images,
        pipeline,
        Sampling(batch_size),
        device=device,
        workers=workers,
        kept=source.kept,
    )


def _share_a_prefix(one: Pipeline, other: Pipeline) -> bool:
    """Say whether images kept for one pipeline serve the other."""
    length = len(one.prefix)
    return length == len(other.prefix) and one.calls[:length] == other.calls[:length]


def _data_note(train: LoadedList, valid: LoadedList, size: int) -> str:
    return (
        f"data: {len(train.images):,} training and {len(valid.images):,} validation images, "
        f"{_labels_note(train.images)}, {size}×{size}, {where_note(train, valid)}"
    )


def _labels_note(images: ImageList) -> str:
    count = images.num_classes
    if images.label_kind == REGRESSION:
        return "one number an image" if count == 1 else f"{count} numbers an image"
    if images.label_kind == SINGLE:
        return f"{count} classes"
    return f"{images.labels.sum(axis=1).mean():.1f} of {count} classes an image"


def _list_note(calls: tuple[str, ...]) -> str:
    return ", ".join(calls) or "none"


_NUM_HEADERS = 64


def read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the training and the validation list, checked against each other.

    Raises:
        DataError: missing or empty lists, labels of other kinds or all alike, or an image that
            stands in both.
    """
    for file, flag in ((data.train, "--train"), (data.valid, "--valid")):
        if not os.path.exists(file):
            raise DataError(
                f"no list {file}: run `ptkit split FOLDER` first, or name another by {flag}"
            )
    classes = Path(data.classes) if data.classes else None
    train = read_list(Path(data.train), classes=classes)
    # Both lists have the names of the training list.
    names = classes_file(Path(data.train), classes)
    valid = read_list(Path(data.valid), classes=names, kind=train.label_kind)
    _check_variety(train)
    if train.label_kind == REGRESSION and valid.num_classes != train.num_classes:
        raise DataError(
            f"{valid.file} has {valid.num_classes} numbers an image, {train.file}"
            f" {train.num_classes}"
        )
    if valid.num_classes > train.num_classes:
        raise DataError(
            f"{valid.file} has labels up to {valid.num_classes - 1}, the training list"
            f" {train.num_classes} classes"
        )
    _check_names(train, data)
    _check_leak(train, valid, data)
    return train, valid.with_classes(train.class_names)


def has_jpegs(images: ImageList) -> bool:
    """Say whether there is a JPEG among some images of a list, by their first bytes."""
    for index in _some_of(images):
        try:
            if decoder.sniff(decoder.read_bytes(images.image_path(index), most=64)) == "JPEG":
                return True
        except DataError:
            continue
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
    return np.unique(
        np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int)
    ).tolist()


def _check_variety(train: ImageList) -> None:
    """Refuse labels that are all alike: there is nothing to learn."""
    if (train.labels != train.labels[0]).any():
        return
    if train.label_kind == SINGLE:
        raise DataError(f"{train.file} has images of one class only; a classifier needs two")
    raise DataError(f"{train.file} gives every image the same label; there is nothing to learn")


def _check_names(train: ImageList, data: DataSettings) -> None:
    """Refuse a validation list beside which other class names stand."""
    beside = classes_file(Path(data.valid))
    if (
        data.classes is None
        and beside is not None
        and (names := read_classes(beside)) != train.class_names
    ):
        raise DataError(
            f"{beside} names other classes ({', '.join(names[:3])}, ...) than the training list's"
        )


def _check_leak(train: ImageList, valid: ImageList, data: DataSettings) -> None:
    if data.allow_leak:
        return
    path = first_shared(train, valid)
    if path is not None:
        raise DataError(
            f"{path} stands in both {train.file} and {valid.file}: the accuracy would be too good; "
            "split again, or pass --set data.allow_leak=true"
        )
