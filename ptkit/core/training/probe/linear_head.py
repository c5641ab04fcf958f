"""A linear head on fixed features, fitted exactly: multinomial logistic regression.

The loss is the mean cross-entropy plus penalty / 2 times the squared weights, of features that were
brought to mean 0 and standard deviation 1 (Hastie, Tibshirani and Friedman, "The Elements of
Statistical Learning", 2009, section 4.4.1). It is convex: L-BFGS finds its one minimum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.data.keyed import permutation
from ptkit.core.shares import share_text

NUM_FOLDS = 5
# From nearly free weights to nearly none.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MOST_STEPS = 200


@dataclass(frozen=True)
class Head:
    """Scores are features @ weight.T + bias. weight: (K, D). bias: (K,)."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Return scores (n, K) of features (n, D)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class Chosen:
    """A penalty, and what heads with it did on the parts of the training images left out.

    loss: mean cross-entropy. num_right: of all num_images, each of which was left out once.
    """

    penalty: float
    loss: float
    num_right: int
    num_images: int

    @property
    def order(self) -> tuple[int, float]:
        """The smaller the better: by right answers, then by loss."""
        return -self.num_right, self.loss

    @property
    def line(self) -> str:
        """It in words."""
        right = share_text(self.num_right, self.num_images)
        # A fold needs an image.
        how = "five-fold cross-validation" if self.num_images >= 5 else "cross-validation"
        return f"head: penalty {self.penalty:g}; {right} right in {how}"


def fit_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    penalty: float,
    start: Head | None = None,
) -> Head:
    """Return the head that minimises the penalised loss.

    features: (n, D). labels: (n,) classes. start: a head of the same features, from where the
    minimum is near.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    scaled = (features - mean) / std
    weight = features.new_zeros(num_classes, features.shape[1])
    bias = features.new_zeros(num_classes)
    if start is not None:
        weight, bias = start.weight * std, start.bias + start.weight @ mean
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(scaled, weight, bias), labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # The scaling becomes part of the head, which then takes features as they are.
    plain = weight.detach() / std
    return Head(plain, bias.detach() - plain @ mean)


def choose_penalty(
    views: Sequence[Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    seed: int,
    num_folds: int = NUM_FOLDS,
    penalties: Sequence[float] = PENALTIES,
    on_fit: Callable[[int], object] = lambda _count: None,
) -> Chosen:
    """Return the penalty with the smallest loss in stratified cross-validation.

    views: features (n, D) of the images, and of their mirror images, if these are used; all views
    of an image are in one fold, and their scores are averaged. on_fit: called with 1 for each head.
    """
    folds = stratified_folds(labels.numpy(), num_folds, seed=seed)
    losses = dict.fromkeys(penalties, 0.0)
    num_right = dict.fromkeys(penalties, 0)
    for fold in range(num_folds):
        left_out = torch.from_numpy(folds == fold)
        if not left_out.any():
            continue
        train = torch.cat([view[~left_out] for view in views])
        targets, truth = labels[~left_out].repeat(len(views)), labels[left_out]
        head: Head | None = None
        # From the largest down: each minimum is near the one before.
        for penalty in sorted(penalties, reverse=True):
            head = fit_head(train, targets, num_classes=num_classes, penalty=penalty, start=head)
            on_fit(1)
            scores = torch.stack([head.scores(view[left_out]) for view in views]).mean(0)
            losses[penalty] += F.cross_entropy(scores, truth, reduction="sum").item()
            num_right[penalty] += int((scores.argmax(1) == truth).sum())
    best = min(penalties, key=lambda penalty: (losses[penalty], -penalty))
    return Chosen(best, losses[best] / len(labels), num_right[best], len(labels))


def stratified_folds(
    labels: npt.NDArray[np.int64], num_folds: int, *, seed: int
) -> npt.NDArray[np.int64]:
    """Return the fold (n,) of each image: each fold has its share of every class."""
    order = permutation(seed, "folds", epoch=0, length=len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % num_folds
    return folds
