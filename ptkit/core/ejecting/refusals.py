"""What a plain script cannot do: refused by its name, before anything is written."""

import os
from collections.abc import Iterator

import torch

from ptkit.core.config.settings import AUTO, Settings
from ptkit.core.data.images import cv2, read
from ptkit.core.data.keyed import spread
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, names_code, parse, parse_all
from ptkit.core.ranks import here
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.task import METRICS

# Images of each list on which the script's way to read them is tried.
_TRIED = 50
# The weights or the images may have chosen white.
_ON_WHITE = "save the images on white, and pass --alpha drop"
# What these optimizers do is more than a call: they need a closure, or are two in one.
_OPTIMIZERS = ("LBFGS", "Muon", "SparseAdam")


def check_settings(settings: Settings) -> None:
    """Refuse settings that a script cannot follow.

    Raises:
        UsageError: the message names the setting.
    """
    if not here().is_alone:
        raise refused("several processes", "leave torchrun out")
    for name, why in _unsuited(settings):
        raise refused(name, why)
    for call in _calls(settings):
        if call.prefix != "timm" and names_code(call):
            raise refused(f"code of your own ({call})", "import it where the script needs it")
    optimizer = parse(settings.optimizer.call) if settings.optimizer.call else None
    if optimizer is not None and optimizer.name in _OPTIMIZERS:
        raise refused(optimizer.name, "use an optimizer that is one call, such as AdamW")


def check_setup(setup: Setup) -> None:
    """Refuse what only shows once a run is set up: its labels, its loss, its lists.

    Raises:
        UsageError: the message names what it is.
    """
    training, data = setup.training, setup.data
    if training.loss.compares:
        raise refused(f"{training.loss.call.name}, which compares images", "use CrossEntropyLoss")
    if training.compiled is not None:
        raise refused("torch.compile", "--set train.compile=false")
    if training.dtype is torch.float16:
        raise refused("fp16 with its loss scaling", "--precision fp32 or bf16")
    if data.settings.alpha == "white":
        raise refused("images on white", _ON_WHITE)
    if data.skipped:
        raise refused("images that are skipped", "take them out of the lists")
    main = next(iter(METRICS[training.loss.task.kind]))
    if setup.metric not in (main, "loss"):
        raise refused(f"train.metric={setup.metric}", f"{main} or loss chooses the best epoch")
    for images in (training.train.images, training.valid.images):
        _check_list(images)


def refused(what: str, remedy: str) -> UsageError:
    """Return the error for something that a script cannot express."""
    return UsageError(f"--eject has no plain form for {what}; {remedy}")


def _unsuited(settings: Settings) -> Iterator[tuple[str, str]]:
    data, train = settings.data, settings.train
    leave_out = "leave it out"
    found = {
        "data.root": data.root,
        "data.relabel": data.relabel,
        "data.sampler=balanced": data.sampler == "balanced",
        "data.reduced_decode": data.reduced_decode,
        "data.decode=gpu": data.decode == "gpu",
        "data.alpha=white": data.alpha == "white",
        "data.on_bad=skip": data.on_bad == "skip",
        "train.patience": train.patience,
        "train.profile": train.profile,
        "train.shard": train.shard,
        "train.sync_batchnorm": train.sync_batchnorm,
        "train.deterministic": train.deterministic,
        "train.compile": train.compile not in (False, AUTO),
        "train.batch_size=auto": train.batch_size == AUTO,
        "log.wandb": settings.log.wandb,
    }
    remedies = {"data.alpha=white": _ON_WHITE}
    yield from ((name, remedies.get(name, leave_out)) for name, is_set in found.items() if is_set)
    if train.method == "probe":
        yield "train.method=probe", "--set train.method=steps"


def _calls(settings: Settings) -> Iterator[Call]:
    texts = (
        settings.model.call,
        settings.loss.call,
        settings.optimizer.call,
        settings.scheduler.call,
    )
    yield from (parse(text) for text in texts if text)
    yield from parse_all((*settings.data.transforms, *settings.data.eval_transforms))


def _check_list(images: ImageList) -> None:
    """Refuse a list whose lines a script of a few lines would read otherwise."""
    if images.has_named_labels:
        raise refused(f"{images.file}, which names its classes", "write their numbers into it")
    for number in range(len(images)):
        path = images.listed_path(number)
        if path != path.strip() or path.startswith('"') or "\n" in path or not path.isprintable():
            raise refused(f"{images.file}, with a path in quotes ({path!r})", "rename the image")
        if os.path.abspath(images.image_path(number)) != os.path.abspath(images.folder / path):
            raise refused(
                f"{images.file}, whose paths are not relative to its folder ({path})",
                "put the list where its paths begin",
            )
    for number in spread(range(len(images)), _TRIED):
        path = images.image_path(number)
        pixels = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
        expected = read(path)
        if pixels is None or pixels.shape != expected.shape or (pixels != expected).any():
            raise refused(f"{path}, which OpenCV alone reads otherwise", "save it as PNG or JPEG")
