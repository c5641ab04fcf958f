import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, top_k_accuracy_score

from ptkit.core.comparing.ranking import Ranking, paired_test, read_ranking
from ptkit.core.shares import interval


def drawn(num, num_classes, *, skill=1.0, seed=0, num_digits=1):
    """Return outputs that know the classes a little, with ties, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num) % num_classes)
    outputs = rng.normal(size=(num, num_classes)) + skill * np.eye(num_classes)[labels]
    return Ranking(outputs.round(num_digits).astype(np.float32), labels)


def components(values, is_positive):
    """DeLong's components of a class, pair by pair: of its images, and of the others."""
    own, rest = values[is_positive], values[~is_positive]
    wins = (own[:, None] > rest) + 0.5 * (own[:, None] == rest)
    return wins.mean(axis=1), wins.mean(axis=0)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_values_are_scikit_learns(num_classes):
    found = drawn(300, num_classes)
    areas = [
        roc_auc_score(found.labels == k, found.probabilities[:, k]) for k in range(num_classes)
    ]
    assert found.metrics["auroc"] == pytest.approx(np.mean(areas))
    if num_classes <= 5:
        assert "top5" not in found.metrics
        return
    top = top_k_accuracy_score(found.labels, found.outputs, k=5)
    assert found.metrics["top5"] == pytest.approx(top)
    assert found.intervals["top5"] == interval(round(top * 300), 300)


def test_the_interval_of_two_classes_is_delongs():
    # Without ties: of two columns of float32 one may have a tie that the other has not.
    found = drawn(120, 2, num_digits=6)
    own, rest = components(found.probabilities[:, 1], found.labels == 1)
    half = 1.959963984540054 * (own.var(ddof=1) / len(own) + rest.var(ddof=1) / len(rest)) ** 0.5
    expected = own.mean() - half, own.mean() + half
    assert found.intervals["auroc"] == pytest.approx(expected)


def test_the_test_of_two_runs_is_delongs_with_their_covariance():
    first, second = (drawn(120, 2, skill=s, seed=1, num_digits=6) for s in (0.8, 1.2))
    parts = [components(each.probabilities[:, 1], each.labels == 1) for each in (first, second)]
    covariance = sum(
        np.cov([parts[0][k], parts[1][k]]) / len(parts[0][k]) for k in (0, 1)
    )  # fmt: skip
    gap = parts[1][0].mean() - parts[0][0].mean()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = paired_test("auroc", first, second)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(gap) / variance**0.5))


def test_the_spread_of_several_classes_is_that_of_new_draws():
    draws = [drawn(200, 4, seed=seed) for seed in range(400)]
    areas = [each.metrics["auroc"] for each in draws]
    halves = [np.ptp(each.intervals["auroc"]) / 2 / 1.96 for each in draws[:50]]
    assert np.mean(halves) == pytest.approx(np.std(areas, ddof=1), rel=0.12)


def test_an_area_of_one_or_a_class_of_one_image_has_no_interval():
    perfect = drawn(40, 2, skill=100.0)
    assert (perfect.metrics["auroc"], perfect.intervals) == (1.0, {})
    assert paired_test("auroc", perfect, perfect) is None
    single = Ranking(drawn(40, 2).outputs, np.arange(40) // 39)
    assert "auroc" in single.metrics
    assert single.intervals == {}


def test_outputs_of_another_epoch_or_list_are_not_used(tmp_path):
    found = drawn(50, 3)
    answers = found.outputs.argmax(axis=1)
    np.savez(tmp_path / "valid_outputs.npz", best=found.outputs, labels=found.labels)
    # The table numbers its classes by name, in any order.
    order = np.array([2, 0, 1])
    assert read_ranking(tmp_path, order[found.labels], order[answers]) is not None
    assert read_ranking(tmp_path, order[found.labels], np.roll(order[answers], 1)) is None
    assert read_ranking(tmp_path, np.roll(found.labels, 1), answers) is None
    assert read_ranking(tmp_path, found.labels[:-1], answers[:-1]) is None
    (tmp_path / "valid_outputs.npz").write_bytes(b"PK\x03\x04 cut off")
    assert read_ranking(tmp_path, found.labels, answers) is None
