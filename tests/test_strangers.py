"""The distance of features, and the entropy of outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ptkit.core.calibration.strangers import (
    fit_strangers,
    generalised_entropy,
    read_strangers,
)
from ptkit.core.errors import CheckpointError
from ptkit.core.training.tasks.metrics import areas_under_roc


@pytest.fixture
def features():
    """Features (n, 20) around three places in half of their directions, and the classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    places = 3 * F.one_hot(labels, 20).float()
    spread = torch.linspace(0.1, 1, 20)
    return places + spread * torch.randn(300, 20, generator=generator), labels


def test_distances_are_those_of_the_textbook(features):
    rows, labels = features
    found = F.normalize(rows.double(), dim=1).numpy()
    mean = found.mean(0)
    means = np.stack([found[labels == k].mean(0) for k in range(3)])
    within, total = found - means[labels], found - mean

    def shrunk(parts):
        covariance = parts.T @ parts / len(parts)
        return 0.99 * covariance + 0.01 * np.trace(covariance) / 20 * np.eye(20)

    def squared(parts, covariance):
        return np.einsum("nd,de,ne->n", parts, np.linalg.inv(covariance), parts)

    expected = np.min([squared(found - each, shrunk(within)) for each in means], axis=0)
    nearest, relative = fit_strangers(rows, labels, 3).distances(rows)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(nearest, expected, **close)
    np.testing.assert_allclose(relative, expected - squared(total, shrunk(total)), **close)


def test_another_class_is_told_from_the_known_ones(features):
    rows, labels = features
    strange = 3 * F.one_hot(torch.full((100,), 5), 20) + 0.3 * torch.ones(100, 20)
    fitted = fit_strangers(rows[:200], labels[:200], 3)
    scores = torch.cat([fitted.distances(each)[1] for each in (rows[200:], strange)])
    truth = np.repeat([0, 1], 100)
    probabilities = np.stack([-scores.numpy(), scores.numpy()], axis=1).astype(np.float32)
    area = areas_under_roc(truth, probabilities)[1]
    assert area > 0.95
    metrics = pytest.importorskip("sklearn.metrics")
    assert area == pytest.approx(metrics.roc_auc_score(truth, scores.numpy()))


def test_more_features_than_images_and_a_class_without_images_are_no_obstacle():
    rows = torch.randn(30, 200, generator=torch.Generator().manual_seed(1))
    found = fit_strangers(rows, torch.arange(30) % 2, 3)
    assert len(found.class_means) == 2
    assert all(bool(each.isfinite().all()) for each in found.distances(rows))


def test_what_is_far_from_everything_is_strange_however_sure_the_answer(features):
    rows, labels = features
    sure = torch.tensor([[1.0, 0.0, 0.0]])
    found = fit_strangers(rows, labels, 3).scaled(torch.softmax(rows[:, :3], 1), rows)
    far = -F.one_hot(torch.tensor([0]), 20).float()
    score = found.scores(sure, far)
    known = found.scores(torch.softmax(rows[:, :3], 1), rows)
    assert float(score) > float(known.max())


def test_the_entropy_is_least_where_one_class_is_sure():
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]])
    sure, nearly, undecided = generalised_entropy(probabilities).tolist()
    assert sure == 0 < nearly < undecided
    assert undecided == pytest.approx(3 * (2 / 9) ** 0.1)


def test_a_checkpoint_gives_the_same_scores_back(features):
    rows, labels = features
    probabilities = torch.softmax(rows[:, :3], dim=1)
    found = replace(fit_strangers(rows, labels, 3).scaled(probabilities, rows), limit=1.5)
    again = read_strangers(found.as_dict())
    assert torch.equal(again.scores(probabilities, rows), found.scores(probabilities, rows))
    assert again.limit == 1.5


def test_features_of_another_model_are_refused(features):
    found = fit_strangers(*features, 3)
    with pytest.raises(CheckpointError, match="of 20 features, and the model has 7"):
        found.distances(torch.ones(2, 7))
