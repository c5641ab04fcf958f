import pytest
from scipy import stats

from ptkit.core.comparing.significance import (
    differences_needed,
    holm,
    images_needed,
    mcnemar,
    mean_interval,
    paired_t,
    t_quantile,
    t_tails,
    welch,
)


@pytest.mark.parametrize(("mended", "broke"), [(0, 0), (1, 0), (9, 5), (12, 12), (0, 24)])
def test_few_discordant_pairs_get_the_exact_binomial_test(mended, broke):
    total = mended + broke
    expected = stats.binomtest(mended, total).pvalue if total else 1.0
    assert mcnemar(mended, broke).p == pytest.approx(expected)


@pytest.mark.parametrize(("mended", "broke"), [(0, 25), (13, 12), (30, 12)])
def test_many_get_chi_square_with_continuity_correction(mended, broke):
    statistic = (abs(mended - broke) - 1) ** 2 / (mended + broke)
    assert mcnemar(mended, broke).p == pytest.approx(stats.chi2.sf(statistic, 1))


def test_students_distribution_is_scipys():
    for t, freedom in ((0.0, 4), (0.3, 5.5), (2.0, 2), (3.1, 200), (12.0, 3), (2.1, 9999)):
        assert t_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-8)
    for freedom in (1, 2, 9, 400):
        assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom))


def test_t_tests_are_scipys():
    first, second = [0.9, 0.92, 0.95], [0.8, 0.85, 0.81, 0.7]
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert welch(first, second).p == pytest.approx(expected)
    assert paired_t(first).p == pytest.approx(stats.ttest_1samp(first, 0).pvalue)


def test_the_interval_of_a_mean_is_students_and_one_value_has_none():
    values = [0.9, 0.92, 0.95]
    expected = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval([0.9]) is None


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_difference_of_nothing_needs_no_number_of_images():
    assert images_needed(5, 5, 100) is None
    assert differences_needed([1.0, -1.0]) is None


def test_so_many_images_as_are_needed_show_the_difference_four_times_of_five():
    share, other = 0.10, 0.04
    needed = images_needed(100, 40, 1000)
    found = stats.multinomial(needed, [share, other, 1 - share - other]).rvs(2000, random_state=0)
    z = abs(found[:, 0] - found[:, 1]) / (found[:, 0] + found[:, 1]) ** 0.5
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.03)
