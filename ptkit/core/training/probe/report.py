"""What a probe found out, beside its head: how good heads are likely to be, and what more images
would bring.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ptkit.core.data.keyed import permutation
from ptkit.core.shares import interval, share_text
from ptkit.core.training.probe.features import Features
from ptkit.core.training.probe.linear_head import Chosen
from ptkit.core.training.probe.neighbours import neighbours_vote

# Parts of the training images with which heads are fitted, to see what more of them bring.
_SHARES = (0.1, 0.2, 0.5, 1.0)
# A part is drawn anew so often: one draw says little.
_DRAWS = 5
# All of them cannot be drawn in several ways.
MOST_HEADS = (len(_SHARES) - 1) * _DRAWS + 1


@dataclass(frozen=True)
class Part:
    """Heads fitted to `num_images` training images: the mean of their accuracy on the validation
    images, with the 95 % interval of one of them.
    """

    num_images: int
    accuracy: float
    accuracy_interval: tuple[float, float]

    @property
    def text(self) -> str:
        """The accuracy with its interval."""
        low, high = self.accuracy_interval
        return f"{self.accuracy:.1%} ({100 * low:.1f} to {high:.1%})"


@dataclass(frozen=True)
class ProbeReport:
    """num_features: numbers an image. num_views: 2 with mirror images. budget: from few training
    images to all. expected: with twice as many, None where it cannot be told. majority: share of
    the largest class among the validation images. num_right_by_neighbours: of the validation
    images, if so many neighbours were asked.
    """

    num_features: int
    num_views: int
    num_train: int
    num_valid: int
    chosen: Chosen
    budget: tuple[Part, ...]
    expected: Part | None
    majority: float
    num_neighbours: int | None = None
    num_right_by_neighbours: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain containers."""
        right, of_all = self.num_right_by_neighbours, self.chosen
        return {
            **asdict(self),
            "cross_validation_interval": interval(of_all.num_right, of_all.num_images),
            "neighbours_interval": None if right is None else interval(right, self.num_valid),
        }

    def lines(self) -> Iterator[str]:
        """Yield it in words."""
        also = " and of their mirror images" if self.num_views > 1 else ""
        yield (
            f"features: {self.num_features:,} numbers of {self.num_train:,} training images{also},"
            f" and of {self.num_valid:,} validation images"
        )
        yield self.chosen.line
        if self.num_right_by_neighbours is not None:
            right = share_text(self.num_right_by_neighbours, self.num_valid)
            yield f"the vote of {self.num_neighbours} nearest training images: {right} right"
        found = ", ".join(f"{part.num_images:,}: {part.text}" for part in self.budget)
        yield f"accuracy on the validation images by the number of training images: {found}"
        if self.expected is not None:
            yield f"twice as many training images are likely to bring about {self.expected.text}"


def report_of(
    train: Features,
    valid: Features,
    chosen: Chosen,
    *,
    num_classes: int,
    seed: int,
    num_neighbours: int | None = None,
    on_fit: Callable[[int], object] = lambda _count: None,
) -> ProbeReport:
    """Fit heads to parts of the training images, and count what they do on the validation images.

    seed: of the parts. num_neighbours: let so many nearest training images vote too. on_fit: called
    with 1 for each head, of MOST_HEADS at most.
    """
    total = len(train)
    # Of few images at least one for each class, as far as there are so many.
    counts = sorted({min(max(round(total * share), num_classes), total) for share in _SHARES})
    budget = tuple(
        part_of(
            count,
            accuracy_with(
                train,
                valid,
                count,
                penalty=chosen.penalty,
                num_classes=num_classes,
                seed=seed,
                on_fit=on_fit,
            ),
            num_valid=len(valid),
        )
        for count in counts
    )
    expected = expected_of_twice(budget, total)
    right = None
    if num_neighbours is not None:
        votes = neighbours_vote(
            train, valid.views[0], num_neighbours=num_neighbours, num_classes=num_classes
        )
        right = int((votes == valid.labels).sum())
    return ProbeReport(
        num_features=train.views[0].shape[1],
        num_views=len(train.views),
        num_train=len(train),
        num_valid=len(valid),
        chosen=chosen,
        budget=budget,
        expected=None if expected is None else part_of(2 * total, expected, num_valid=len(valid)),
        majority=int(torch.bincount(valid.labels).max()) / len(valid),
        num_neighbours=None if num_neighbours is None else min(num_neighbours, total),
        num_right_by_neighbours=right,
    )


def part_of(count: int, accuracy: float, *, num_valid: int) -> Part:
    """Return an accuracy with so many training images, and its interval."""
    return Part(count, accuracy, interval(accuracy * num_valid, num_valid))


def expected_of_twice(budget: tuple[Part, ...], num_images: int) -> float | None:
    """Return the accuracy to expect of twice as many images: the mistakes that are left shrink by
    the same factor once more; None where the last doubling did not help.
    """
    by_count = {part.num_images: part.accuracy for part in budget}
    whole, half = by_count.get(num_images), by_count.get(round(num_images * 0.5))
    if whole is None or half is None or not half < whole < 1:
        return None
    return 1 - (1 - whole) ** 2 / (1 - half)


def accuracy_with(
    train: Features,
    valid: Features,
    count: int,
    *,
    penalty: float,
    num_classes: int,
    seed: int,
    on_fit: Callable[[int], object] = lambda _count: None,
) -> float:
    """Return the mean accuracy on the validation images of heads fitted to `count` images, which
    have their share of every class. on_fit: see `report_of`.
    """
    draws = 1 if count >= len(train) else _DRAWS
    right = 0
    for draw in range(draws):
        order = permutation(seed, "budget", epoch=draw, length=len(train))
        by_class = order[np.argsort(train.labels.numpy()[order], kind="stable")]
        rows = by_class[np.linspace(0, len(train) - 1, count).round().astype(np.int64)]
        head = train.part(rows).fitted(num_classes=num_classes, penalty=penalty)
        on_fit(1)
        right += int((head.scores(valid.views[0]).argmax(1) == valid.labels).sum())
    return right / (draws * len(valid))
