"""Counts to numbers, against scikit-learn's or written out by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

from ptkit.core.shares import interval, share_text
from ptkit.core.training.tasks.metrics import (
    Majority,
    areas_under_roc,
    class_metrics,
    confusion_matrix,
    counts_of_classes,
    majority_of,
    mean_of_known,
    per_class,
)

LABELS, PREDICTED = [0, 0, 1, 1, 1, 3], [0, 1, 1, 1, 0, 3]
MATRIX = [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_rows_are_true_and_columns_predicted() -> None:
    assert confusion_matrix(LABELS, PREDICTED, 4).tolist() == MATRIX


def test_counts_of_classes_are_those_of_the_matrix() -> None:
    assert counts_of_classes(LABELS, PREDICTED, 4).tolist() == [
        [1, 1, 1],
        [2, 1, 1],
        [0, 0, 0],
        [1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        (LABELS, PREDICTED),
        # Class 2 is answered but true of no image; class 3 is neither.
        ([0, 0, 1, 1], [0, 2, 1, 0]),
        # Nothing is right.
        ([0, 1, 2], [1, 2, 0]),
    ],
)
# It warns of answers that are true of no image, as in the second case.
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_the_metrics_of_classes_are_scikit_learns(labels: list[int], answers: list[int]) -> None:
    assert class_metrics(counts_of_classes(labels, answers, 4)) == {
        "accuracy": pytest.approx(accuracy_score(labels, answers)),
        "macro_f1": pytest.approx(f1_score(labels, answers, average="macro")),
        "balanced_accuracy": pytest.approx(balanced_accuracy_score(labels, answers)),
    }


# More classes than are looked at together; and two, of which scikit-learn takes one probability.
@pytest.mark.parametrize("num_classes", [2, 3, 40])
@pytest.mark.parametrize("digits", [1, 6])
def test_areas_under_roc_are_scikit_learns_also_of_equal_probabilities(
    num_classes: int, digits: int
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % num_classes
    probabilities = rng.dirichlet(np.ones(num_classes), 400).astype(np.float32).round(digits)
    probabilities[np.arange(400), labels] += 0.1 * rng.random(400).round(digits)
    expected = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(num_classes)]
    assert areas_under_roc(labels, probabilities) == pytest.approx(expected, abs=1e-12)
    shares = np.float64(probabilities) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    macro = roc_auc_score(labels, shares[:, 1] if num_classes == 2 else shares, multi_class="ovr")
    assert mean_of_known(areas_under_roc(labels, shares)) == pytest.approx(macro, abs=1e-12)


def test_a_class_of_no_image_or_of_all_has_no_area() -> None:
    probabilities = np.array([[0.7, 0.3, 0.0], [0.4, 0.6, 0.0]], np.float32)
    np.testing.assert_equal(areas_under_roc(np.array([0, 1]), probabilities), [1.0, 1.0, np.nan])
    assert np.isnan(areas_under_roc(np.array([1, 1]), probabilities)).all()


@pytest.mark.parametrize(("right", "total"), [(0, 5), (147, 153), (98, 98), (1, 2)])
def test_an_interval_is_wilsons(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(interval(right, total), tuple(expected), atol=1e-12)


def test_a_share_is_written_as_finely_as_its_images_allow() -> None:
    assert share_text(147, 153) == "96.1% (91.7 to 98.2%)"
    assert share_text(9_531, 10_000) == "95.31% (94.88 to 95.71%)"


def test_the_majority_is_the_first_of_the_most_frequent_classes() -> None:
    assert majority_of(np.array([2, 1, 1, 2, 0]), ("ant", "bee", "fly")) == Majority("bee", 0.4)
    assert str(Majority("bee", 0.4)) == 'always "bee" 40.0%'


def test_a_class_without_images_has_no_recall_and_does_not_hurt_the_others() -> None:
    found = per_class(np.array(MATRIX))
    assert found["recall"][[0, 1, 3]].tolist() == [1 / 2, 2 / 3, 1]
    assert found["precision"][[0, 1, 3]].tolist() == [1 / 2, 2 / 3, 1]
    assert np.isnan([found["recall"][2], found["precision"][2], found["f1"][2]]).all()
    assert found["support"].tolist() == [2, 3, 0, 1]
