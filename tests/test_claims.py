"""Claims: the verdict on every way in which an interval can lie to what is claimed."""

import csv
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lrbs_core.claims import UNSETTLED, Accuracies, Claim, Measured, verdict

nan = math.nan
ABOUT = Claim("Figure 3a", "hybrid", "test_accuracy", 94.0, tolerance=0.5)
BELOW = Claim("Figure 2", "hybrid", "train_loss", 0.5, relation="below")
UPDATES = Claim("Figure 5", "original", "updates", 80_000, tolerance=1000)
FEWER = Claim("Figure 5", "increased momentum", "updates", 2500, relation="below")


@pytest.mark.parametrize(
    ("claim", "measured", "expected"),
    [
        (ABOUT, None, "not run"),
        (ABOUT, Measured(nan, nan, nan, 0), "not run"),
        (ABOUT, Measured(94.0, nan, nan, 1), "too few runs"),  # one run has no interval
        (ABOUT, Measured(99.0, nan, nan, 1), "too few runs"),
        (ABOUT, Measured(94.1, 93.75, 94.25, 5), "reproduced"),
        (ABOUT, Measured(94.0, 93.5, 94.5, 5), "reproduced"),  # the border is part of it
        (ABOUT, Measured(94.4, 94.25, 94.75, 5), "too few runs"),  # astride the upper border
        (ABOUT, Measured(93.6, 93.25, 93.75, 5), "too few runs"),  # astride the lower one
        (ABOUT, Measured(94.7, 94.5, 95.0, 5), "too few runs"),  # from the border on
        (ABOUT, Measured(93.3, 93.0, 93.5, 5), "too few runs"),
        (ABOUT, Measured(94.0, 92.0, 96.0, 2), "too few runs"),  # astride both
        (ABOUT, Measured(95.0, 94.75, 95.25, 5), "not"),
        (ABOUT, Measured(93.0, 92.75, 93.25, 5), "not"),
        (BELOW, Measured(0.3, 0.25, 0.375, 5), "reproduced"),
        (BELOW, Measured(-3.0, -4.0, -2.0, 5), "reproduced"),
        (BELOW, Measured(0.45, 0.375, 0.5, 5), "too few runs"),  # the border itself is not below
        (BELOW, Measured(0.5, 0.375, 0.625, 5), "too few runs"),
        (BELOW, Measured(0.6, 0.5, 0.625, 5), "not"),
        (BELOW, Measured(0.3, nan, nan, 1), "too few runs"),
        (UPDATES, Measured(80_000, nan, nan, 1), "reproduced"),  # a count is exact: one run settles it
        (UPDATES, Measured(81_001, nan, nan, 1), "not"),
        (UPDATES, Measured(81_000, 81_000, 81_000, 3), "reproduced"),
        (UPDATES, Measured(78_999, 78_999, 78_999, 3), "not"),
        (UPDATES, Measured(80_000, 70_000, 90_000, 3), "too few runs"),
        (FEWER, Measured(2499, 2499, 2499, 1), "reproduced"),
        (FEWER, Measured(2500, 2500, 2500, 1), "not"),
    ],
)
def test_the_verdict(claim, measured, expected):
    assert verdict(claim, measured) == expected


@pytest.mark.parametrize(
    ("claim", "subject", "expected"),
    [
        (ABOUT, "test accuracy of hybrid", "94 ± 0.5"),
        (FEWER, "updates of increased momentum", "< 2500"),
        (Claim("5.1", "b", "test_accuracy", 0, 0.5, versus="a"), "test accuracy of b less a", "0 ± 0.5"),
        (Claim("5.1", "original", "updates", 78_200), "updates of original", "78200"),
        (Claim("5.1", "a", "updates", 1_234_567, 1_000_001), "updates of a", "1234567 ± 1000001"),
        (Claim("5.1", "a", "updates", 1_234_567, relation="below"), "updates of a", "< 1234567"),
    ],
)  # fmt: skip
def test_a_claim_reads_as_text(claim, subject, expected):
    assert (claim.subject, claim.expected) == (subject, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "metric must be one of updates, test_accuracy, train_loss, but got 'accuracy'"),
        ({"relation": "above"}, "relation must be one of about, below, but got 'above'"),
        ({"tolerance": -0.1}, "tolerance >= 0 must hold, but got tolerance=-0.1"),
        ({"tolerance": nan}, "tolerance >= 0 must hold, but got tolerance=nan"),
        ({"relation": "below", "tolerance": 0.1}, "tolerance belongs to relation 'about'.* tolerance=0.1"),
        ({"paper": 82.5, "tolerance": 1.0}, "own number must meet its claim, 81.4 ± 1, but got paper=82.5"),
        ({"paper": 81.4, "relation": "below"}, "own number must meet its claim, < 81.4, but got paper=81.4"),
        ({"deviation": 0.0}, "0 < deviation < inf must hold, but got deviation=0.0"),
        ({"deviation": nan}, "0 < deviation < inf must hold, but got deviation=nan"),
    ],
)
def test_a_claim_that_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Claim(**{"where": "Table 1", "policy": "fixed", "metric": "test_accuracy", "value": 81.4} | changes)


def test_what_is_right_if_the_paper_is_and_the_bounds_of_a_claim():
    assert (ABOUT.truth, ABOUT.bounds) == (94.0, (93.5, 94.5))
    assert (BELOW.truth, BELOW.bounds) == (None, (-math.inf, 0.5))
    assert Claim("Figure 2", "hybrid", "train_loss", 0.5, relation="below", paper=0.4).truth == 0.4


def test_a_paper_s_accuracies_make_its_claims():
    paper = Accuracies({"a": 93.6, "b": 93.3}, test_examples=10_000, unsettled=["a"])
    settled, unsettled = 100 * math.sqrt(0.067 / 20_000), UNSETTLED * 100 * math.sqrt(0.064 / 20_000)
    first, second = paper.each("Table 4", tolerance=0.5)
    assert (first.policy, first.value, first.tolerance, second.value) == ("a", 93.6, 0.5, 93.3)
    assert (first.deviation, second.deviation) == pytest.approx((unsettled, settled))
    assert [claim.policy for claim in paper.each("Table 4", 0.5, ["b"])] == ["b"]
    below, difference = paper.below("Table 4", "b", "a"), paper.difference("Table 4", "a", "b", tolerance=0.4)
    assert (below.relation, below.value, below.paper, below.versus) == ("below", 0, -0.3, "a")
    assert (difference.value, difference.tolerance, difference.versus) == (0.3, 0.4, "b")
    assert below.deviation == difference.deviation == pytest.approx(math.hypot(settled, unsettled))
    with pytest.raises(ValueError, match=r"paper=0\.3"):
        paper.below("Table 4", "a", "b")
    with pytest.raises(ValueError, match="0 <= accuracy < 100 must hold"):
        Accuracies({"a": 100.0}, test_examples=10_000)


def test_the_deviation_is_that_of_runs_that_are_right_as_often_as_they_agree_and_err_on_their_own():
    rng = np.random.default_rng(3)
    shares = rng.beta(0.3, 0.3, 4000)  # of the runs, that say 1 of an example
    labels = rng.random(4000) < shares
    accuracies = 100 * np.mean((rng.random((600, 4000)) < shares) == labels, axis=1)
    paper = Accuracies({"a": float(accuracies.mean())}, test_examples=4000)
    assert accuracies.std(ddof=1) == pytest.approx(paper.deviation("a"), rel=0.1)


def measured(name, policy, metric):
    with (Path(__file__).parents[1] / "sweeps" / f"{name}.csv").open(newline="") as file:
        return [float(run[metric]) for run in csv.DictReader(file) if run["policy"] == policy]


def test_measured_deviations_are_those_that_are_planned_with():
    def ratio(policy):
        found = measured("smith2017_table1_cifar10", policy, "test_accuracy")
        return statistics.stdev(found) / Accuracies({"": statistics.mean(found)}, 10_000).deviation("")

    # Where lr has fallen the ratio is 1, but for chance: 6 degrees of freedom.
    squares = sum(2 * ratio(policy) ** 2 for policy in ("fixed", "triangular2", "exp"))
    assert 0.05 < stats.chi2.sf(squares, 6) < 0.95
    assert math.sqrt((ratio("decay") ** 2 + ratio("exp_range") ** 2) / 2) == pytest.approx(UNSETTLED, abs=0.05)
    decaying, *others = (
        measured("smith2018_fig1_cifar10", policy, "train_loss")
        for policy in ("decaying lr", "hybrid", "increasing batch")
    )
    paired = [statistics.stdev(np.subtract(other, decaying).tolist()) for other in others]
    assert max(paired) == pytest.approx(0.0031, abs=5e-5)
