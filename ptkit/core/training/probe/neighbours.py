"""Nearest neighbours on fixed features: what they say without a head being fitted."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.training.probe.features import Features

# Of the votes: at 0.07 a neighbour at cosine 0.9 counts four times one at 0.8.
_TEMPERATURE = 0.07
_BLOCK = 1024


def neighbours_vote(
    train: Features, images: Tensor, *, num_neighbours: int, num_classes: int
) -> Tensor:
    """Return the class (n,) that the nearest training images of each image vote for.

    images: features (n, D). Near is the cosine of the features, of a training image and its mirror
    image the larger, and a neighbour's vote counts exp(cosine / 0.07) (Wu et al., "Unsupervised
    Feature Learning via Non-Parametric Instance Discrimination", 2018, section 3.4). Where there
    are fewer training images, all vote.
    """
    known = [F.normalize(view, dim=1).T for view in train.views]
    answers = []
    for block in F.normalize(images, dim=1).split(_BLOCK):
        cosines = torch.stack([block @ view for view in known]).amax(dim=0)
        near = cosines.topk(min(num_neighbours, len(train)), dim=1)
        votes = torch.zeros(len(block), num_classes)
        votes.scatter_add_(1, train.labels[near.indices], (near.values / _TEMPERATURE).exp())
        answers.append(votes.argmax(dim=1))
    return torch.cat(answers)
