"""The settings that functions take as keywords, for type checkers."""

from collections.abc import Sequence
from typing import TypedDict

from ptkit.api.paths import StrPath
from ptkit.core.config.settings import Auto


class FinetuneSettings(TypedDict, total=False):
    """All settings of core/config/settings.py by their keywords, but the weights to start from."""

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
    """All settings of core/config/settings.py by their keywords."""

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
