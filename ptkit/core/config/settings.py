"""Every setting of a run, each a field: default, type, meaning, range, flag, Python keyword.

The flags of `ptkit train`, the keywords of `ptkit.train`, the keys of TOML files and the table in
docs/training.md all come from here. How values are read and checked: layers.py. Free of
torch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ptkit.core.config.fields import Form, Limits, setting
from ptkit.core.machine import DEVICES

ON_BAD = ("stop", "skip")
ALPHA = ("drop", "white")
# In the type of a number or switch that may also be left to what is measured before the first step.
Auto = Literal["auto"]
AUTO: Auto = "auto"

_COUNT = Limits(low=1)
_POSITIVE = Limits(above=0)
_SHARE = Limits(low=0, high=1)
_DECAY = Limits(above=0, high=1)


@dataclass(frozen=True)
class DataSettings:
    train: str = setting(
        "train.txt", "List file of the training images.", flag="--train", is_path=True
    )
    valid: str = setting(
        "valid.txt", "List file of the validation images.", flag="--valid", is_path=True
    )
    classes: str | None = setting(
        None,
        "File with one class name a line; by default classes.txt beside the training list.",
        is_path=True,
    )
    root: str | None = setting(
        None,
        "Folder of the images, where they were moved: it replaces the leading folders of the listed"
        " paths.",
        flag="--root",
        is_path=True,
    )
    relabel: str | None = setting(
        None,
        "List file of images that get another class, as `ptkit check --run` writes.",
        flag="--relabel",
        is_path=True,
    )
    size: int | None = setting(
        None,
        "Input size in pixels; by default chosen from the images.",
        flag="--size",
        within=_COUNT,
    )
    fit: str = setting(
        "auto",
        "How an image becomes square: its centre, all of it with a border, or squeezed; auto"
        " stretches up to 64 pixels, crops above.",
        flag="--fit",
        choices=("auto", "crop", "pad", "stretch"),
    )
    augment: str = setting(
        "auto",
        "Ready list of training transforms; auto chooses by the input size.",
        flag="--augment",
        choices=("auto", "none", "safe", "natural"),
    )
    transforms: tuple[str, ...] = setting(
        (),
        "Training transforms, such as 'RandomCrop(32, padding=4)'; they replace the ready list.",
        flag="--transform",
    )
    eval_transforms: tuple[str, ...] = setting(
        (), "Evaluation transforms; by default derived from the training transforms."
    )
    mean: tuple[float, ...] = setting(
        (),
        "Mean for Normalize: R,G,B in 0..1, or one number for grey; by default measured from the"
        " training list.",
        within=_SHARE,
    )
    std: tuple[float, ...] = setting(
        (),
        "Standard deviation for Normalize: R,G,B in 0..1, or one number; by default measured"
        " likewise.",
        within=_POSITIVE,
    )
    cache: str = setting(
        "auto",
        "Where decoded images are kept: in memory, on disk, or nowhere.",
        choices=("auto", "ram", "disk", "off"),
    )
    decode: str = setting(
        "cpu",
        "Where training images are decoded that are not kept: gpu decodes JPEGs on a CUDA device;"
        " pixels differ by a few levels.",
        choices=("cpu", "gpu"),
    )
    reduced_decode: bool = setting(
        False,
        "Decode JPEGs at a half, a quarter or an eighth of their size where the crop is still"
        " larger than what it is resized to; for large photographs; pixels differ slightly.",
    )
    on_bad: str = setting(
        "stop", "Stop at an image that cannot be read, or skip it.", choices=ON_BAD
    )
    alpha: str = setting(
        "auto",
        "What becomes of transparency; auto does as a checkpoint has it; otherwise it drops it, or"
        " puts images on white that show nothing without it.",
        flag="--alpha",
        choices=("auto", *ALPHA),
    )
    allow_leak: bool = setting(False, "Continue although an image is in both lists.")
    remember_images: bool = setting(
        True,
        "Keep 8 bytes of hash for each training image in checkpoints, so that confmat and predict"
        " recognise it; for up to a million images.",
    )
    sampler: str = setting(
        "none", "Draw every class equally often (balanced).", choices=("none", "balanced")
    )
    shuffle: bool = setting(True, "Put the training images into a new order every epoch.")
    drop_last: bool = setting(
        False,
        "Leave out the last batch where it is smaller than the others; one of a single image is"
        " always left out.",
    )
    workers: int = setting(
        0, "Decoding threads; 0 chooses.", flag="--workers", within=Limits(low=0)
    )


@dataclass(frozen=True)
class ModelSettings:
    call: str | None = setting(
        None,
        "The model, such as resnet8, 'resnet18(stem=\"small\")' or net.py:Net; by default chosen"
        " by the input size.",
        flag="--model",
    )
    init: tuple[str, ...] = setting(
        (), "Initial weights: SELECTOR=method(...), or tutorial.", flag="--init"
    )
    weights: str | None = setting(
        None,
        "Weights to start from: a file, a run, or a model with pretrained ones.",
        is_path=True,
    )
    weights_sha256: str | None = setting(
        None, "SHA-256 of the file of these weights; another file is refused. Runs fill it in."
    )


@dataclass(frozen=True)
class LossSettings:
    call: str | None = setting(
        None,
        "The loss, such as 'CrossEntropyLoss(label_smoothing=0.1)'; by default chosen by the"
        " labels.",
        flag="--loss",
    )
    pairs: bool = setting(
        False, "Compare images with each other, for HingeEmbeddingLoss, which works without too."
    )
    threshold: float | None = setting(
        None,
        "With several labels an image: the probability from which on a label is given; by default"
        " 0.5.",
        within=_SHARE,
    )
    smoothing: float | None = setting(
        None,
        "Share of KLDivLoss's target that is spread over all classes; by default 0.1.",
        keyword="loss_smoothing",
        within=_SHARE,
    )
    embedding: int | None = setting(
        None, "Outputs of the model where images are compared; by default 64.", within=Limits(low=2)
    )


@dataclass(frozen=True)
class OptimizerSettings:
    call: str | None = setting(
        None,
        "The optimizer, such as 'Adam(betas=(0.9, 0.99))'; by default chosen to suit the loss.",
        flag="--optimizer",
    )
    lr: float | None = setting(
        None,
        "Learning rate; by default the optimizer's usual one for the batch size.",
        flag="--lr",
        within=_POSITIVE,
    )
    lr_per: int | None = setting(
        None,
        "Images per step that `lr` is for: for another number it is scaled, in proportion for SGD,"
        " by the square root for others.",
        within=_COUNT,
    )
    groups: tuple[str, ...] = setting(
        (),
        "Parameter groups: 'SELECTOR: lr=10x, weight_decay=0, unfreeze=5', or frozen, or excluded.",
        flag="--group",
    )
    decay_all: bool = setting(False, "Apply weight decay to norms and biases too.")
    layer_decay: float | None = setting(
        None, "Rate of each layer, as a multiple of the next one's.", within=_DECAY
    )
    head_lr: float = setting(
        1.0, "Rate of the head, as a multiple of the others'; finetune uses 10.", within=_POSITIVE
    )


@dataclass(frozen=True)
class SchedulerSettings:
    call: str = setting(
        "CosineAnnealingLR()",
        "The learning rate's schedule, such as 'StepLR(step_size=5)', or none.",
        flag="--scheduler",
    )
    per: str = setting(
        "auto", "Step the schedule once a step or once an epoch.", choices=("auto", "step", "epoch")
    )
    warmup: float = setting(
        0.1,
        "Share of the run over which the rate rises linearly; above 1 a number of steps, at most"
        " half the run.",
        within=Limits(low=0),
    )
    metric: str = setting(
        "loss",
        "What ReduceLROnPlateau watches: loss, or a metric of the labels.",
        keyword="scheduler_metric",
    )


@dataclass(frozen=True)
class TrainSettings:
    epochs: int = setting(15, "Passes over the training images.", flag="--epochs", within=_COUNT)
    batch_size: int | Literal["auto"] | None = setting(
        None,
        "Images per step; by default 64, or all where there are fewer. auto: the largest that fits"
        " and still gains speed, measured.",
        flag="--batch-size",
        within=_COUNT,
    )
    seed: int = setting(
        0, "Same seed, same result.", flag="--seed", within=Limits(low=0, high=2**63 - 1)
    )
    device: str = setting(
        "auto",
        "Where the model runs; cuda is the first GPU that CUDA_VISIBLE_DEVICES leaves.",
        flag="--device",
        choices=DEVICES,
    )
    precision: str = setting(
        "auto",
        "Number format of the model; auto: bf16 on CUDA, fp16 on GPUs without it, fp32 elsewhere.",
        flag="--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    accumulate: int = setting(1, "Batches whose gradients are added before a step.", within=_COUNT)
    clip_grad: float | None = setting(None, "Largest total gradient norm.", within=_POSITIVE)
    clip_value: float | None = setting(
        None, "Largest size of a gradient's single values; before clip_grad.", within=_POSITIVE
    )
    patience: int | None = setting(
        None, "Stop after this many epochs without a better one.", within=_COUNT
    )
    metric: str = setting("auto", "What the best epoch is chosen by: loss, or a metric.")
    ema: float | None = setting(
        None,
        "Decay of the moving average of the weights; the average is then what is evaluated.",
        within=_DECAY,
    )
    save_every: int | str = setting(
        1,
        "How often the state to resume from is saved: a number of epochs, of steps (200s), or of"
        " minutes (10m).",
        flag="--save-every",
        within=Form(r"[1-9][0-9]{0,8}[sm]?", "a number of epochs, steps (200s) or minutes (10m)"),
    )
    channels_last: bool = setting(True, "Keep the model in the channels_last memory format.")
    sync_batchnorm: bool = setting(
        False,
        "Of several processes on GPUs: BatchNorm's statistics are of the whole batch, not of each"
        " process's part.",
    )
    shard: bool = setting(
        False, "Of several processes: each has a part of the model, which may exceed a GPU."
    )
    deterministic: bool = setting(False, "Use deterministic kernels on CUDA; slower.")
    compile: bool | Literal["auto"] = setting(
        AUTO,
        "Compile the model (torch.compile). auto: on CUDA, where measured steps say that the run is"
        " long enough to gain by it.",
    )
    profile: bool = setting(
        False, "Measure where the time of a step goes, and print it at the end."
    )
    method: str = setting(
        "steps",
        "Steps of an optimizer; probe: the head is fitted to features of the rest, which stays as"
        " it is; probe-steps: steps that begin with such a head.",
        choices=("steps", "probe", "probe-steps"),
    )
    knn: int | None = setting(
        None,
        "Of a probe: also say how often the vote of so many nearest training images is right.",
        within=_COUNT,
    )


@dataclass(frozen=True)
class LogSettings:
    tensorboard: bool = setting(True, "Write TensorBoard events.")
    histograms: bool = setting(True, "Record weights and gradients of every layer once an epoch.")
    layers: bool = setting(
        True,
        "Record losses, gradients, updates and activations of every layer for `ptkit diagnose`.",
        keyword="log_layers",
    )
    graph: bool = setting(True, "Record the model's graph.")
    pictures: bool = setting(
        True, "Draw kernels over the epochs, embedding, PR curves and deciding regions."
    )
    folder: str | None = setting(
        None,
        "Parent folder of the events; by default the run folder.",
        keyword="log_folder",
        is_path=True,
    )
    comment: str = setting("", "Text appended to the folder name of the events.")
    filename_suffix: str = setting("", "Text appended to the name of the event file.")
    font: str | None = setting(
        None,
        "Font file for names in a run's pictures with characters that the fonts found here lack.",
        keyword="log_font",
        is_path=True,
    )
    wandb: bool = setting(
        False, "Send the same numbers and pictures to Weights & Biases; needs ptkit[wandb]."
    )


@dataclass(frozen=True)
class Settings:
    """One frozen record of everything that decides a run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    train: TrainSettings = TrainSettings()
    log: LogSettings = LogSettings()


Field = dataclasses.Field[Any]

# Section -> key -> field.
FIELDS: dict[str, dict[str, Field]] = {
    section.name: {field.name: field for field in dataclasses.fields(section.default)}  # type: ignore[arg-type]
    for section in dataclasses.fields(Settings)
}


def keyword_of(section: str, field: Field) -> str:
    """Return a setting's name in Python: its own keyword, its key, or its section for `call`."""
    return field.metadata["keyword"] or (section if field.name == "call" else field.name)


# Keyword -> section and field.
KEYWORDS: dict[str, tuple[str, Field]] = {
    keyword_of(section, field): (section, field)
    for section, settings in FIELDS.items()
    for field in settings.values()
}

# Keyword -> flag, of the few settings that have one on the command line.
FLAGS: dict[str, str] = {
    keyword: field.metadata["flag"]
    for keyword, (_, field) in KEYWORDS.items()
    if field.metadata["flag"]
}
