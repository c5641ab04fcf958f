"""A run without steps: the head is fitted to what the rest of the network, frozen, makes of the
images.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.config import Settings
from ptkit.core.data.keyed import permutation
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.completion import mirrors
from ptkit.core.device import autocast
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import hooked
from ptkit.core.models.zoo import find_head
from ptkit.core.training.linear_head import Chosen, Head, choose_penalty, fit_head
from ptkit.core.training.loop import Training, evaluate
from ptkit.core.training.observers import EpochResult, Watcher
from ptkit.core.training.tasks.metrics import share_text

# Parts of the training images with which the head is fitted, to see what more of them bring.
_SHARES = (0.1, 0.2, 0.5, 1.0)
# A small part is drawn anew so often: one draw says little.
_DRAWS = 5
# Settings beside those of optimizer and schedule that have no effect without steps.
_OF_STEPS = (
    ("model", "init"),
    *(("data", key) for key in ("sampler", "shuffle", "drop_last")),
    *(("train", key) for key in ("accumulate", "clip_grad", "clip_value", "patience", "ema")),
    *(("train", key) for key in ("compile", "profile")),
)


def check_method(settings: Settings) -> None:
    """Refuse settings that have no effect on a probe.

    Raises:
        UsageError: there are some; the message names them.
    """
    if settings.train.method == "steps":
        return
    usual = Settings()
    sections = ("optimizer", "scheduler")
    keys = [(name, field.name) for name in sections for field in fields(getattr(usual, name))]
    changed = [
        f"{section}.{key}"
        for section, key in (*keys, *_OF_STEPS)
        if getattr(getattr(settings, section), key) != getattr(getattr(usual, section), key)
    ]
    if changed:
        raise UsageError(f"train.method=probe makes no steps: leave out {', '.join(changed)}")
    if settings.train.epochs != 1:
        raise UsageError("train.method=probe is one epoch: use --epochs 1")
    if settings.loss.call not in (None, "CrossEntropyLoss()"):
        raise UsageError("train.method=probe minimises CrossEntropyLoss(): leave another loss out")
    if settings.model.weights is None:
        raise UsageError("train.method=probe needs trained weights: see `ptkit probe --help`")


def check_head(training: Training) -> None:
    """Refuse what a probe cannot be of, before a run has a folder; steps take anything.

    Raises:
        UsageError: labels other than one class an image, or a head that is not linear.
    """
    if training.settings.method == "steps":
        return
    loss, model = training.loss, training.model
    if loss.task.kind != SINGLE:
        raise UsageError("a probe is for lists with one class an image")
    name = find_head(model, loss.facts.num_classes)
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UsageError(f"a probe needs a linear head with a bias, and {name} is {head}")


@dataclass(frozen=True)
class Features:
    """views: features (n, D) of the images and, if they are used, of their mirror images. labels:
    (n,) classes.
    """

    views: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Any) -> "Features":
        """Return the features of some images."""
        return Features(tuple(view[rows] for view in self.views), self.labels[rows])

    def fitted(self, *, num_classes: int, penalty: float) -> Head:
        """Return the head that fits all views."""
        return fit_head(
            torch.cat(self.views),
            self.labels.repeat(len(self.views)),
            num_classes=num_classes,
            penalty=penalty,
        )


def probe(training: Training, reference: Batches, watch: Watcher) -> Iterator[EpochResult]:
    """Fit the head, and yield the one epoch that this is, with the head in the model.

    training: as `check_head` let it pass. reference: the training images as evaluation sees them.
    """
    begin = time.perf_counter()
    num_classes, seed = training.loss.facts.num_classes, training.settings.seed
    name = find_head(training.model, num_classes)
    head = cast(nn.Linear, training.model.get_submodule(name))
    # Where training may mirror images, their mirror images show the same.
    is_mirrored = mirrors(training.train.pipeline.calls)
    with watch.counting("features", len(reference.images) + len(training.valid.images)) as advance:
        train = _features(training, reference, name, mirrored=is_mirrored, advance=advance)
        valid = _features(training, training.valid, name, mirrored=False, advance=advance)
    seconds = time.perf_counter() - begin
    chosen = choose_penalty(train.views, train.labels, num_classes=num_classes, seed=seed)
    fitted = train.fitted(num_classes=num_classes, penalty=chosen.penalty)
    with torch.no_grad():
        head.weight.copy_(fitted.weight)
        head.bias.copy_(fitted.bias)
    for line in _lines(train, valid, chosen, num_classes=num_classes, seed=seed):
        watch.say(line)
    scores = fitted.scores(train.views[0])
    valid_loss, metrics = evaluate(training)
    yield EpochResult(
        epoch=1,
        train_loss=F.cross_entropy(scores, train.labels).item(),
        train_accuracy=(scores.argmax(1) == train.labels).float().mean().item(),
        valid_loss=valid_loss,
        valid=metrics,
        lrs={name: 0.0},
        unfrozen=(),
        seconds=time.perf_counter() - begin,
        images_per_s=(len(train) * len(train.views) + len(valid)) / seconds,
    )


def _features(
    training: Training, batches: Batches, head: str, *, mirrored: bool, advance: Any
) -> Features:
    """Return what the head gets of every image, in the order of the list, float32 on the CPU."""
    views: list[list[Tensor]] = [[], []]
    labels: list[Tensor] = []
    caught: list[Tensor] = []

    def see(_name: str, inputs: Sequence[Tensor], _output: Tensor) -> None:
        caught.append(inputs[0].flatten(1).float().cpu())

    training.model.eval()
    with hooked(training.model, [head], see), torch.inference_mode():
        for batch in batches.epoch():
            images = batch.images[:: batch.num_crops]
            for place, view in enumerate((images, images.flip(-1)) if mirrored else (images,)):
                with autocast(view.device, training.dtype):
                    training.model(view)
                views[place].append(caught.pop())
            labels.append(batch.labels.cpu())
            advance(len(batch.labels))
    # Out of inference mode, in which nothing can be fitted.
    found = tuple(torch.cat(view).clone() for view in views if view)
    return Features(found, torch.cat(labels).clone())


def _lines(
    train: Features, valid: Features, chosen: Chosen, *, num_classes: int, seed: int
) -> Iterator[str]:
    """Say how good the head is likely to be, and what more images would bring."""
    also = " and of their mirror images" if len(train.views) > 1 else ""
    yield (
        f"features: {train.views[0].shape[1]:,} numbers of {len(train):,} training images{also},"
        f" and of {len(valid):,} validation images"
    )
    right = share_text(chosen.num_right, chosen.num_images)
    yield f"head: penalty {chosen.penalty:g}; {right} right in five-fold cross-validation"
    accuracies = {
        count: _accuracy_with(train, valid, count, chosen.penalty, num_classes, seed)
        for count in sorted({max(round(len(train) * share), num_classes) for share in _SHARES})
    }
    found = ", ".join(f"{count:,} {value:.1%}" for count, value in accuracies.items())
    whole, half = accuracies[len(train)], accuracies.get(round(len(train) * 0.5))
    more = ""
    # The mistakes that are left shrink by the same factor once more.
    if half is not None and half <= whole < 1:
        expected = 1 - (1 - whole) ** 2 / (1 - half)
        more = f"; twice as many would bring about {expected:.1%}"
    yield f"right validation images by the number of training images: {found}{more}"
    most = int(torch.bincount(valid.labels).max())
    yield f"always the most frequent class: {most / len(valid):.1%} of the validation images"


def _accuracy_with(
    train: Features, valid: Features, count: int, penalty: float, num_classes: int, seed: int
) -> float:
    """Return the mean accuracy on the validation images of heads fitted to `count` images, which
    have their share of every class.
    """
    draws = 1 if count >= len(train) else _DRAWS
    right = 0
    for draw in range(draws):
        order = permutation(seed, "budget", epoch=draw, length=len(train))
        by_class = order[np.argsort(train.labels.numpy()[order], kind="stable")]
        rows = by_class[np.linspace(0, len(train) - 1, count).round().astype(np.int64)]
        head = train.part(rows).fitted(num_classes=num_classes, penalty=penalty)
        right += int((head.scores(valid.views[0]).argmax(1) == valid.labels).sum())
    return right / (draws * len(valid))
