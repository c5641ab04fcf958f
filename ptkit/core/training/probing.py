"""The head fitted to what the rest of the network, frozen, makes of the images: all of a run
without steps, or what steps begin with.
"""

import time
from contextlib import closing
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.config.settings import Settings
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.completion import mirrors
from ptkit.core.data.transforms.eval_lists import has_own_code
from ptkit.core.device import autocast, leaving_torch_as_it_was
from ptkit.core.distributed import summed
from ptkit.core.errors import StorageError
from ptkit.core.models.zoo import find_head
from ptkit.core.parts.calls import names_code, parse
from ptkit.core.ranks import here
from ptkit.core.shares import share_text
from ptkit.core.training.evaluating import evaluated
from ptkit.core.training.loop import Training
from ptkit.core.training.observers import EpochResult, Unwatched, Watcher
from ptkit.core.training.probe.checks import head_of
from ptkit.core.training.probe.features import (
    Features,
    features_key,
    features_of,
    keep_features,
    kept_features,
)
from ptkit.core.training.probe.linear_head import (
    NUM_FOLDS,
    PENALTIES,
    Chosen,
    Head,
    choose_penalty,
)
from ptkit.core.training.probe.report import MOST_HEADS, ProbeReport, report_of
from ptkit.core.training.setup import Setup, prepare
from ptkit.core.training.states import environment


@dataclass(frozen=True)
class Probed:
    """A head, what it was fitted to, and how its penalty was chosen."""

    train: Features
    valid: Features
    chosen: Chosen
    head: Head


def probe(setup: Setup, watch: Watcher) -> tuple[EpochResult, ProbeReport, Tensor]:
    """Fit the head, put it into the model, and return the one epoch that this is, what it says, and
    the features (n, D) of the validation images.

    setup: with `train.method=probe`.
    """
    begin = time.perf_counter()
    training, num_classes = setup.training, setup.training.loss.facts.num_classes
    found = fit_head_of(setup, watch)
    with watch.counting("heads of fewer images", MOST_HEADS) as on_fit:
        report = report_of(
            found.train,
            found.valid,
            found.chosen,
            num_classes=num_classes,
            seed=setup.settings.train.seed,
            num_neighbours=setup.settings.train.knn,
            on_fit=on_fit,
        )
    seconds = time.perf_counter() - begin
    valid_features = found.valid.views[0]
    outputs = head_outputs(training, valid_features)
    labels = found.valid.labels.to(outputs.device)
    # All ranks have all features.
    mine = here().part_of(len(labels))
    valid_loss, metrics = evaluated(training, [(outputs[mine], labels[mine])])
    scores = found.head.scores(found.train.views[0])
    result = EpochResult(
        epoch=1,
        train_loss=F.cross_entropy(scores, found.train.labels).item(),
        train_accuracy=(scores.argmax(1) == found.train.labels).float().mean().item(),
        valid_loss=valid_loss,
        valid=metrics,
        lrs={find_head(training.model, num_classes): 0.0},
        unfrozen=(),
        seconds=seconds,
        images_per_s=(len(found.train) * len(found.train.views) + len(found.valid)) / seconds,
    )
    return result, report, valid_features


def head_outputs(training: Training, features: Tensor) -> Tensor:
    """Return the outputs (n, num_classes) of images whose features (n, D) are known."""
    device = training.valid.device
    head = head_of(training.model, training.loss.facts.num_classes)
    with torch.inference_mode(), autocast(device, training.dtype):
        return cast(Tensor, head(features.to(device))).float()


def fit_head_of(setup: Setup, watch: Watcher) -> Probed:
    """Fit the head to the training images, and put it into the model, in place.

    setup: whose model and labels `check_head` let pass.
    """
    train, valid = frozen_features(setup, watch)
    num_classes = setup.training.loss.facts.num_classes
    seed = setup.settings.train.seed
    chosen = _choose_penalty(train, watch, num_classes=num_classes, seed=seed)
    head = train.fitted(num_classes=num_classes, penalty=chosen.penalty)
    layer = head_of(setup.training.model, num_classes)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    return Probed(train, valid, chosen, head)


def head_line(training: Training, found: Probed) -> str:
    """Say how good the fitted head is, before any step."""
    answers = head_outputs(training, found.valid.views[0]).argmax(1).cpu()
    right = int((answers == found.valid.labels).sum())
    return f"{found.chosen.line}, {share_text(right, len(found.valid))} of the validation images"


@leaving_torch_as_it_was()
def cross_validated(settings: Settings, watch: Watcher) -> Chosen:
    """Return how good heads on the features of some weights are, without a run.

    Raises:
        PtkitError: anything that does not fit.
    """
    setup = prepare(settings, _OnlyCounting(watch), is_resumed=False)
    with closing(setup.data):
        train, _ = frozen_features(setup, watch)
    num_classes, seed = setup.training.loss.facts.num_classes, settings.train.seed
    return _choose_penalty(train, watch, num_classes=num_classes, seed=seed)


def _choose_penalty(train: Features, watch: Watcher, *, num_classes: int, seed: int) -> Chosen:
    """Choose it where a signal can stop that between two heads."""
    with watch.counting("cross-validation", NUM_FOLDS * len(PENALTIES)) as on_fit:
        return choose_penalty(
            train.views, train.labels, num_classes=num_classes, seed=seed, on_fit=on_fit
        )


class _OnlyCounting(Unwatched):
    """Shows how far a pass is; what was chosen is shown of the run that follows."""

    def __init__(self, watch: Watcher) -> None:
        self.counting = watch.counting  # type: ignore[method-assign]


def frozen_features(setup: Setup, watch: Watcher) -> tuple[Features, Features]:
    """Return the features of the training and of the validation images; where the cache allows it,
    they are kept on disk for later runs.

    Of the training images, as evaluation sees them, also those of their mirror images, if training
    may mirror images.
    """
    is_mirrored = mirrors(setup.training.train.pipeline.calls)
    train = _kept_or_new(setup, setup.data.reference, watch, is_mirrored=is_mirrored)
    return train, _kept_or_new(setup, setup.training.valid, watch, is_mirrored=False)


def _kept_or_new(setup: Setup, batches: Batches, watch: Watcher, *, is_mirrored: bool) -> Features:
    images, training, cache = batches.images, setup.training, setup.data.settings.cache
    # The user's own code can change while its name stays.
    has_code = names_code(parse(setup.model.call)) or has_own_code(batches.pipeline.calls)
    is_kept = cache in ("auto", "disk") and not has_code
    key = _key(setup, batches, is_mirrored=is_mirrored) if is_kept else ""
    found = kept_features(images, key, num_views=1 + is_mirrored) if key else None
    # All ranks make them, or none.
    is_missing = summed({"ranks": int(found is None)})["ranks"] > 0
    if found is not None and not is_missing:
        return found
    with watch.counting(f"features of {images.file.name}", len(images)) as advance:
        found = features_of(
            batches,
            training.model,
            is_mirrored=is_mirrored,
            dtype=training.dtype,
            advance=advance,
        )
    try:
        if key and here().local == 0:
            keep_features(found, images, key)
    except StorageError as error:
        # They are here all the same; who asked for the disk hears of it as an error.
        if cache == "disk":
            raise
        watch.warn(f"the features are not kept: {error}")
    return found


def _key(setup: Setup, batches: Batches, *, is_mirrored: bool) -> str:
    """Return what features are kept under: files, weights, pipeline, and all that computes."""
    training, pipeline = setup.training, batches.pipeline
    head = find_head(training.model, training.loss.facts.num_classes)
    weights = {
        name: tensor
        for name, tensor in training.model.state_dict().items()
        if not name.startswith(f"{head}.")
    }
    tensors = {f"pipeline {name}": tensor for name, tensor in pipeline.tensors.items()}
    parts = (
        setup.model.call,
        *map(str, pipeline.calls),
        *environment(setup).items(),
        is_mirrored,
    )
    return features_key(batches.images, parts, {**weights, **tensors})
