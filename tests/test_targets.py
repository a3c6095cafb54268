import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from lrbs_core.targets import ToTarget, logrank_p, median_to_target, to_target

# Freireich et al. 1963: weeks until leukaemia came back with 6-mercaptopurine and without; a + had no relapse so far.
WEEKS = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
DRUG = [ToTarget(float(week.rstrip("+")), not week.endswith("+")) for week in WEEKS.split()]
PLACEBO = [
    ToTarget(float(week), True) for week in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)
]

ROWS = [
    {"epoch": 1.0, "updates": 10, "examples": 1280, "train_seconds": 2.5, "test_accuracy": 60.0},
    {"epoch": 2.0, "updates": 15, "examples": 2560, "train_seconds": 4.5, "test_accuracy": 80.0},
    {"epoch": 3.0, "updates": 18, "examples": 3840, "train_seconds": 6.0, "test_accuracy": 79.0},
]


@pytest.mark.parametrize(
    ("target", "measure", "expected"),
    [(50, "updates", (10, True)), (60.0, "epoch", (1.0, True)), (79.5, "examples", (2560, True)),
     (80.0, "train_seconds", (4.5, True)), (80.1, "updates", (18, False))],
)  # fmt: skip
def test_a_run_reaches_its_target_at_the_first_row_that_is_no_worse(target, measure, expected):
    assert to_target(ROWS, target, measure) == expected


def test_a_missing_accuracy_reaches_nothing_and_a_run_without_rows_took_nothing():
    assert to_target([ROWS[0] | {"test_accuracy": math.nan}, ROWS[1]], 50.0, "updates") == (15, True)
    assert to_target([], 50.0, "updates") == (0, False)


def test_a_run_that_diverged_never_reaches_the_target_but_what_it_reached_counts():
    assert to_target(ROWS, 90.0, "updates", diverged=True) == (math.inf, False)
    assert to_target(ROWS, 70.0, "updates", diverged=True) == (15, True)


@pytest.mark.parametrize("target", [0.0, 100.5, -1.0, math.nan])
def test_a_target_is_in_percent(target):
    with pytest.raises(ValueError, match="0 < target <= 100"):
        to_target(ROWS, target, "updates")


def test_the_medians_of_a_textbook():
    # Kaplan-Meier medians of 23 and 8 weeks; by log-log intervals, as SAS gives them, 13 to none and 4 to 11.
    assert median_to_target(DRUG) == pytest.approx((23, 13, math.nan, 9, 21), nan_ok=True)
    assert median_to_target(PLACEBO) == (8, 4, 11, 21, 21)


def test_the_log_rank_test_of_a_textbook():
    # Chi-square 16.79 of 1 degree of freedom (Kleinbaum and Klein, Survival Analysis, chapter 2).
    assert stats.chi2.isf(logrank_p(DRUG, PLACEBO), 1) == pytest.approx(16.79, abs=0.005)


def seeds(draw):
    """Exponential amounts of mean 100, of which the run sees the first 120."""
    return [ToTarget(min(value, 120.0), value < 120) for value in draw]


def test_medians_and_log_rank_are_those_of_statsmodels():
    rng = np.random.default_rng(4)
    for n in (9, 15, 31):
        runs, others = seeds(rng.exponential(100, n)), seeds(rng.exponential(60, n + 2))
        values, reached = np.transpose([*runs, *others])
        survival = SurvfuncRight(values[:n], reached[:n])
        low, high = survival.quantile_ci(0.5)
        found = median_to_target(runs)
        assert found.median == survival.quantile(0.5)
        assert (found.low, found.high if found.high > 0 else math.inf) == (low, high)
        _, p = survdiff(values, reached, np.arange(2 * n + 2) < n)
        assert logrank_p(runs, others) == pytest.approx(p, rel=1e-9)


def test_the_interval_covers_the_median_as_often_as_it_says():
    draws = np.random.default_rng(5).exponential(100, (500, 40))
    found = [median_to_target(seeds(draw)) for draw in draws]
    covered = sum(low <= 100 * math.log(2) and not high < 100 * math.log(2) for _, low, high, *_ in found)
    # 40 runs are few for so rough a formula: within two points of 95 %.
    assert 0.93 <= covered / 500 <= 0.97


def test_the_median_of_an_even_number_is_the_first_amount_at_which_half_are_there():
    for n in (2, 4, 6, 10):
        assert median_to_target([ToTarget(k, True) for k in range(1, n + 1)]).median == n / 2


def test_runs_that_do_not_get_there_are_kept():
    reached = [ToTarget(10.0, True), ToTarget(20.0, True)]
    assert median_to_target(reached).median == 10
    assert median_to_target([*reached, ToTarget(30.0, False)]).median == 20
    most = median_to_target([*reached, *[ToTarget(30.0, False)] * 3])
    assert math.isnan(most.median)
    assert most[3:] == (2, 5)


def test_a_run_that_diverged_early_does_not_leave_the_reckoning():
    reached = [ToTarget(10.0, True), ToTarget(20.0, True)]
    assert median_to_target([*reached, *[ToTarget(math.inf, False)] * 2]).median == 20
    assert math.isnan(median_to_target([*reached, *[ToTarget(math.inf, False)] * 3]).median)
    # Gone by 15 they count against no one at 20; never there, they do.
    assert logrank_p(reached, [ToTarget(math.inf, False)] * 2) < logrank_p(reached, [ToTarget(15.0, False)] * 2)


def test_where_nothing_was_reached_nothing_is_told():
    lost = [ToTarget(30.0, False), ToTarget(math.inf, False)]
    for runs in ([], lost):
        assert median_to_target(runs) == pytest.approx((math.nan,) * 3 + (0, len(runs)), nan_ok=True)
        assert math.isnan(logrank_p(runs, lost))
    assert math.isnan(logrank_p([ToTarget(3.0, True)], []))
    assert math.isnan(logrank_p([ToTarget(3.0, True)], [ToTarget(2.0, False)]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=12), st.randoms())
def test_neither_the_order_of_the_runs_nor_the_unit_changes_a_median(pairs, random):
    runs = [ToTarget(float(value), reached) for value, reached in pairs]
    found = median_to_target(runs)
    assert repr(median_to_target(random.sample(runs, len(runs)))) == repr(found)
    scaled = median_to_target([ToTarget(128 * value, reached) for value, reached in runs])
    assert scaled[:3] == pytest.approx([128 * value for value in found[:3]], nan_ok=True)
    assert not found.low > found.median
    assert not found.high < found.median
