"""What a run's numbers say in words, each with the command that helps; and what makes a slow epoch
faster.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptkit.core.config.settings import DataSettings
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.diagnosis.chance import is_as_guessing, is_as_majority
from ptkit.core.diagnosis.rates import rate_flag
from ptkit.core.models.packaged_weights import INSTALL, is_installed
from ptkit.core.shares import interval, share_text
from ptkit.core.sizes import is_small
from ptkit.core.training.run_folder import Run
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.guessing import guessing_loss
from ptkit.core.training.tasks.metrics import Majority, majority_of
from ptkit.core.wording import counted, first_of

# Early in a run the statistics of BatchNorm lag behind the weights, and losses jump.
_FIRST_EPOCHS = 2
# A validation loss of so many times ln K, that of answering all K classes alike, has lost its way.
_EXPLODED = 3
# Settings are usually compared for a few points of accuracy.
_POINTS = 0.03
# A class that has so many times its even share of the images is worth answering always.
_UNEVEN = 1.5
_FOLDS = 5
# With 100,000 images and more, training from scratch comes to what pretrained weights do; with
# 10,000 it does not (He, Girshick, Dollár, "Rethinking ImageNet pre-training", 2019, section 4.4).
_MANY_IMAGES = 100_000


@dataclass(frozen=True)
class Verdict:
    """rule: which of _JUDGED it is of. text: one line."""

    rule: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What is judged of a run that has ended.

    rows: of metrics.csv. kind: of the task, as Task.kind. num_right, num_valid: validation images
    that the best epoch had right, of how many; both 0 and `majority` None without an accuracy.
    unseen_classes: those without validation images. smallest_class: images of the smallest class in
    both lists. guessing: see `guessing_loss`. lr: None without steps. is_photos: larger than small
    images. schedule: as Settings have it.
    """

    run: Path
    rows: Sequence[Mapping[str, Any]]
    kind: str
    num_classes: int
    num_train: int
    num_right: int
    num_valid: int
    majority: Majority | None
    unseen_classes: tuple[str, ...]
    smallest_class: int
    guessing: float | None
    lr: float | None
    train_list: str
    valid_list: str
    is_photos: bool
    is_from_scratch: bool
    schedule: str | None = None

    @property
    def uniform_loss(self) -> float:
        """The cross-entropy of giving all classes the same probability, ln K."""
        return float(torch.tensor(self.num_classes).log())

    @property
    def again(self) -> str:
        """The command that repeats the run."""
        return f"ptkit train --config {shlex.quote(str(self.run / 'config.toml'))}"

    @property
    def slower(self) -> str:
        """The command that repeats the run at a tenth of its rate."""
        return f"{self.again} {rate_flag(self.lr or 0, self.schedule, factor=0.1)}"

    @property
    def from_pretrained(self) -> str:
        """The command that begins with pretrained weights."""
        lists = {"train": self.train_list, "valid": self.valid_list}
        words = "probe" if self.kind == SINGLE else "finetune efficientnet_lite0 --recipe finetune"
        flags = [
            f" --{name} {shlex.quote(path)}"
            for name, path in lists.items()
            if path != getattr(DataSettings(), name)
        ]
        command = f"`ptkit {words}{''.join(flags)}`"
        return command if is_installed() else f"`{INSTALL}`, then {command}"


def facts_of_run(run: Run) -> Facts:
    """Collect what is judged of a run that has ended."""
    settings, loss = run.settings, run.training.loss
    train, valid = run.training.train.images, run.training.valid.images
    majority, num_valid, smallest = None, 0, 0
    unseen: tuple[str, ...] = ()
    if run.task.kind not in (MULTI, REGRESSION):
        labels = valid.labels[run.task.counted_rows(valid.labels)]
        majority, num_valid = majority_of(labels, valid.class_names), len(labels)
        ours = np.bincount(train.labels, minlength=train.num_classes)
        theirs = np.bincount(labels, minlength=train.num_classes)
        unseen = tuple(train.class_names[k] for k in np.flatnonzero((theirs == 0) & (ours > 0)))
        smallest = int((ours + theirs)[ours > 0].min())
    return Facts(
        run=run.folder,
        rows=run.rows,
        kind=run.task.kind,
        num_classes=train.num_classes,
        num_train=len(train),
        num_right=round((run.best or {}).get("accuracy", 0) * num_valid),
        num_valid=num_valid,
        majority=majority,
        unseen_classes=unseen,
        smallest_class=smallest,
        guessing=guessing_loss(
            loss,
            is_balanced=settings.data.sampler == "balanced",
            is_mixed=run.training.train.pipeline.mix is not None,
        ),
        lr=settings.optimizer.lr if settings.train.method != "probe" else None,
        train_list=settings.data.train,
        valid_list=settings.data.valid,
        is_photos=not is_small(min(run.data.sides)),
        is_from_scratch=settings.model.weights is None,
        schedule=settings.scheduler.call,
    )


def verdicts(facts: Facts) -> tuple[Verdict, ...]:
    """Return what is true of a run and should be known before its result is used."""
    # The user may have moved them away.
    if not facts.rows:
        return ()
    found = ((name, rule(facts)) for name, rule in _JUDGED.items())
    return tuple(Verdict(name, text) for name, text in found if text)


def _exploded(facts: Facts) -> str | None:
    late = [row for row in facts.rows if row["epoch"] > _FIRST_EPOCHS]
    worst = max(late, key=lambda row: row["valid_loss"], default=None)
    # Of other losses nobody knows how large is too large.
    if worst is None or facts.guessing is None or facts.lr is None:
        return None
    if worst["valid_loss"] <= _EXPLODED * facts.uniform_loss:
        return None
    where = f"{worst['valid_loss']:,.4g} in epoch {worst['epoch']}"
    guessing = f"guessing gives {facts.uniform_loss:.2f}"
    told = f"the validation loss exploded: {where}, where {guessing}"
    if facts.rows[-1]["valid_loss"] < facts.uniform_loss:
        told = f"the validation loss was {where}, before it came down again ({guessing})"
    return f"{told}; calmer: `{facts.slower} --set train.clip_grad=1`"


def _never_below_chance(facts: Facts) -> str | None:
    least = min(row["train_loss"] for row in facts.rows)
    # The loss of an epoch is a mean over its steps: of a single one its first steps are a part.
    if len(facts.rows) < 2 or facts.guessing is None or facts.lr is None:
        return None
    if not is_as_guessing(least, facts.guessing):
        return None
    return (
        f"the training loss never fell clearly below that of guessing ({least:.4f}, guessing gives"
        f" {facts.guessing:.4f}): the rate is far off, or labels and images do not belong together;"
        f" `ptkit diagnose {shlex.quote(str(facts.run))}` looks closer"
    )


def _no_better_than_majority(facts: Facts) -> str | None:
    majority, right, total = facts.majority, facts.num_right, facts.num_valid
    if majority is None or not is_as_majority(right / total, share=majority.share, total=total):
        return None
    files = shlex.join([str(facts.run), facts.valid_list])
    helps = f"what it confuses: `ptkit confmat {files}`"
    if majority.share * facts.num_classes >= _UNEVEN and facts.lr is not None:
        metric = " --set train.metric=balanced_accuracy" if facts.kind == SINGLE else ""
        helps = f"so that small classes count: `{facts.again} --set data.sampler=balanced{metric}`"
    if facts.is_photos and facts.is_from_scratch:
        helps = f"from pretrained weights: {facts.from_pretrained}"
    return (
        f'no better than always answering "{majority.name}" ({majority.share:.1%}), as far as'
        f" {counted(total, 'validation image')} can tell: {share_text(right, total)}; {helps}"
    )


def _photos_from_scratch(facts: Facts) -> str | None:
    if not (facts.is_photos and facts.is_from_scratch and facts.num_train < _MANY_IMAGES):
        return None
    return (
        f"{counted(facts.num_train, 'photograph')}, trained on from scratch: pretrained weights"
        f" usually make far fewer mistakes, in less time: {facts.from_pretrained}"
    )


def _few_validation_images(facts: Facts) -> str | None:
    if facts.majority is None:
        return None
    points = telling_difference(facts.num_right, facts.num_valid)
    if points < _POINTS:
        return None
    folds = min(facts.smallest_class, _FOLDS)
    advice = f"to validate on every image: `ptkit split FOLDER --kfold {folds}`"
    return (
        f"{counted(facts.num_valid, 'validation image')}: differences between runs below"
        f" {100 * points:.0f} points mean nothing; {advice if folds > 1 else 'get more images'}"
    )


def _classes_not_validated(facts: Facts) -> str | None:
    if not facts.unseen_classes:
        return None
    return (
        f"{facts.valid_list} has no image of {first_of(facts.unseen_classes, 3)}: the accuracy says"
        " nothing of it; add images of it, or split with more for validation (`ptkit split FOLDER"
        " --ratio 6:4`)"
    )


def telling_difference(right: int, total: int) -> float:
    """Return how far the accuracies of two runs must be apart to tell them from chance.

    √2 times half of the 95 % interval, as for two shares of images drawn apart; runs that are
    validated on the same images are often nearer.
    """
    low, high = interval(right, total)
    return 2**0.5 * (high - low) / 2


# In the order in which they are told: what may be the cause of the others first.
_JUDGED: dict[str, Callable[[Facts], str | None]] = {
    "exploded": _exploded,
    "never_below_chance": _never_below_chance,
    "no_better_than_majority": _no_better_than_majority,
    "photos_from_scratch": _photos_from_scratch,
    "few_validation_images": _few_validation_images,
    "classes_not_validated": _classes_not_validated,
}


def speedups(setup: Setup) -> tuple[str, ...]:
    """Return what would make an epoch of a run shorter, of what it does not do yet."""
    settings, train = setup.settings, setup.training.train
    side = min(setup.data.sides)
    found = []
    if not is_small(side):
        found.append(f"--size {max(side // 2, 32)} (about a quarter of the work)")
    if not is_small(side) and setup.training.loss.task.kind == SINGLE:
        found.append("`ptkit probe`, which passes every image once")
    is_kept = train.kept is not None or settings.data.reduced_decode
    if not is_kept and settings.train.epochs > 1 and settings.data.cache != "disk":
        found.append("--set data.cache=disk, so that images are decoded once")
    found.append("a smaller --model (`ptkit list models`)")
    if train.device.type == "cpu":
        found.append("a GPU")
    return tuple(found)
