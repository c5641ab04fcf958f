"""What a loss is for a model that looks at no image."""

import torch
from torch import Tensor, nn

from ptkit.core.data.labels import SINGLE
from ptkit.core.training.tasks.loss import Loss


def guessing_loss(loss: Loss, *, is_balanced: bool, is_mixed: bool = False) -> float | None:
    """Return the mean cross-entropy of the best answer that is the same for every training image.

    Without weights and smoothing it is the entropy of the classes' shares, ln K where these are
    equal. In general: of targets that add up to q over the classes, the least of -Σ q log p, at
    p = q / Σ q. None for other losses, and for sums.

    is_balanced: classes are drawn equally often. is_mixed: MixUp or CutMix mix the images, whose
    mean is over images whatever their classes weigh.
    """
    criterion = loss.criterion
    is_entropy = type(criterion) in (nn.CrossEntropyLoss, nn.NLLLoss)
    if not is_entropy or loss.is_sum or loss.facts.kind != SINGLE:
        return None
    counts = loss.facts.counts.double()
    if is_balanced:
        counts = (counts > 0).double()
    weights = torch.ones(len(counts)) if loss.class_weights is None else loss.class_weights
    weights = weights.to(counts)
    smoothing = getattr(criterion, "label_smoothing", 0.0)
    # As torch has it: smoothing gives every image of a class that counts the weights of all.
    spread = counts[weights > 0].sum() * weights / len(counts)
    over = counts[weights > 0] if is_mixed else weights * counts
    target = ((1 - smoothing) * weights * counts + smoothing * spread) / over.sum()
    return float(target.sum()) * _entropy(target / target.sum())


def _entropy(shares: Tensor) -> float:
    return -float(torch.special.xlogy(shares, shares).sum())
