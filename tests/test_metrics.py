import numpy as np

from ptkit.core.training.tasks.metrics import accuracy, confusion_matrix, per_class

LABELS, PREDICTED = [0, 0, 1, 1, 1, 3], [0, 1, 1, 1, 0, 3]
MATRIX = [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_rows_are_true_and_columns_predicted() -> None:
    assert confusion_matrix(LABELS, PREDICTED, 4).tolist() == MATRIX


def test_accuracy_is_the_share_on_the_diagonal() -> None:
    assert accuracy(np.array(MATRIX)) == 4 / 6


def test_a_class_without_images_has_no_recall_and_does_not_hurt_the_others() -> None:
    found = per_class(np.array(MATRIX))
    assert found["recall"][[0, 1, 3]].tolist() == [1 / 2, 2 / 3, 1]
    assert found["precision"][[0, 1, 3]].tolist() == [1 / 2, 2 / 3, 1]
    assert np.isnan([found["recall"][2], found["precision"][2], found["f1"][2]]).all()
    assert found["support"].tolist() == [2, 3, 0, 1]
