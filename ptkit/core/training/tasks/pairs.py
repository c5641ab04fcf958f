"""Pairs and triplets formed inside a batch from class labels, for the losses that compare images.

Each public function takes PyTorch's own loss, embeddings (n, D) of unit length and class indices
(n,), and returns the loss of what it forms. A batch without any gives 0.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# One of PyTorch's losses.
Criterion = Callable[..., Tensor]


def signed_pairs(criterion: Criterion, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Compare the embeddings of pairs."""
    first, second, signs = _pairs(embeddings, labels)
    return _loss(criterion, embeddings, (embeddings[first], embeddings[second], signs))


def distances_of_pairs(criterion: Criterion, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Compare the distances within pairs."""
    first, second, signs = _pairs(embeddings, labels)
    return _loss(criterion, embeddings, (_distance(embeddings, first, second), signs))


def ranked_distances(criterion: Criterion, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Compare, in each triplet, the distance to the negative with that to the positive."""
    anchors, positives, negatives = _triplets(embeddings, labels)
    farther = _distance(embeddings, anchors, negatives)
    closer = _distance(embeddings, anchors, positives)
    return _loss(criterion, embeddings, (farther, closer, torch.ones_like(closer)))


def semi_hard_triplets(criterion: Criterion, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Compare the embeddings of triplets."""
    return _loss(criterion, embeddings, [embeddings[k] for k in _triplets(embeddings, labels)])


def _loss(criterion: Criterion, embeddings: Tensor, compared: Sequence[Tensor]) -> Tensor:
    # The mean over nothing is NaN; this 0 still has a gradient.
    return criterion(*compared) if len(compared[0]) else embeddings.sum() * 0


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
    # All of them would outnumber the others by the number of classes.
    kept = unlike[distances.argsort(stable=True)[:: max(len(unlike) // max(len(alike), 1), 1)]]
    chosen = torch.cat([alike, kept])
    return first[chosen], second[chosen], same[chosen].float() * 2 - 1


def _triplets(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchor, positive and semi-hard negative (m,) of every pair of one class.

    The negative is the closest one that is farther than the positive, else the farthest of all
    (Schroff et al., "FaceNet", 2015, section 3.2).
    """
    with torch.no_grad():
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
