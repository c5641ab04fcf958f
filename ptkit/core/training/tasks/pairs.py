"""Pairs and triplets formed from class labels, for the losses that compare images.

Each function that forms them takes embeddings (n, D) of unit length and class indices (n,), and
returns what PyTorch's own loss takes. Each that counts them takes how many images each class has.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptkit.core.device import exact_products


@dataclass(frozen=True)
class Pairing:
    """form: what a loss compares. count: how many, known from the labels before it is formed."""

    form: Callable[[Tensor, Tensor], Sequence[Tensor]]
    count: Callable[[Sequence[int]], int]


def signed_pairs(embeddings: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """Return the embeddings of pairs, and their signs."""
    first, second, signs = _pairs(embeddings, labels)
    return embeddings[first], embeddings[second], signs


def distances_of_pairs(embeddings: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """Return the distances within pairs, and their signs."""
    first, second, signs = _pairs(embeddings, labels)
    return _distance(embeddings, first, second), signs


def ranked_distances(embeddings: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """Return, of each triplet, the distances to the negative and to the positive."""
    anchors, positives, negatives = _triplets(embeddings, labels)
    closer = _distance(embeddings, anchors, positives)
    return _distance(embeddings, anchors, negatives), closer, torch.ones_like(closer)


def semi_hard_triplets(embeddings: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """Return the embeddings of triplets."""
    return [embeddings[k] for k in _triplets(embeddings, labels)]


def num_pairs(per_class: Sequence[int]) -> int:
    """Return how many pairs `_pairs` forms."""
    alike = sum(count * (count - 1) // 2 for count in per_class)
    unlike = math.comb(sum(per_class), 2) - alike
    return alike + -(-unlike // _stride(alike, unlike))


def num_triplets(per_class: Sequence[int]) -> int:
    """Return how many triplets `_triplets` forms."""
    num_images = sum(per_class)
    return sum(count * (count - 1) for count in per_class if count < num_images)


def _pairs(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both ends (m,) of all pairs of one class and about as many of two, and their signs.

    Of the pairs of two classes every k-th is taken, in order of distance: near ones only would pull
    everything into one point.
    """
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    same = labels[first] == labels[second]
    alike, unlike = same.nonzero()[:, 0], (~same).nonzero()[:, 0]
    with torch.no_grad():
        distances = (embeddings[first[unlike]] - embeddings[second[unlike]]).square().sum(1)
    kept = unlike[distances.argsort(stable=True)[:: _stride(len(alike), len(unlike))]]
    chosen = torch.cat([alike, kept])
    return first[chosen], second[chosen], same[chosen].float() * 2 - 1


def _stride(num_alike: int, num_unlike: int) -> int:
    # All pairs of two classes would outnumber the others by the number of classes.
    return max(num_unlike // max(num_alike, 1), 1)


def _triplets(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchor, positive and semi-hard negative (m,) of every pair of one class.

    The negative is the closest one that is farther than the positive, else the farthest of all
    (Schroff et al., "FaceNet", 2015, section 3.2).
    """
    with torch.no_grad():
        with exact_products(embeddings.device):
            distances = torch.cdist(embeddings, embeddings)
        same = labels[:, None] == labels[None, :]
        to_negatives, order = distances.masked_fill(same, torch.inf).sort(dim=1, stable=True)
        num_negatives = (~same).sum(dim=1, keepdim=True)
        # Of every image and every other: how many negatives are not farther than it.
        place = torch.searchsorted(to_negatives, distances, right=True)
        negatives = order.gather(1, torch.minimum(place, num_negatives - 1).clamp_min(0))
        is_self = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        anchors, positives = (same & ~is_self & (num_negatives > 0)).nonzero().T
    return anchors, positives, negatives[anchors, positives]


def _distance(embeddings: Tensor, first: Tensor, second: Tensor) -> Tensor:
    # The root's slope at 0 is infinite.
    return (embeddings[first] - embeddings[second]).square().sum(1).clamp_min(1e-12).sqrt()
