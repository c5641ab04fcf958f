"""Metrics of each kind of task, against scikit-learn's or written out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    r2_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.data.lists import list_of
from ptkit.core.errors import UsageError
from ptkit.core.training.tasks.task import (
    EMBEDDING,
    METRICS,
    SCORES,
    Task,
    check_metric,
    metrics_for,
)


def metrics_of(
    task: Task,
    num_classes: int,
    *batches: tuple[torch.Tensor, torch.Tensor],
    also: tuple[str, ...] = (),
) -> dict[str, float]:
    score = SCORES[task.kind](task, num_classes, also)
    for outputs, labels in batches:
        score.add(outputs, labels)
    return score.metrics()


def test_accuracy_counts_every_image_once() -> None:
    first = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])
    second = torch.tensor([[0.0, 3.0]]), torch.tensor([1])
    assert metrics_of(Task(SINGLE, "softmax"), 2, first, second) == {
        "accuracy": pytest.approx(2 / 3)
    }


# Rounded to whole numbers, many outputs are equal.
@pytest.mark.parametrize("digits", [0, 3])
def test_the_metrics_of_one_class_an_image_are_scikit_learns(digits: int) -> None:
    rng = np.random.default_rng(0)
    labels = torch.arange(90) % 9
    outputs = torch.from_numpy(rng.normal(size=(90, 9)).astype(np.float32).round(digits))
    batches = zip(outputs.split(40), labels.split(40), strict=True)
    found = metrics_of(Task(SINGLE, "softmax"), 9, *batches, also=tuple(METRICS[SINGLE]))
    probabilities, answers = outputs.softmax(1).numpy(), outputs.argmax(1)
    assert found == {
        "accuracy": pytest.approx(accuracy_score(labels, answers)),
        "macro_f1": pytest.approx(f1_score(labels, answers, average="macro")),
        "balanced_accuracy": pytest.approx(balanced_accuracy_score(labels, answers)),
        "auroc": pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-7),
        "top5": pytest.approx(top_k_accuracy_score(labels, probabilities, k=5)),
    }


def test_only_what_is_asked_for_is_computed_and_kept() -> None:
    score = SCORES[SINGLE](Task(SINGLE, "softmax"), 9, ("auto", "loss", "top5"))
    score.add(torch.eye(9), torch.arange(9))
    assert score.metrics() == {"accuracy": 1.0, "top5": 1.0}
    assert score._kept.keys() == {"labels", "answers", "top5"}


def test_ignored_classes_count_in_no_metric() -> None:
    task = Task(SINGLE, "softmax", counted=torch.tensor([True, False, True, True, True, True]))
    labels = torch.tensor([0, 1, 2, 1])
    outputs = torch.eye(6)[[0, 5, 3, 5]]
    every = tuple(METRICS[SINGLE])
    without = metrics_of(Task(SINGLE, "softmax"), 6, (outputs[::2], labels[::2]), also=every)
    assert metrics_of(task, 6, (outputs, labels), also=every) == without


def test_a_list_has_the_metrics_that_it_can_have() -> None:
    task = Task(SINGLE, "softmax")
    of_one = replace(list_of(["a", "b"], ("x", "y")), labels=np.array([1, 1]))
    assert list(metrics_for(task, of_one)) == ["accuracy", "macro_f1", "balanced_accuracy"]
    of_six = replace(list_of(["a", "b"], tuple("uvwxyz")), labels=np.array([0, 5]))
    assert metrics_for(task, of_six) == METRICS[SINGLE]


def test_several_labels_have_mean_average_precision_and_micro_averages() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((50, 4)) < 0.4
    # Rounded, so that some images have the same probability.
    outputs = np.round(rng.normal(size=(50, 4)) + truth, 1).astype(np.float32)
    found = metrics_of(
        Task(MULTI, "sigmoid"), 4, (torch.from_numpy(outputs), torch.from_numpy(truth))
    )
    assert found["map"] == pytest.approx(average_precision_score(truth, outputs, average="macro"))
    assert found["f1"] == pytest.approx(f1_score(truth, outputs >= 0, average="micro"))


def test_a_class_without_images_does_not_count_in_the_mean() -> None:
    truth = torch.tensor([[True, False], [False, False]])
    found = metrics_of(Task(MULTI, "sigmoid"), 2, (torch.tensor([[2.0, 1.0], [1.0, 1.0]]), truth))
    assert found["map"] == 1.0


def test_numbers_have_errors_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 2)).astype(np.float32)
    outputs = truth + rng.normal(size=(30, 2)).astype(np.float32) / 4
    task = Task(
        REGRESSION, "number", scale=torch.tensor([10.0, 2.0]), shift=torch.tensor([50.0, 0.0])
    )
    labels = truth * np.array([10, 2], np.float32) + np.array([50, 0], np.float32)
    found = metrics_of(task, 2, (torch.from_numpy(outputs), torch.from_numpy(labels)))
    error = outputs * [10, 2] + [50, 0] - labels
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-5)
    assert found["r2"] == pytest.approx(r2_score(labels, outputs * [10, 2] + [50, 0]), rel=1e-5)


def test_an_embedding_is_classified_by_its_neighbours_without_itself() -> None:
    # Seven at one place and two at another; one of the seven is of the second class.
    places = torch.tensor([[1.0, 0.01 * k] for k in range(7)] + [[0.0, 1.0], [0.02, 1.0]])
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 1])
    found = metrics_of(Task(EMBEDDING, "nearest"), 2, (places, labels))
    # Class 1 has three images, so two neighbours vote. The two that lie together are right, of the
    # seven all but the odd one; of those beside it one on each side may have it as the nearest.
    assert found["accuracy"] >= 6 / 9
    assert 6 / 9 <= found["recall_at_1"] <= 8 / 9


def test_a_metric_of_other_labels_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"train\.metric must be one of loss, mae, rmse, r2 for these labels, found .accu",
    ):
        check_metric("accuracy", METRICS[REGRESSION], setting="train.metric")
    assert set(METRICS) == {SINGLE, MULTI, REGRESSION, EMBEDDING}


def test_a_class_of_three_that_lies_together_is_not_outvoted() -> None:
    places = torch.tensor(
        [[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0], [0.02, 1.0]]
    )
    found = metrics_of(Task(EMBEDDING, "nearest"), 2, (places, torch.tensor([0, 0, 0, 1, 1, 1])))
    assert found == {"accuracy": 1.0, "recall_at_1": 1.0}


def test_at_most_five_neighbours_vote() -> None:
    # Class 0 lies in two heaps of six, class 1 in one of twelve: with more voters it would win
    # everywhere.
    places = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, -1.0]] * 6 + [[0.8, -0.8]] * 12)
    labels = torch.tensor([0] * 12 + [1] * 12)
    assert metrics_of(Task(EMBEDDING, "nearest"), 2, (places, labels))["accuracy"] == 1.0


def test_embeddings_are_compared_by_their_direction() -> None:
    places = torch.tensor([[1.0, 0.0], [100.0, 0.0], [0.0, 1.0], [0.0, 100.0]])
    found = metrics_of(Task(EMBEDDING, "nearest"), 2, (places, torch.tensor([0, 0, 1, 1])))
    assert found == {"accuracy": 1.0, "recall_at_1": 1.0}


def test_no_image_is_its_own_neighbour_however_many_there_are() -> None:
    # Couples of two classes round a circle: the nearest other image always is of the other class.
    couples = torch.arange(550) * (2 * torch.pi / 550)
    angles = torch.stack([couples, couples + 0.003], dim=1).flatten()
    places, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(1100) % 2
    assert metrics_of(Task(EMBEDDING, "nearest"), 2, (places, labels))["recall_at_1"] == 0.0


def test_the_chances_of_an_embedding_fall_with_the_distance_on_the_sphere() -> None:
    task = Task(EMBEDDING, "nearest", class_means=torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    expected = torch.softmax(-torch.tensor([[0.0, 0.4**0.5]]) / 0.1, dim=1)
    torch.testing.assert_close(task.values(torch.tensor([[7.0, 0.0]])), expected)


def test_numbers_that_are_all_the_same_have_no_r2() -> None:
    truth = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    found = metrics_of(Task(REGRESSION, "number"), 2, (truth + torch.tensor([0.0, 1.0]), truth))
    assert found == {"mae": 0.5, "rmse": pytest.approx(0.5**0.5), "r2": 0.5}


def test_precision_and_recall_are_of_all_classes_together() -> None:
    truth = torch.tensor([[True, True], [False, True], [False, True]])
    outputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    found = metrics_of(Task(MULTI, "sigmoid"), 2, (outputs, truth))
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 4))


def test_a_probability_that_is_the_threshold_is_enough():
    outputs = torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    several = Task("multi-label", "sigmoid")
    assert several.answers(outputs).tolist() == [[True, True], [False, True]]
    half = torch.full((2,), 0.5)
    assert Task("single-label", "softmax", thresholds=half).is_unknown(outputs).tolist() == [
        False, False,
    ]  # fmt: skip
