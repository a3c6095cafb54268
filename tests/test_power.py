"""Power against simulated studies, whole numbers of seeds, and what comes of the advice that a report gives."""

import functools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from lrbs_core import power
from lrbs_core.claims import Claim, verdict
from lrbs_core.power import chance_within, claim_power, new_pairs, pairs_for_power, upper_deviation
from lrbs_core.statistics import compare, difference_p, equivalence_p, judge, mean_interval


def inside(low, high, mean, deviation, n, confidence, studies=40_000):
    """How often the t interval of n simulated values lies within low to high."""
    draws = np.random.default_rng(11).normal(mean, deviation, (studies, n))
    found = stats.ttest_1samp(draws, 0.0, axis=1).confidence_interval(confidence)
    return np.mean((low <= found.low) & (found.high <= high))


@pytest.mark.parametrize(
    ("low", "high", "mean", "n", "confidence"),
    [(-0.5, 0.5, 0.0, 3, 0.9), (-0.5, 0.5, 0.0, 8, 0.95), (-1.0, 1.0, 0.4, 4, 0.95), (-math.inf, 0.0, -0.6, 2, 0.95),
     (-math.inf, 0.0, -0.2, 12, 0.95), (0.0, math.inf, 0.3, 5, 0.9), (-0.1, 0.1, 0.0, 3, 0.95)],
)  # fmt: skip
def test_the_chance_of_an_interval_is_that_of_simulated_studies(low, high, mean, n, confidence):
    chance, simulated = chance_within(low, high, mean, 0.3, n, confidence), inside(low, high, mean, 0.3, n, confidence)
    assert chance == pytest.approx(simulated, abs=0.01)


def test_a_one_sided_chance_is_that_of_the_noncentral_t():
    for n, distance in ((2, 1.0), (5, -0.4), (30, 0.3)):
        expected = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, distance * math.sqrt(n))
        assert chance_within(0.0, math.inf, distance, 1.0, n) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("claim", "n"),
    [(Claim("", "a", "test_accuracy", 94.0, tolerance=0.5, deviation=0.3), 4),
     (Claim("", "a", "test_accuracy", 0.0, tolerance=0.3, versus="b", paper=0.1, deviation=0.24), 9),
     (Claim("", "a", "test_accuracy", 0.0, relation="below", versus="b", paper=-0.8, deviation=1.0), 18),
     (Claim("", "a", "train_loss", 0.5, relation="below", paper=0.4, deviation=0.05), 3)],
)  # fmt: skip
def test_the_power_of_a_claim_is_how_often_its_verdict_is_reproduced_if_the_paper_is_right(claim, n):
    draws = np.random.default_rng(2).normal(claim.truth, claim.deviation, (4000, n)).tolist()
    reproduced = sum(verdict(claim, mean_interval(values)) == "reproduced" for values in draws)
    assert stats.binomtest(reproduced, 4000, claim_power(claim, n)).pvalue > 0.001


def test_counts_are_sure_one_run_tells_nothing_else_and_what_is_not_stated_has_no_power():
    updates = Claim("", "a", "updates", 80_000)
    assert [claim_power(updates, n) for n in (0, 1, 3)] == [0, 1, 1]
    about = Claim("", "a", "test_accuracy", 94.0, tolerance=0.5)
    assert math.isnan(claim_power(about, 9))
    assert math.isnan(claim_power(Claim("", "a", "test_accuracy", 0, relation="below", deviation=0.3), 9))
    assert claim_power(Claim("", "a", "test_accuracy", 94.0, tolerance=5.0, deviation=0.1), 1) == 0


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_upper_limit_of_a_deviation_is_above_it_as_often_as_it_says(n):
    draws = np.random.default_rng(5).normal(3, 0.7, (4000, n)).tolist()
    above = sum(upper_deviation(values) >= 0.7 for values in draws)
    assert stats.binomtest(above, 4000, 0.8).pvalue > 0.001
    assert upper_deviation([0.3, 0.3], resolution=0.01) == 0.01
    assert all(map(math.isnan, (upper_deviation([0.3]), upper_deviation([0.3, math.nan]))))


@pytest.mark.parametrize("margin", [0.5, 1.0, 0.1, 5.0])
def test_so_many_pairs_have_the_power_and_one_fewer_does_not(margin):
    pairs = pairs_for_power(1.0, margin)
    enough, one_fewer = (
        min(TTestPower().power(margin, n, 0.05), exact_power(0.0, margin, n)) for n in (pairs, pairs - 1)
    )
    assert enough >= 0.8 > one_fewer


def exact_power(mean, margin, n):
    """Of both one-sided tests at 0.05 and deviation 1: over the chi distribution of s."""
    t, chi, root = stats.t.ppf(0.95, n - 1), stats.chi(n - 1, scale=1 / math.sqrt(n - 1)), math.sqrt(n)

    def share(s):
        reach = margin - t * s / root
        inside = stats.norm.cdf((reach - mean) * root) - stats.norm.cdf((-reach - mean) * root)
        return chi.pdf(s) * max(inside, 0)

    return integrate.quad(share, 0, margin * root / t)[0]


def test_no_number_of_pairs_finds_what_is_not_there_and_two_find_what_is_plain():
    assert pairs_for_power(1.0, margin=0.0) is None
    assert pairs_for_power(1.0, margin=1e-4) is None
    assert pairs_for_power(1e-9, margin=1.0) == 2


def test_new_pairs_are_planned_from_the_upper_deviation_alone_and_only_with_a_margin():
    differences = [0.1, 0.9, -0.4]
    assert new_pairs(differences, 0.5) == pairs_for_power(upper_deviation(differences), 0.5)
    assert new_pairs([value + 7 for value in differences], 0.5) == new_pairs(differences, 0.5)
    assert new_pairs(differences, 0.0) is new_pairs([0.1], 0.5) is new_pairs([0.1, math.nan], 0.5) is None
    assert new_pairs([0.1, 0.1, 0.1], 0.5) is None
    assert new_pairs([0.1, 0.1, 0.1], 0.5, resolution=0.5) == pairs_for_power(0.5, 0.5)
    # Five that turn out equal are not called different (2^-4), six are; of three policies seven.
    assert (new_pairs([0.1, 0.12, 0.11], 0.5), new_pairs([0.1, 0.12, 0.11], 0.5, alpha=0.05 / 3)) == (6, 7)


STUDIES = 6000


def judged(mean, deviation, n, margin):
    """The verdict by both tests at 5 %, from the moments alone, of many studies at once."""
    error = deviation / np.sqrt(n)
    equivalent = (margin - abs(mean)) / error >= stats.t.ppf(0.95, n - 1)
    return np.where(equivalent, "equivalent", np.where(abs(mean) / error >= stats.t.ppf(0.975, n - 1), "different", ""))


# As many pairs as for the next larger of 150 deviations: to plan each study by itself would take minutes.
STEPS = np.geomspace(1e-3, 60, 150)


@functools.cache
def planned():
    return [pairs_for_power(float(step), 1.0) or 10_000 for step in STEPS]


def followed(monkeypatch, first, deviation, truth):
    """Verdicts of studies, margin 1: of `first` pairs, of the new pairs that each is told, of both once looked at."""
    table = planned()
    monkeypatch.setattr(power, "pairs_for_power", lambda s, *_: table[int(np.searchsorted(STEPS, s))])
    rng = np.random.default_rng(13)
    old = rng.normal(truth, deviation, (STUDIES, first))
    n = np.array([new_pairs(differences, 1.0) for differences in old.tolist()])
    mean = truth + deviation / np.sqrt(n) * rng.standard_normal(STUDIES)
    squares = deviation**2 * rng.chisquare(n - 1)
    both, between = first + n, first * n / (first + n) * (old.mean(1) - mean) ** 2
    pooled = np.sqrt((old.var(1) * first + squares + between) / (both - 1))
    looked = judged(old.mean(1), old.std(1, ddof=1), first, 1.0)
    together = judged((first * old.mean(1) + n * mean) / both, pooled, both, 1.0)
    return looked, judged(mean, np.sqrt(squares / (n - 1)), n, 1.0), np.where(looked == "", together, looked)


@pytest.mark.parametrize("deviation", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("first", [2, 3, 5])
@pytest.mark.parametrize(("truth", "right", "wrong"), [(0, "equivalent", "different"), (1, "different", "equivalent")])
def test_the_advice_once_followed_has_the_power_it_promises_at_the_level(
    monkeypatch, first, deviation, truth, right, wrong
):
    looked, alone, _ = followed(monkeypatch, first, deviation, truth)
    for verdicts in (alone, alone[looked == ""]):  # of all studies, and of those that were left open
        assert np.mean(verdicts == right) >= 0.8
    assert stats.binomtest(int(np.sum(alone == wrong)), STUDIES, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("deviation", [0.1, 0.6])
@pytest.mark.parametrize("truth", [0, 3])
def test_the_advice_has_its_power_where_accuracies_are_counted_in_few_examples(deviation, truth):
    rng, planned_for, right = np.random.default_rng(19), functools.cache(new_pairs), 0

    def differences(n, chance):
        runs = chance + rng.normal(0, deviation / math.sqrt(2), (2, n))
        return ((runs[0] + truth).round() - runs[1].round()).tolist()

    for chance in rng.uniform(300, 301, 400):
        n = planned_for(tuple(sorted(differences(3, chance))), 3.0, resolution=1.0)
        pairs = differences(n, chance)
        right += judge(difference_p(pairs), equivalence_p(pairs, 3.0)) == ("different" if truth else "equivalent")
    assert right / 400 >= 0.8


def test_old_and_new_pairs_together_are_wrong_as_often_as_is_said(monkeypatch):
    rates = [
        np.mean(followed(monkeypatch, first, deviation, truth)[2] == wrong)
        for first in (2, 3, 5)
        for deviation in (0.6, 0.8, 1.0, 2.0)
        for truth, wrong in ((0, "different"), (1, "equivalent"))
    ]
    assert 0.08 < max(rates) < 0.1


def test_several_policies_have_the_power_for_each_whatever_the_others_show():
    rng, n = np.random.default_rng(17), pairs_for_power(1.0, 1.0, alpha=0.05 / 3)
    right = np.zeros(3)
    for _ in range(300):
        # Two runs of a seed differ with a deviation of 1; all are compared with the same baseline.
        runs = rng.normal([[0.0], [0.0], [1.0], [-1.0]], math.sqrt(0.5), (4, n))
        table = compare({f"{label}": dict(enumerate(values)) for label, values in enumerate(runs.tolist())}, "0", 1.0)
        right += [
            row.verdict == told for row, told in zip(table, ("equivalent", "different", "different"), strict=True)
        ]
    assert all(right / 300 > 0.8)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="0 < deviation < inf and 0 < power < 1 must hold"):
        pairs_for_power(1.0, margin=0.5, power=1.0)
    with pytest.raises(ValueError, match=r"but got deviation=0\.0"):
        pairs_for_power(0.0, margin=0.5)
    with pytest.raises(ValueError, match="0 <= margin < inf must hold"):
        new_pairs([0.1, 0.2], margin=-1.0)
