"""Claims: the verdict on every way in which an interval can lie to what is claimed."""

import math

import pytest

from lrbs_core.claims import Claim, Measured, verdict

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
    ],
)
def test_a_claim_that_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Claim(**{"where": "Table 1", "policy": "fixed", "metric": "test_accuracy", "value": 81.4} | changes)
