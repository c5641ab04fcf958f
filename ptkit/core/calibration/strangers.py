"""How strange an image is to a model: the distance of its features from those of the training
images, and how undecided the outputs are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ptkit.core.device import exact_products
from ptkit.core.errors import CheckpointError

# Of the directions in which features differ, so many are looked at one by one, the rest together.
_MOST_DIRECTIONS = 128
# The share of the mean variance that covariances are drawn towards.
_SHRINKAGE = 0.01
# Of the generalised entropy: the power, and how many of the most probable classes count.
_POWER, _MOST_CLASSES = 0.1, 100
_TINY = 1e-12
# Of the images that are known: those beyond this share are far from every class.
_NOT_FAR = 0.98
# What being far counts, beside the deviations of distance and entropy: it alone is enough.
_FAR_COUNTS = 25.0
# Of Strangers, as checkpoints have them.
TENSORS = ("mean", "basis", "class_means", "whitening", "variances")
NUMBERS = ("limit", "within_rest", "total_rest", "distance_mean", "distance_std", "entropy_mean",
           "entropy_std", "far_limit", "far_spread")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Strangers:
    """What tells images unlike the training images; what checkpoints carry as `task.unknown`.

    mean: (D,), of the training images' features, each of length 1. basis: (D, R), the directions in
    which they vary most. class_means: (K, R), in these directions. whitening: (R, R), what makes
    their covariance within the classes the identity. variances: (R,), along the directions.
    within_rest, total_rest: the variance in each of the other directions, within the classes and
    in all. distance_mean, distance_std, entropy_mean, entropy_std: over images that the model was
    not trained on; far_limit: of the distance to the nearest class, which nearly all of these stay
    below, and far_spread: how far it is above their median. limit: an image above it is a stranger.
    """

    mean: Tensor
    basis: Tensor
    class_means: Tensor
    whitening: Tensor
    variances: Tensor
    within_rest: float
    total_rest: float
    distance_mean: float = 0.0
    distance_std: float = 1.0
    entropy_mean: float = 0.0
    entropy_std: float = 1.0
    far_limit: float = float("inf")
    far_spread: float = 1.0
    limit: float = float("inf")

    def on(self, device: torch.device) -> "Strangers":
        """Return the same with its tensors on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def distances(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return two distances (n,) of features (n, D), brought to length 1: Mahalanobis' to the
        nearest class (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
        Samples and Adversarial Attacks", 2018, section 2.1), and how much larger that is than the
        one to all training images together (Ren et al., "A Simple Fix to Mahalanobis Distance for
        Improving Near-OOD Detection", 2021, section 3).

        Raises:
            CheckpointError: these are not the features that it was fitted to.
        """
        if features.shape[1] != len(self.mean):
            raise CheckpointError(
                f"task.unknown is of {len(self.mean)} features, and the model has"
                f" {features.shape[1]}: calibrate again"
            )
        # Differences of nearly equal numbers, which TF32 has no digits for.
        with exact_products(features.device):
            return self._distances(F.normalize(features.float(), dim=1) - self.mean)

    def _distances(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of features of length 1 (n, D), less the mean."""
        along = centred @ self.basis
        # Rounding may leave less than nothing.
        rest = (centred.square().sum(1) - along.square().sum(1)).clamp_min(0)
        # As differences, not by cdist's matrix product: nearly equal numbers would cancel.
        means, white = self.class_means @ self.whitening, along @ self.whitening
        by_class = torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist")
        within = by_class.amin(1).square()
        total = (along.square() / self.variances).sum(1)
        nearest = within + rest / self.within_rest
        return nearest, nearest - total - rest / self.total_rest

    def scores(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """Return how strange each image is (n,): its relative distance and the entropy of its
        probabilities (n, K), without temperature, each in standard deviations. They tell classes
        that look like the known ones; the distance itself counts for images that are far from all.
        """
        nearest, relative = self.distances(features)
        near = (relative - self.distance_mean) / self.distance_std
        undecided = (generalised_entropy(probabilities) - self.entropy_mean) / self.entropy_std
        far = ((nearest - self.far_limit) / self.far_spread).clamp_min(0)
        return near + undecided + _FAR_COUNTS * far

    def scaled(self, probabilities: Tensor, features: Tensor) -> "Strangers":
        """Return the same with the means and deviations of some images' distances and entropies."""
        nearest, relative = self.distances(features)
        undecided = generalised_entropy(probabilities)
        far_limit = float(nearest.quantile(_NOT_FAR))
        return replace(
            self,
            distance_mean=float(relative.mean()),
            distance_std=max(float(relative.std()), _TINY),
            far_limit=far_limit,
            far_spread=max(far_limit - float(nearest.median()), _TINY),
            entropy_mean=float(undecided.mean()),
            entropy_std=max(float(undecided.std()), _TINY),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds under `task.unknown`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class ToldStrangers:
    """What tells strangers of a model that says itself how strange an image is: an exported file.

    limit: as of Strangers.
    """

    limit: float

    def on(self, _device: torch.device) -> "ToldStrangers":
        """Return itself."""
        return self

    def scores(self, _probabilities: Tensor, features: Tensor) -> Tensor:
        """Return how strange each image is (n,): all that the model says of it, (n, 1)."""
        return features[:, 0]

    def as_dict(self) -> None:
        """Return what a checkpoint holds under `task.unknown`: nothing."""


def read_strangers(contents: Mapping[str, Any]) -> Strangers:
    """Return what a checkpoint carries as `task.unknown`."""
    found: dict[str, Any] = {name: contents[name].float() for name in TENSORS}
    found |= {name: float(contents[name]) for name in NUMBERS}
    return Strangers(**found)


def generalised_entropy(probabilities: Tensor) -> Tensor:
    """Return the sum over the 100 most probable classes of (p (1 - p)) ** 0.1, (n,), of
    probabilities (n, K) (Liu et al., "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution
    Detection", 2023, section 3.2).
    """
    top = probabilities.topk(min(_MOST_CLASSES, probabilities.shape[1]), dim=1).values
    # Of a probability that has rounded to 1, the others are what is left of it.
    return (top * (1 - top)).clamp_min(0).pow(_POWER).sum(1)


def fit_strangers(features: Tensor, labels: Tensor, num_classes: int) -> Strangers:
    """Fit the distance to training images: features (n, D), labels (n,). It has no limit yet.

    A class without images gets no mean: nothing is near it.
    """
    found = F.normalize(features.double(), dim=1)
    mean = found.mean(0)
    centred = found - mean
    count, width = centred.shape
    counts = torch.bincount(labels, minlength=num_classes)
    sums = centred.new_zeros(num_classes, width).index_add_(0, labels, centred)
    means = sums / counts[:, None].clamp_min(1)
    within = centred - means[labels]
    num = min(_MOST_DIRECTIONS, width)
    # Ascending.
    values, vectors = torch.linalg.eigh(centred.T @ centred / count)
    basis, variances = vectors.flip(1)[:, :num], values.flip(0)[:num].clamp_min(0)
    along = within @ basis
    covariance = along.T @ along / count
    # All variance, and what is in the directions that are not looked at one by one.
    total_within = float(within.square().sum() / count)
    total = float(centred.square().sum() / count)
    num_rest = max(width - num, 1)
    rest_within = max(total_within - float(covariance.trace()), 0.0) / num_rest
    rest = max(total - float(variances.sum()), 0.0) / num_rest
    floor_within, floor = _floor(total_within / width), _floor(total / width)
    shrunk = (1 - _SHRINKAGE) * covariance + floor_within * torch.eye(num, dtype=covariance.dtype)
    # The Cholesky factor of the inverse: |x @ whitening|² is the Mahalanobis distance.
    whitening = torch.linalg.cholesky(torch.linalg.inv(shrunk))
    return Strangers(
        mean=mean.float(),
        basis=basis.float(),
        class_means=(means @ basis)[counts > 0].float(),
        whitening=whitening.float(),
        variances=((1 - _SHRINKAGE) * variances + floor).float(),
        within_rest=(1 - _SHRINKAGE) * rest_within + floor_within,
        total_rest=(1 - _SHRINKAGE) * rest + floor,
    )


def _floor(mean_variance: float) -> float:
    """Return what is added to each variance, so that none is nothing."""
    return max(_SHRINKAGE * mean_variance, _TINY)
