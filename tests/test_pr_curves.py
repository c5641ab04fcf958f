import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from ptkit.plots.pr_curves import MAX_PANELS, micro_counts, pr_figure, precision_recall


@pytest.fixture
def random():
    return np.random.default_rng(0)


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("decimals", [1, 8])
def test_curve_and_average_precision_are_those_of_scikit_learn(random, decimals):
    truth = random.random(200) < 0.3
    scores = np.round(0.4 * truth + 0.6 * random.random(200), decimals)
    curve = precision_recall(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores)
    np.testing.assert_allclose(curve.recall[1:], recall[:-1][::-1])
    np.testing.assert_allclose(curve.precision[1:], precision[:-1][::-1])
    assert curve.ap == pytest.approx(average_precision_score(truth, scores))
    assert curve.prevalence == truth.mean()


def test_micro_counts_add_up_over_all_classes(random):
    truth, scores = random.random((50, 4)) < 0.4, random.random((50, 4))
    counts = micro_counts(truth, scores, num_thresholds=11)
    thresholds = np.linspace(0, 1, 11) - 1e-9
    expected = [int((truth & (scores >= threshold)).sum()) for threshold in thresholds]
    assert counts["tp"].tolist() == expected
    assert (counts["tp"] + counts["fn"] == truth.sum()).all()
    assert (counts["fp"] + counts["tn"] == (~truth).sum()).all()
    assert counts["fn"][0] == counts["tn"][0] == 0


def test_the_figure_names_mean_and_lowest_average_precision(random):
    truth = np.eye(3, dtype=bool)[np.arange(30) % 3]
    scores = truth + 0.0
    scores[:, 1] = random.random(30)
    lowest = average_precision_score(truth[:, 1], scores[:, 1])
    drawn = texts(pr_figure(truth, scores, class_names=["ant", "bee", "cat"], footer="valid.txt"))
    assert f"mean average precision {(2 + lowest) / 3:.3f}, lowest {lowest:.3f} for “bee”" in drawn
    assert f"AP {average_precision_score(truth.ravel(), scores.ravel()):.3f}" in drawn
    assert "valid.txt" in drawn


def test_prevalence_is_drawn_in_every_panel(random):
    truth = np.zeros((20, 2), bool)
    truth[:5, 0] = truth[5:, 1] = True
    figure = pr_figure(truth, random.random((20, 2)), class_names=["few", "many"])
    assert [axes.lines[0].get_ydata()[0] for axes in figure.axes] == [0.5, 0.25, 0.75]


def test_of_many_classes_the_worst_are_drawn_and_it_is_said(random):
    labels = np.arange(120) % 40
    truth = np.eye(41, dtype=bool)[labels]
    scores = np.where(truth, 0.5, random.random((120, 41)) * np.linspace(0.5, 1, 41))
    figure = pr_figure(truth, scores, class_names=[f"class{k}" for k in range(41)])
    assert len(figure.axes) == 1 + MAX_PANELS
    assert "the 20 classes of 40 with the lowest AP; 1 without images left out" in texts(figure)
    assert "class39" in texts(figure)
    assert "class0 " not in texts(figure)


def test_a_curve_of_very_many_points_is_drawn_with_those_where_recall_rises():
    scores = np.linspace(1, 0, 510_000)[:, None]
    truth = np.arange(510_000)[:, None] % 1000 == 0
    drawn = [
        line for axes in pr_figure(truth, scores, class_names=["cat"]).axes for line in axes.lines
    ]
    recall = max((line.get_xdata() for line in drawn), key=len)
    assert np.unique(recall) == pytest.approx(np.linspace(0, 1, 511))
    assert len(recall) < 1100
