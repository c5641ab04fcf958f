"""From list files to batches: sizes, statistics, pipelines, and the images kept in memory."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ptkit.core.config.settings import AUTO, DataSettings, TrainSettings
from ptkit.core.counting import Counting
from ptkit.core.data.fingerprints import Hashes
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.labels import REGRESSION
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import Batches, check_reduced_decode
from ptkit.core.data.loading.first_look import choose_size, examples, has_jpegs
from ptkit.core.data.loading.keeping import LoadedList, load_list
from ptkit.core.data.transforms.completion import (
    check_fit,
    complete,
    fit_of,
    mirrors,
    own_geometry,
    own_statistics,
    resizes,
    training_calls,
)
from ptkit.core.data.transforms.eval_lists import has_own_code, without_randomness
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transparency import alpha_for
from ptkit.core.distributed import first_of_machine, from_main
from ptkit.core.errors import UsageError
from ptkit.core.models.weights import Weights
from ptkit.core.parts.calls import Call, joined, parse_all
from ptkit.core.ranks import ALONE, here
from ptkit.core.sizes import USUAL_BATCH_SIZE, Sides
from ptkit.core.training.data_notes import data_note, odd_of
from ptkit.core.training.setup_lists import read_lists
from ptkit.core.training.setup_statistics import known_statistics, measured, with_statistics
from ptkit.core.wording import counted


@dataclass(frozen=True)
class PreparedData:
    """What training takes from the data.

    reference: the training images as evaluation sees them, in the list's order.
    settings: with everything resolved. sides: height and width of what the model sees.
    skipped: why images were left out. odd: how many of the others are of each unusual kind. notes:
    what was chosen, a line each. earlier_images: hashes of the images that the weights were trained
    on before.
    """

    train: Batches
    valid: Batches
    reference: Batches
    settings: DataSettings
    sides: Sides
    skipped: tuple[str, ...]
    odd: Mapping[str, int]
    notes: tuple[str, ...]
    earlier_images: Hashes | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.images.class_names

    def with_batch_size(self, batch_size: int) -> "PreparedData":
        """Return the same data in batches of another size; the batches of this one are closed."""
        sampling = _sampling(
            self.train.sampling,
            self.train.images,
            batch_size=batch_size,
            drop_last=self.settings.drop_last,
        )
        evaluated = _evaluation_sampling(batch_size, self.valid.pipeline)
        data = replace(
            self,
            train=self.train.resampled(sampling),
            valid=self.valid.resampled(evaluated),
            reference=self.reference.resampled(evaluated),
        )
        # Before these are closed, which would take the images off the device.
        data.settle()
        self.close()
        return data

    def settle(self) -> None:
        """Move the images that belong on the device, before a model takes its memory."""
        self.train.settle()
        self.valid.settle()

    def of_one_rank(self) -> "PreparedData":
        """Return the same data in whole batches, for the first rank alone; to be closed too."""
        train, valid, reference = (
            batches.resampled(replace(batches.sampling, rank=ALONE))
            for batches in (self.train, self.valid, self.reference)
        )
        return replace(self, train=train, valid=valid, reference=reference)

    def close(self) -> None:
        """End the threads and worker processes of the batches."""
        for batches in (self.train, self.valid, self.reference):
            batches.close()


def prepare_data(
    data: DataSettings,
    asked: TrainSettings,
    *,
    device: torch.device,
    counting: Counting,
    start: Weights | None = None,
) -> PreparedData:
    """Read the lists, decide on size and statistics (first on those of the weights, `start`),
    decode what is kept, and return the batches.

    Raises:
        DataError, UsageError: bad lists or images; transforms that do not fit.
    """
    train_list, valid_list = read_lists(data)
    size = data.size or (start.size if start else None) or choose_size(train_list)
    is_asked, alpha = data.alpha != AUTO, _alpha_of(data, start, train_list)
    data = _with_geometry(_with_alpha(replace(data, size=size), alpha, start), size, start)
    train_calls = _training_calls(data, size, start)
    # Drafts, without Normalize: decoding needs pipelines, and measuring needs decoded images.
    planned = functools.partial(_pipeline, size=size, fit=data.fit, alpha=alpha)
    train_draft = planned(train_calls)
    eval_calls = _evaluation_calls(data, size, train_draft, train_list)
    lists, drafts = (train_list, valid_list), (train_draft, planned(eval_calls))
    _check_drafts(data, train_list, *drafts)
    train, valid = _load(lists, drafts, data=data, is_once=asked.epochs == 1, counting=counting)
    mean, std, origin = from_main(
        lambda: (
            own_statistics(train_calls, data.mean, data.std)
            or known_statistics(train.images, data, start, train_draft)
            or measured(train, train_draft, data, counting, asked.seed)
        )
    )
    scaled = functools.partial(planned, mean=mean, std=std)
    train_pipeline, eval_pipeline = scaled(train_calls), scaled(eval_calls)
    evaluated = functools.partial(
        Batches,
        pipeline=eval_pipeline,
        sampling=_evaluation_sampling(_batch_size(asked), eval_pipeline),
        device=device,
        workers=data.workers,
    )
    sides = eval_pipeline.size or (size, size)
    kept = train.kept if _share_a_prefix(train_pipeline, eval_pipeline) else None
    return PreparedData(
        train=_training_batches(train, train_pipeline, data, asked, device),
        valid=evaluated(valid.images, kept=valid.kept),
        reference=evaluated(train.images, kept=kept),
        settings=with_statistics(data, mean, std, channels=train_pipeline.channels),
        sides=sides,
        skipped=train.skipped + valid.skipped,
        odd=odd_of(train, valid),
        notes=(
            data_note(train, valid, train_pipeline, data=data, sides=sides),
            *_alpha_notes(alpha, start, is_asked=is_asked),
            f"augment: {joined(train_calls) or 'none'}; normalised with {origin}",
            f"evaluated with: {joined(eval_calls)}",
        ),
        earlier_images=start.image_hashes if start else None,
    )


def _load(
    lists: tuple[ImageList, ImageList],
    drafts: tuple[Pipeline, Pipeline],
    *,
    data: DataSettings,
    is_once: bool,
    counting: Counting,
) -> tuple[LoadedList, LoadedList]:
    """Decode what is kept of the training and of the validation images; of several ranks the first
    of a machine does it for all.
    """
    # Decoded for each crop in its own way, or on a GPU, there is nothing to keep.
    own = data if _decode_of(data) == "whole" else replace(data, cache="off")
    with first_of_machine():
        # One after the other: memory that the training images take is not free for the others.
        train = load_list(lists[0], drafts[0], own, counting, is_once=is_once)
        return train, load_list(lists[1], drafts[1], data, counting, is_once=is_once)


def _with_geometry(data: DataSettings, size: int, start: Weights | None) -> DataSettings:
    """Return the settings with how images become square: where the user says nothing of it, as for
    the weights to start from.
    """
    own = {"transforms": data.transforms, "eval_transforms": data.eval_transforms}
    check_fit(data.fit, **own)
    if start is None or data.fit != "auto":
        return data
    # Of a run's own weights; torchvision's and timm's say how they are evaluated, not trained.
    is_of_run = start.checkpoint is not None and start.size is not None
    fit = fit_of(start.pipeline, start.size or 0) if is_of_run else "auto"
    if fit != "auto" and not resizes(*own.values()):
        return replace(data, fit=fit)
    if start.size == size and not any(own.values()):
        return replace(data, eval_transforms=own_geometry(start.pipeline, size))
    return data


def _training_calls(data: DataSettings, size: int, start: Weights | None) -> tuple[Call, ...]:
    """Return the transforms for training, as the user or the defaults say."""
    train = training_calls(data.transforms, data.augment, size, data.fit)
    if start is not None and start.is_whitened and not _has(train, "LinearTransformation"):
        raise UsageError(
            "these weights were trained on whitened images: pass --transform"
            " 'LinearTransformation(\"FILE\")' too"
        )
    # Weights of grey images: a ready list makes images grey for them.
    is_grey = start is not None and len(start.mean or ()) == 1 and not data.transforms
    return (Call("Grayscale"), *train) if is_grey else train


def _evaluation_calls(
    data: DataSettings, size: int, train: Pipeline, images: ImageList
) -> tuple[Call, ...]:
    """Return the transforms for evaluation, complete but for Normalize: the user's, or those that
    go with a complete training list.
    """
    given = parse_all(data.eval_transforms)
    if _has(given, "WithHorizontalFlip") and not mirrors(train.calls):
        raise UsageError(
            "data.eval_transforms has WithHorizontalFlip, and no training transform mirrors images:"
            " add one, such as AlternatingFlip(), or pass --set data.eval_transforms=none"
        )
    calls = complete(given, size=size, fit=data.fit) if given else train.calls
    tried_on = examples(images, alpha=train.alpha) if has_own_code(calls) else ()
    fixed, is_random = without_randomness(calls, tried_on)
    if given and is_random:
        raise UsageError(
            f"data.eval_transforms must not be random, found {joined(given)}; what is not random of"
            f" it: {joined(fixed)}"
        )
    return fixed


def _pipeline(
    calls: tuple[Call, ...], *, size: int, fit: str, alpha: str, **scale: tuple[float, ...]
) -> Pipeline:
    return Pipeline.of(complete(calls, size=size, fit=fit, **scale), alpha=alpha)


def _alpha_of(data: DataSettings, start: Weights | None, images: ImageList) -> str:
    """Return what becomes of transparency, see `images.read`: what is asked for, what the weights
    were trained with, or what suits the images.
    """
    if data.alpha != AUTO:
        return data.alpha
    return start.alpha if start and _knows_alpha(start) else alpha_for(images)


def _with_alpha(data: DataSettings, alpha: str, start: Weights | None) -> DataSettings:
    """Return the settings with what became of transparency, if the images or weights chose it."""
    return replace(data, alpha=alpha) if alpha == "white" or _knows_alpha(start) else data


def _knows_alpha(start: Weights | None) -> bool:
    """Say whether weights come with what became of transparency, as those of a checkpoint do."""
    return start is not None and start.checkpoint is not None


def _alpha_notes(alpha: str, start: Weights | None, *, is_asked: bool) -> tuple[str, ...]:
    """Say why images are put on white, where the images themselves decided it."""
    if alpha == "drop" or is_asked or _knows_alpha(start):
        return ()
    return ("alpha: white, as without their transparency the images are of one colour",)


def _has(calls: tuple[Call, ...], name: str) -> bool:
    return any(call.name == name for call in calls)


def _decode_of(data: DataSettings) -> str:
    """Return how training images are decoded, see `Batches`."""
    return "reduced" if data.reduced_decode else {"cpu": "whole", "gpu": "gpu"}[data.decode]


def _check_drafts(
    data: DataSettings, images: ImageList, train: Pipeline, evaluation: Pipeline
) -> None:
    """Refuse, before anything is decoded, what may take minutes to find out otherwise."""
    if train.channels is not None and evaluation.channels not in (None, train.channels):
        raise UsageError(
            f"training images get {counted(train.channels, 'channel')}, evaluation images"
            f" {evaluation.channels}: give data.eval_transforms the Grayscale of training"
        )
    if data.decode == "gpu" and (data.reduced_decode or data.cache in ("ram", "disk")):
        raise UsageError(
            "data.decode=gpu decodes whole images, each time anew: it needs data.cache=auto or off,"
            " without data.reduced_decode"
        )
    if not data.reduced_decode:
        return
    check_reduced_decode(train, is_kept=data.cache in ("ram", "disk"))
    if not has_jpegs(images):
        raise UsageError(f"data.reduced_decode is for JPEGs, and none was found in {images.file}")


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
    batch_size = _batch_size(asked, default=min(USUAL_BATCH_SIZE, count))
    if batch_size > count:
        raise UsageError(
            f"train.batch_size is {batch_size}, larger than the training list ({count} images):"
            " lower it, as with --batch-size"
        )
    return Batches(
        source.images,
        pipeline,
        _sampling(
            Sampling(batch_size, data.shuffle, data.sampler, seed=asked.seed, rank=here()),
            source.images,
            batch_size=batch_size,
            drop_last=data.drop_last,
        ),
        device=device,
        workers=data.workers,
        kept=source.kept,
        decode=_decode_of(data),
    )


def _batch_size(asked: TrainSettings, *, default: int = USUAL_BATCH_SIZE) -> int:
    """Return the images per step; of those that are still to be measured, what it starts from."""
    return asked.batch_size if isinstance(asked.batch_size, int) else default


def _sampling(like: Sampling, images: ImageList, *, batch_size: int, drop_last: bool) -> Sampling:
    """Return a sampling of training batches of another size."""
    # BatchNorm needs two samples per step; a last batch of one would raise.
    is_alone = len(images) % batch_size == 1 and len(images) > 1
    return replace(like, batch_size=batch_size, drop_last=drop_last or is_alone)


def _evaluation_sampling(batch_size: int, pipeline: Pipeline) -> Sampling:
    """Return the sampling of evaluation beside training batches of a size."""
    # Without gradients a batch takes less than half the memory; each crop counts as an image.
    return Sampling(max(2 * batch_size // pipeline.num_crops, 1), rank=here())


def _share_a_prefix(one: Pipeline, other: Pipeline) -> bool:
    """Say whether images kept for one pipeline serve the other."""
    # What is kept has been through one's prefix; for another the files are decoded again.
    return one.calls[: len(one.plan.prefix)] == other.calls[: len(other.plan.prefix)]
