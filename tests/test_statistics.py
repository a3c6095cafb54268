import math

import pytest
from scipy import stats

from lrbs_core.statistics import mean_interval


def test_a_worked_example():
    # NIST/SEMATECH e-Handbook, 7.2.2.1: 195 heat flow values, mean 9.26146, deviation 0.02278882: the half width is
    # t(0.975, 194) s / sqrt(n). Here the same formula by hand for three values: s = 1, t(0.975, 2) = 4.302653.
    measured = mean_interval([81.0, 82.0, 83.0])
    half = 4.302653 / math.sqrt(3)
    assert measured == pytest.approx((82.0, 82 - half, 82 + half, 3), abs=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = stats.norm(5, 2).rvs((4000, 4), random_state=1)
    covered = sum(low <= 5 <= high for _, low, high, _ in map(mean_interval, draws.tolist()))
    assert stats.binomtest(covered, 4000, 0.95).pvalue > 0.001


def test_one_value_has_no_interval_and_none_no_mean():
    one, none = mean_interval([3.0]), mean_interval([])
    assert (one.mean, one.n) == (3.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(none.mean)
    assert none.n == 0


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([80_000.0] * 3) == (80_000, 80_000, 80_000, 3)


def test_a_missing_number_stays_missing():
    assert math.isnan(mean_interval([1.0, math.nan, 2.0]).mean)
