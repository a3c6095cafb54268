"""The power of a study: how often so many seeds find what is there, and how many it takes; for claims, comparisons."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from lrbs_core.claims import Claim

__all__ = ["POWER", "chance_within", "claim_power", "new_pairs", "pairs_for_power", "require", "upper_deviation"]

# The chance with which a study is to find what is there.
POWER = 0.8
# Nobody trains so many seeds.
MOST_PAIRS = 10_000


def chance_within(low: float, high: float, mean: float, deviation: float, n: int, confidence: float = 0.95) -> float:
    """The chance that the t interval of n normal values of this true mean and deviation lies within low to high.

    With h = t s / sqrt(n): the mean over s, of which (n - 1) s^2 / deviation^2 is chi-squared with n - 1 degrees of
    freedom, of the normal chance that low + h <= mean of the values <= high - h, 0 where h leaves no room. It is the
    power of two one-sided tests at confidence 1 - 2 alpha and ± a margin (Phillips 1990, "Power of the two one-sided
    tests procedure in bioequivalence"), and of a one-sided t-test with one bound infinite. 0 for n < 2: no interval.

    >>> round(chance_within(-0.5, 0.5, mean=0.0, deviation=0.3, n=5), 3), chance_within(-0.5, 0.5, 0.0, 0.3, n=1)
    (0.633, 0.0)
    """
    if n < 2:
        return 0.0
    # The midpoints of equal shares of the distribution of s, which leaves an error below 1e-5.
    shares = (np.arange(500) + 0.5) / 500
    s = deviation * np.sqrt(special.chdtri(n - 1, 1 - shares) / (n - 1))
    half = special.stdtrit(n - 1, (1 + confidence) / 2) * s / math.sqrt(n)
    error = deviation / math.sqrt(n)
    inside = special.ndtr((high - half - mean) / error) - special.ndtr((low + half - mean) / error)
    return float(np.mean(np.maximum(inside, 0.0)))


def claim_power(claim: Claim, n: int) -> float:
    """The chance that n runs, or pairs of runs, find the claim "reproduced" if the paper is right (`claims.verdict`).

    That is `chance_within` what is claimed, where the true mean is the paper's own number and the deviation between
    seeds is the claim's. Update counts are exact: 1 from one run on. NaN where the claim states no deviation, or none
    of its own numbers for what is to be below a bound.

    >>> round(claim_power(Claim("Figure 3a", "hybrid", "test_accuracy", 94.0, tolerance=0.5, deviation=0.3), n=5), 3)
    0.633
    """
    if claim.metric == "updates":
        return 1.0 if n else 0.0
    if claim.deviation is None or claim.truth is None:
        return math.nan
    return chance_within(*claim.bounds, claim.truth, claim.deviation, n)


def upper_deviation(values: Sequence[float], confidence: float = POWER, resolution: float = 0.0) -> float:
    """The upper confidence limit of the standard deviation: s sqrt((n - 1) / chi^2), its quantile at 1 - confidence.

    A deviation of few runs is too small half of the time, and so is a study that is planned by it. Planned by the limit
    of confidence c, it has the power that was asked in a share c of all cases (Browne 1995, "On the use of a pilot
    sample for sample size determination"). Of values that are all equal it is the `resolution`. NaN for n < 2.

    >>> round(upper_deviation([0.1, 0.3, 0.2]), 3)
    0.212
    """
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return math.nan
    if min(values) == max(values):
        return resolution
    return float(np.std(values, ddof=1) * math.sqrt((n - 1) / special.chdtri(n - 1, confidence)))


def new_pairs(differences: Sequence[float], margin: float, alpha: float = 0.05, resolution: float = 0.0) -> int | None:
    """How many new pairs, judged alone, tell equivalence from a difference of `margin`: `pairs_for_power`, once.

    Planned from the `upper_deviation` of the differences so far, of which the mean plays no part; and no fewer than may
    be called different where all are equal, 2^(1-n) <= alpha (`statistics.difference_p`). The number is for one
    study of new seeds. Judged together with the differences that it was planned from, or looked at again and again, the
    verdict is wrong oftener than alpha: two looks at 5 % each are wrong in up to 10 % of studies.
    None where fewer than two differences, equal ones without a `resolution`, no margin, or a NaN leave nothing to plan
    by, and where 10,000 pairs would not do.

    >>> new_pairs([0.1, 0.3, 0.2], margin=0.25)
    8
    """
    require(margin=margin, alpha=alpha)
    deviation = upper_deviation(differences, resolution=resolution)
    pairs = pairs_for_power(deviation, margin, alpha) if margin and deviation > 0 else None
    return None if pairs is None else max(pairs, 1 + math.ceil(-math.log2(alpha)))


def pairs_for_power(deviation: float, margin: float, alpha: float = 0.05, power: float = POWER) -> int | None:
    """How many pairs find "equivalent" where the true difference is 0, and "different" where it is `margin`.

    Each with a chance of `power` or more, for normal differences of this standard deviation: the smallest n at which
    the interval of confidence 1 - 2 alpha lies within ± margin, and that of 1 - alpha above 0, so often
    (`chance_within`). None where 10,000 pairs do not.
    Raises ValueError unless 0 < deviation < inf, 0 < power < 1 and 0 <= margin < inf.

    >>> pairs_for_power(deviation=0.2, margin=0.25)
    8
    """
    require(margin=margin, alpha=alpha)
    if not (0 < deviation < math.inf and 0 < power < 1):
        raise ValueError(
            f"0 < deviation < inf and 0 < power < 1 must hold, but got deviation={deviation}, power={power}"
        )

    def powerful(pairs: int) -> bool:
        equivalent = chance_within(-margin, margin, 0.0, deviation, pairs, 1 - 2 * alpha)
        return equivalent >= power and chance_within(0.0, math.inf, margin, deviation, pairs, 1 - alpha) >= power

    return _smallest(powerful, 2)


def _smallest(holds: Callable[[int], bool], least: int) -> int | None:
    """The smallest number from `least` at which `holds`, which then holds of all larger ones."""
    found = bisect_left(range(MOST_PAIRS + 1), True, lo=min(least, MOST_PAIRS + 1), key=holds)
    return found if found <= MOST_PAIRS else None


def require(margin: float = 0.0, alpha: float = 0.05) -> None:
    """Raises ValueError unless 0 <= margin < inf and 0 < alpha < 0.5."""
    if not 0 <= margin < math.inf:
        raise ValueError(f"0 <= margin < inf must hold, but got margin={margin}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"0 < alpha < 0.5 must hold, but got alpha={alpha}")
