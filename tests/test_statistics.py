import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from lrbs_core.power import new_pairs
from lrbs_core.statistics import (
    bootstrap_interval,
    compare,
    difference_p,
    equivalence_p,
    holm,
    judge,
    mean_interval,
    paired_differences,
)

# Student 1908, table of hours of sleep gained with each of two drugs by ten patients (`sleep` in R).
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))
SLEEP = paired_differences(SECOND, FIRST)

# Accuracies in percent, told to a hundredth.
accuracies = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
runs = st.dictionaries(st.integers(0, 9), accuracies, min_size=2)


def test_a_worked_example():
    # NIST/SEMATECH e-Handbook, 7.2.2.1: 195 heat flow values, mean 9.26146, deviation 0.02278882: the half width is
    # t(0.975, 194) s / sqrt(n). Here the same formula by hand for three values: s = 1, t(0.975, 2) = 4.302653.
    measured = mean_interval([81.0, 82.0, 83.0])
    half = 4.302653 / math.sqrt(3)
    assert measured == pytest.approx((82.0, 82 - half, 82 + half, 3), abs=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = stats.norm(5, 2).rvs((2000, 4), random_state=1)
    covered = sum(low <= 5 <= high for _, low, high, _ in map(mean_interval, draws.tolist()))
    assert stats.binomtest(covered, 2000, 0.95).pvalue > 0.001


@pytest.mark.parametrize("n", [2, 3, 6])
def test_equal_accuracies_have_an_interval_that_covers_the_truth_as_one_of_no_width_does_not(n):
    # Accuracies of a test set of 360: whole examples, with a deviation of half an example between seeds.
    rng, example = np.random.default_rng(7), 100 / 360
    chances = rng.uniform(300, 340, (4000, 1))
    draws = (chances + rng.normal(0, 0.5, (4000, n))).round()
    # The mean of what is rounded: over all whole numbers of examples.
    whole = np.arange(290, 350)
    shares = stats.norm.cdf(whole + 0.5, chances, 0.5) - stats.norm.cdf(whole - 0.5, chances, 0.5)
    truths = (shares * whole).sum(1) * example
    covered = {
        resolution: np.mean(
            [
                low - 1e-9 <= truth <= high + 1e-9
                for truth, values in zip(truths, (draws * example).tolist(), strict=True)
                for _, low, high, _ in [mean_interval(values, resolution=resolution)]
            ]
        )
        for resolution in (0.0, example)
    }
    assert covered[example] >= 0.945
    assert covered[0.0] < (0.6, 0.8, 0.94)[(2, 3, 6).index(n)]


@pytest.mark.parametrize("interval", [mean_interval, bootstrap_interval])
def test_one_or_missing_values_have_no_interval_none_no_mean_and_equal_ones_one_of_no_width(interval):
    assert interval([3.0]) == pytest.approx((3.0, math.nan, math.nan, 1), nan_ok=True)
    assert interval([]) == pytest.approx((math.nan, math.nan, math.nan, 0), nan_ok=True)
    assert interval([1.0, math.nan, 2.0]) == pytest.approx((math.nan, math.nan, math.nan, 3), nan_ok=True)
    assert interval([1.0, math.inf, 2.0]) == pytest.approx((math.inf, math.nan, math.nan, 3), nan_ok=True)
    assert interval([80_000.0] * 3) == (80_000, 80_000, 80_000, 3)


def test_a_bootstrap_interval_is_that_of_t_for_many_normal_values_and_leans_to_the_tail_of_few_skewed_ones():
    normal = stats.norm(5, 2).rvs(200, random_state=1).tolist()
    assert bootstrap_interval(normal) == pytest.approx(mean_interval(normal), abs=0.05)
    # An exponential's mean is rather above than below what was seen: its tail is to the right.
    mean, low, high, _ = bootstrap_interval(stats.expon.rvs(size=30, random_state=1).tolist())
    assert 1.1 < (high - mean) / (mean - low) < 2


def test_a_bootstrap_interval_is_the_same_at_every_call_and_in_any_order():
    values = [1.3, 2.1, 4.7, 8.2, 9.6, 11.9, 12.4]
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1])
    assert bootstrap_interval(values).low != bootstrap_interval(values, seed=1).low
    assert 1.3 <= bootstrap_interval(values).low < bootstrap_interval(values, confidence=0.5).low


def test_differences_are_of_the_seeds_that_both_have():
    assert paired_differences({3: 1.0, 1: 5.0, 7: 2.0}, {1: 4.0, 2: 9.0, 3: 3.0}) == [1.0, -2.0]
    assert paired_differences({1: 1.0}, {2: 1.0}) == []
    assert paired_differences({1: 0.1 + 0.2, 2: 0.3}, {1: 0.3, 2: 0.1 + 0.2}) == [0.0, 0.0]
    assert paired_differences({1: 1e-6, 2: 3e-6}, {1: 2e-6, 2: 2e-6}) == pytest.approx([-1e-6, 1e-6], rel=1e-9)


def test_the_paired_t_test_of_student():
    # R's t.test(extra ~ group, paired): p = 0.002833, interval 0.7001142 to 2.4598858, mean 1.58.
    assert difference_p(SLEEP) == pytest.approx(0.002833, abs=5e-7)
    assert mean_interval(SLEEP) == pytest.approx((1.58, 0.7001142, 2.4598858, 10), abs=1e-7)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.58, 2.0, 3.0])
def test_two_one_sided_tests_are_those_of_statsmodels_and_say_what_the_interval_says(margin):
    p = equivalence_p(SLEEP, margin)
    expected, *_ = ttost_paired(np.array([*SECOND.values()]), np.array([*FIRST.values()]), -margin, margin)
    assert p == pytest.approx(expected, rel=1e-9)
    assert equivalence_p([-difference for difference in SLEEP], margin) == pytest.approx(p, rel=1e-12)
    for alpha in (0.01, 0.05, 0.2):
        _, low, high, _ = mean_interval(SLEEP, 1 - 2 * alpha)
        assert (p <= alpha) == (-margin <= low and high <= margin)


def test_two_one_sided_tests_err_no_oftener_than_they_say_at_the_edge_of_the_margin():
    draws = stats.norm(0.5, 0.2).rvs((1000, 5), random_state=2).tolist()
    wrong = sum(equivalence_p(differences, margin=0.5) <= 0.05 for differences in draws)
    assert stats.binomtest(wrong, 1000, 0.05).pvalue > 0.001


@pytest.mark.parametrize(
    ("differences", "margin", "p", "p_equivalence"),
    [([0.3, 0.3], 0.5, 1 / 2, 1 / 4), ([0.3, 0.3], 0.3, 1 / 2, 1), ([-0.7] * 3, 0.5, 1 / 4, 1),
     ([0.0, 0.0], 0.5, 1, 1 / 4), ([0.0, 0.0], 0.0, 1, 1), ([0.1] * 6, 0.5, 1 / 32, 1 / 64),
     ([0.3], 0.5, math.nan, math.nan), ([], 0.5, math.nan, math.nan),
     ([0.3, math.nan], 0.5, math.nan, math.nan), ([0.3, math.inf, 0.2], 0.5, math.nan, math.nan)],
)  # fmt: skip
def test_equal_differences_are_judged_by_flips_of_sign_and_too_few_or_missing_ones_tell_nothing(
    differences, margin, p, p_equivalence
):
    found = (difference_p(differences), equivalence_p(differences, margin))
    assert found == pytest.approx((p, p_equivalence), nan_ok=True, abs=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_a_test_that_could_not_be_made_counts_as_one():
    assert holm([0.01, math.nan, 0.02]) == pytest.approx([0.03, math.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_accuracies_counted_in_few_images_are_called_different_no_oftener_than_they_say(n):
    # Of 360 test images, a deviation of one: differences are whole images, and often equal.
    images = np.random.default_rng(0).normal(0, 1, (3000, n)).round() / 3.6
    wrong = sum(difference_p(differences) <= 0.05 for differences in images.tolist())
    assert stats.binomtest(wrong, 3000, 0.05, alternative="greater").pvalue > 0.001


def test_holm_keeps_the_chance_of_any_false_rejection():
    # Six policies of no difference against one baseline: their p-values go together, as they share it.
    rng = np.random.default_rng(3)
    differences = rng.normal(size=(2000, 6, 5)) - rng.normal(size=(2000, 1, 5))
    p_values = stats.ttest_1samp(differences, 0, axis=2).pvalue
    wrong, uncorrected = (sum(min(p) <= 0.05 for p in table) for table in (map(holm, p_values), p_values))
    assert stats.binomtest(wrong, 2000, 0.05, alternative="greater").pvalue > 0.001
    assert uncorrected > 300


@pytest.mark.parametrize(
    ("p", "p_equivalence", "expected"),
    [(0.01, 0.01, "equivalent"), (0.06, 0.05, "equivalent"), (0.05, 0.06, "different"),
     (0.06, 0.06, "not enough runs"), (math.nan, math.nan, "not enough runs"), (0.05, None, "different"),
     (0.06, None, "no difference found"), (math.nan, None, "not enough runs")],
)  # fmt: skip
def test_verdicts(p, p_equivalence, expected):
    assert judge(p, p_equivalence) == expected


def test_a_table_corrects_for_its_policies():
    values = {"fast": SECOND, "decay": FIRST, "same": {seed: value + 0.1 * (seed % 2) for seed, value in FIRST.items()}}
    fast, same = compare(values, baseline="decay", margin=0.5)
    assert (fast.label, fast.n, fast.verdict, fast.new_seeds) == ("fast", 10, "different", None)
    assert fast[2:5] == pytest.approx(mean_interval(SLEEP)[:3])
    assert fast.p == pytest.approx(2 * 0.002833, abs=1e-6)
    assert (same.verdict, same.p_equivalence < 1e-6) == ("equivalent", True)


def test_a_policy_of_too_few_seeds_is_shown_and_has_no_verdict():
    one, none, lost = compare(
        {"decay": FIRST, "one": {0: 3.0}, "none": {}, "lost": {0: 1.0, 1: math.nan}}, "decay", margin=0.5
    )
    assert [(row.n, row.verdict, row.new_seeds) for row in (one, none, lost)] == [
        (1, "not enough runs", None), (0, "not enough runs", None), (2, "not enough runs", None)
    ]  # fmt: skip
    assert one.mean == pytest.approx(2.3)
    assert all(map(math.isnan, (one.low, none.mean, lost.mean, one.p, none.p_equivalence)))


@settings(max_examples=40, deadline=None)
@given(runs, runs, runs, st.floats(0.01, 5), st.randoms(use_true_random=False))
def test_a_table_is_the_same_in_any_order_and_on_any_floor(baseline, first, second, margin, random):
    values = {"baseline": baseline, "first": first, "second": second}
    table = compare(values, "baseline", margin)
    shuffled = {label: dict(random.sample([*of.items()], len(of))) for label, of in values.items()}
    assert repr(compare(shuffled, "baseline", margin)) == repr(table)
    raised = {label: {seed: value + 17 for seed, value in of.items()} for label, of in values.items()}
    for row, other in zip(table, compare(raised, "baseline", margin), strict=True):
        assert row[:1] + row[7:] == other[:1] + other[7:]
        assert row[1:7] == pytest.approx(other[1:7], nan_ok=True, rel=1e-6, abs=1e-9)
        assert row.new_seeds is None or row.verdict == "not enough runs"
    for row in compare(values, "baseline", 0.0):
        assert (row.verdict in ("different", "no difference found", "not enough runs"), row.new_seeds) == (True, None)


def test_a_table_plans_new_seeds_for_its_number_of_policies():
    differences = [0.1, 0.9, -0.4, 0.2]
    values = {"decay": dict.fromkeys(range(4), 90.0), "fast": dict(enumerate(differences)), "same": {0: 90.0, 1: 90.1}}
    values["fast"] = {seed: 90 + value for seed, value in values["fast"].items()}
    fast = compare(values, "decay", margin=0.5)[0]
    assert (fast.verdict, fast.new_seeds) == ("not enough runs", new_pairs(differences, 0.5, alpha=0.025))
    fast = compare(values, "decay", margin=0.0)[0]
    assert (fast.verdict, fast.new_seeds) == ("no difference found", None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"baseline": "nobody"}, "baseline must be one of 'a', but got 'nobody'"), ({"margin": -0.1}, "margin=-0.1"),
     ({"margin": math.nan}, "0 <= margin"), ({"margin": math.inf}, "margin < inf"), ({"alpha": 0.5}, "alpha=0.5")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        compare({"a": {1: 1.0}}, **({"baseline": "a", "margin": 0.1} | wrong))
