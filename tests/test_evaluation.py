from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ptkit.core.data.lists import list_of
from ptkit.core.errors import CheckpointError, DataError
from ptkit.core.models.weights import Weights
from ptkit.looking.evaluation import (
    ConfusedPair,
    Evaluation,
    evaluate_list,
    mistakes_of,
    most_confused,
    read_matching_list,
    worst_mistakes,
)
from ptkit.looking.subject import Subject, load_subject

from example_run import CLASSES, write_images, write_run  # isort: skip
from ptkit.core.data.labels import SINGLE
from ptkit.core.shares import interval
from ptkit.core.training.tasks.metrics import Majority
from ptkit.core.training.tasks.task import Task

SOFTMAX = Task(SINGLE, "softmax")


def evaluation_of(labels, probabilities):
    names = tuple("abc"[: probabilities.shape[1]])
    images = replace(list_of(["x.png"] * len(labels), names), labels=np.array(labels))
    return Evaluation(images, names, probabilities, probabilities.argmax(axis=1))


class Brightness(nn.Module):
    """Scores for dark, middle and bright images."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return -((mean[:, None] - torch.tensor([0.0, 0.5, 1.0])) ** 2) * 10


@pytest.fixture
def evaluate_grey(tmp_path):
    def evaluate(levels, labels, class_names=CLASSES):
        lines = []
        for k, (level, label) in enumerate(zip(levels, labels, strict=True)):
            Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(tmp_path / f"{k}.png")
            lines.append(f"{k}.png {label}\n")
        (tmp_path / "list.txt").write_text("".join(lines))
        weights = Weights(
            state_dict={},
            path=Path("w.pt"),
            source="w.pt",
            class_names=class_names,
            pipeline=("Resize((4, 4))", "ToTensor()"),
        )
        subject = Subject(weights, Brightness(), class_names, SOFTMAX)
        return evaluate_list(subject, tmp_path / "list.txt")

    return evaluate


@pytest.fixture
def evaluation():
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]],
        np.float32,
    )
    return evaluation_of([0, 1, 1, 2, 0], probabilities)


def test_answers_are_in_the_lists_order(evaluate_grey):
    found = evaluate_grey([0, 255, 128, 10, 250], [0, 2, 1, 1, 2])
    assert found.answers.tolist() == [0, 2, 1, 0, 2]
    assert found.labels.tolist() == [0, 2, 1, 1, 2]
    assert found.matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert found.accuracy == 0.8
    assert found.accuracy_interval == interval(4, 5)
    assert found.majority == Majority("green", 0.4)
    assert found.recall_intervals() == [interval(1, 1), interval(1, 2), interval(2, 2)]


def test_probabilities_are_float32_and_sum_to_one(evaluate_grey):
    found = evaluate_grey([0, 128, 255], [0, 1, 2])
    assert found.probabilities.dtype == np.float32
    assert found.probabilities.shape == (3, 3)
    assert np.allclose(found.probabilities.sum(axis=1), 1)


def test_a_model_with_another_number_of_scores_is_an_error(evaluate_grey):
    with pytest.raises(CheckpointError, match="expected 5"):
        evaluate_grey([0, 128, 255], [0, 1, 2], class_names=tuple("abcde"))


def test_most_confused_pairs_come_by_count_and_then_by_share():
    matrix = np.array([[90, 5, 5], [5, 5, 0], [0, 7, 3]])
    assert most_confused(matrix, 3) == [
        ConfusedPair(2, 1, 7, 0.7),
        ConfusedPair(1, 0, 5, 0.5),
        ConfusedPair(0, 1, 5, 0.05),
    ]
    assert most_confused(np.diag([3, 4]), 3) == []


def test_worst_mistakes_have_the_smallest_probability_of_the_true_class(evaluation):
    assert worst_mistakes(evaluation).tolist() == [2, 3, 4, 1]


def test_mistakes_of_a_pair_are_its_images_the_surest_first(evaluation):
    pair = most_confused(evaluation.matrix, 1)[0]
    assert (pair.true, pair.predicted, pair.count, pair.share) == (1, 0, 2, 1.0)
    assert mistakes_of(evaluation, pair, 9).tolist() == [2, 1]


def test_rates_of_a_class_without_images_are_nan(evaluation):
    assert np.isnan(
        evaluation_of([0], np.array([[0.9, 0.1]], np.float32)).per_class["recall"]
    ).tolist() == [
        False,
        True,
    ]


@pytest.fixture
def subject(tmp_path):
    write_run(tmp_path)
    write_images(tmp_path)
    return load_subject(tmp_path / "ckpt.pkl")


def test_a_list_of_the_same_classes_is_read(tmp_path, subject):
    images, names = read_matching_list(tmp_path / "test.txt", subject)
    assert len(images) == 12
    assert names == ("blue", "green", "red")


def test_a_list_without_names_takes_those_of_the_checkpoint(tmp_path, subject):
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "test.txt").write_text("images/blue/0.png 0\n")
    assert read_matching_list(tmp_path / "test.txt", subject)[1] == ("blue", "green", "red")


def test_other_class_names_beside_the_list_are_an_error(tmp_path, subject):
    (tmp_path / "classes.txt").write_text("blue\nyellow\nred\n")
    with pytest.raises(
        DataError, match=r"class 1 is 'yellow' in .*classes.txt but 'green' in .*ckpt.pkl"
    ):
        read_matching_list(tmp_path / "test.txt", subject)


def test_another_number_of_classes_beside_the_list_is_an_error(tmp_path, subject):
    (tmp_path / "classes.txt").write_text("blue\ngreen\nred\nviolet\n")
    with pytest.raises(DataError, match=r"classes.txt has 4 classes, but .*ckpt.pkl knows 3"):
        read_matching_list(tmp_path / "test.txt", subject)


def test_labels_beyond_the_checkpoints_classes_are_an_error(tmp_path, subject):
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "test.txt").write_text("images/blue/0.png 5\n")
    with pytest.raises(DataError, match=r"has label 5, but .* knows the classes 0 to 2"):
        read_matching_list(tmp_path / "test.txt", subject)


def test_a_row_a_class_has_its_rates_and_none_where_unknown(evaluation):
    assert evaluation.rates == ("precision", "recall", "f1")
    assert evaluation.class_rows()[1:] == [("b", 0.0, 0.0, 0.0, 2), ("c", None, 0.0, 0.0, 1)]
    assert evaluation.as_dict()["precision"][2] is None


def test_a_list_is_evaluated_from_python_as_by_the_command(tmp_path, subject):
    found = evaluate_list(subject, tmp_path / "test.txt")
    assert found.class_names == ("blue", "green", "red")
    assert found.matrix.sum() == 12
    assert list(found.metrics) == ["accuracy", "macro_f1", "balanced_accuracy", "auroc"]
