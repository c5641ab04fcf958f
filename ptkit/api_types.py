"""What the Python door takes and returns: the settings by their keywords, and the records."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ptkit.core.config import Auto

if TYPE_CHECKING:
    from torch import nn

    from ptkit.core.data.splits.jobs import Outcome
    from ptkit.core.data.statistics import ChannelStatistics
    from ptkit.core.data.transforms.covariance import Whitening
    from ptkit.looking.predictions import Image

    class TrainedModel(nn.Module):
        """What `load` returns, for type checkers: any module, with these attributes more."""

        class_names: tuple[str, ...]
        pipeline: Mapping[str, Any]

        def predict(self, images: "Image | list[Image]", *, top: int = 1) -> list[dict[str, Any]]:
            """Return a row for each image."""


StrPath = str | os.PathLike[str]


class FinetuneSettings(TypedDict, total=False):
    """All settings of core/config.py by their keywords, but the weights to start from."""

    train: StrPath
    valid: StrPath
    classes: StrPath | None
    root: StrPath | None
    relabel: StrPath | None
    size: int | None
    fit: str
    augment: str
    transforms: Sequence[str]
    eval_transforms: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    cache: str
    decode: str
    reduced_decode: bool
    on_bad: str
    allow_leak: bool
    remember_images: bool
    alpha: str
    sampler: str
    shuffle: bool
    drop_last: bool
    workers: int
    model: str | None
    init: Sequence[str]
    weights_sha256: str | None
    loss: str | None
    pairs: bool
    threshold: float | None
    loss_smoothing: float | None
    embedding: int | None
    optimizer: str | None
    lr: float | None
    lr_per: int | None
    groups: Sequence[str]
    decay_all: bool
    layer_decay: float | None
    head_lr: float
    scheduler: str
    per: str
    warmup: float
    scheduler_metric: str
    epochs: int
    batch_size: int | Auto | None
    seed: int
    device: str
    precision: str
    accumulate: int
    clip_grad: float | None
    clip_value: float | None
    patience: int | None
    metric: str
    ema: float | None
    save_every: int | str
    channels_last: bool
    sync_batchnorm: bool
    shard: bool
    deterministic: bool
    compile: bool | Auto
    profile: bool
    method: str
    knn: int | None
    tensorboard: bool
    histograms: bool
    log_layers: bool
    graph: bool
    pictures: bool
    log_folder: StrPath | None
    log_font: StrPath | None
    comment: str
    filename_suffix: str
    wandb: bool


class TrainSettings(FinetuneSettings, total=False):
    """All settings of core/config.py by their keywords."""

    weights: StrPath | None


class SourceFlags(TypedDict, total=False):
    """How the classes of a source are known: see `ptkit split --help`."""

    path_column: str
    label_column: str
    group_column: str
    label_from: str


class TrainKeywords(TrainSettings, SourceFlags, total=False):
    """What `train` takes."""


class FinetuneKeywords(FinetuneSettings, SourceFlags, total=False):
    """What `finetune` and `probe` take."""


class PredictKeywords(TypedDict, total=False):
    """What `predict` takes beside a checkpoint and images."""

    top: int
    threshold: float | None
    path_column: str | None
    label_column: str | None
    model: str | None
    mean: Sequence[float] | str | None
    std: Sequence[float] | str | None
    size: int | None
    classes: StrPath | None
    transforms: Sequence[str]
    alpha: str | None
    device: str
    workers: int
    on_bad: str
    root: StrPath | None


@dataclass(frozen=True)
class SplitResult:
    """Where the images of a split went.

    counts: images of each part (train, valid, test, or fold1, fold2, ...) by its name.
    files: the lists and records that were written. outcome: all that is known, image by image.
    """

    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    outcome: "Outcome"


@dataclass(frozen=True)
class NormstatsResult:
    """Statistics of images for Normalize, and the files that hold them.

    whitening: the matrix for LinearTransformation, where one was asked for. skipped: why images
    were left out.
    """

    statistics: "ChannelStatistics"
    file: Path
    whitening: "Whitening | None" = None
    whitening_file: Path | None = None
    skipped: tuple[str, ...] = ()

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.statistics.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.statistics.std


def path_or_none(path: StrPath | None) -> Path | None:
    """Return what may be left out as a path."""
    return None if path is None else Path(path)
