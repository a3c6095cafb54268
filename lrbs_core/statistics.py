"""Statistics over seeds: a mean and how sure one may be of it; policies against a baseline, over runs paired by seed.

A difference is policy - baseline. What too few runs, or a missing number, do not tell is NaN.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special, stats

from lrbs_core.claims import Measured

__all__ = [
    "Comparison", "Outcome", "bootstrap_interval", "compare", "difference_p", "equivalence_p", "holm", "judge",
    "mean_interval", "more_pairs", "paired_differences", "pairs_for_power",
]  # fmt: skip

Outcome = Literal["equivalent", "different", "not enough runs"]

# Nobody trains so many seeds.
MOST_PAIRS = 10_000


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Measured:
    """Mean, Student's t interval of it, and n; values that are NaN make the mean NaN. One value has no interval (NaN).

    mean ± t s / sqrt(n), with t the quantile at (1 + confidence)/2 of n - 1 degrees of freedom.

    >>> [round(value, 3) for value in mean_interval([81.0, 82.0, 83.0])]
    [82.0, 79.516, 84.484, 3]
    """
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2 or not math.isfinite(mean):
        return Measured(mean, math.nan, math.nan, n)
    if min(values) == max(values):
        return Measured(mean, mean, mean, n)
    # Not stats.ttest_1samp, of which a report of many rows would spend most of its time in checks of its input.
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1)) / math.sqrt(n)
    return Measured(mean, mean - half, mean + half, n)


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Measured:
    """Mean, bootstrap interval of it, and n, as `mean_interval` gives them; the same at every call with one `seed`.

    Bias-corrected and accelerated (BCa): Efron 1987, "Better bootstrap confidence intervals", from 9,999 resamples. It
    assumes no normal distribution, but lies within the values: the mean of a symmetric distribution is outside of all n
    with probability 2^(1 - n), so that under 6 runs cannot cover 95 % and want Student's t.

    >>> [round(value, 1) for value in bootstrap_interval([1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 12.0])]
    [3.9, 2.1, 8.1, 7]
    """
    measured = mean_interval(values, confidence)
    if math.isnan(measured.low) or measured.low == measured.high:
        return measured
    # Sorted, as resamples are drawn by position, and the order of the runs means nothing.
    found = stats.bootstrap((sorted(values),), np.mean, confidence_level=confidence, method="BCa", rng=seed)
    low, high = found.confidence_interval
    return measured._replace(low=float(low), high=float(high))


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """values - baseline of every seed that both have, in order of the seeds.

    Told to 12 digits of the largest value, so that two differences of 0.1 are equal, and not 1e-14 apart.

    >>> paired_differences({1: 81.3, 2: 82.3, 3: 80.0}, {1: 81.2, 2: 82.2, 4: 80.5})
    [0.1, 0.1]
    """
    pairs = [(float(values[seed]), float(baseline[seed])) for seed in sorted(values.keys() & baseline.keys())]
    differences = [value - other for value, other in pairs]
    largest = max((abs(value) for pair in pairs for value in pair), default=0.0)
    if not 0 < largest < math.inf:
        return differences
    return [round(difference, 11 - math.floor(math.log10(largest))) for difference in differences]


def difference_p(differences: Sequence[float]) -> float:
    """p of the paired t-test that the mean difference is 0, two-sided: t = mean sqrt(n) / s, n - 1 degrees of freedom.

    NaN for n < 2. Of differences that are all equal, as a test set of few examples makes them, a t-test would have no
    doubt: p is then that of Fisher's test by all flips of their signs, 2^(1-n), or 1 where they are 0.

    >>> round(difference_p([0.1, 0.3, 0.2]), 4), difference_p([0.2, 0.2, 0.2])
    (0.0742, 0.25)
    """
    return _t_test(differences, 0.0, "two-sided")


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """p of two one-sided tests (TOST) that the mean difference is -margin or less, or margin or more: the larger one.

    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach", paired. It is alpha or
    less just where the interval of confidence 1 - 2 alpha of the mean lies within ± margin. NaN for n < 2; 2^-n, or 1,
    of differences that are all equal (`difference_p`). Raises ValueError unless 0 <= margin < inf.

    >>> round(equivalence_p([0.1, 0.3, 0.2], margin=0.5), 4)
    0.0175
    """
    _require(margin=margin)
    return max(_t_test(differences, -margin, "greater"), _t_test(differences, margin, "less"))


def _t_test(differences: Sequence[float], mean: float, alternative: Literal["two-sided", "less", "greater"]) -> float:
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return math.nan
    if min(differences) == max(differences):
        first, flips = differences[0], 2.0 ** -len(differences)
        p = {"two-sided": 2 * flips, "less": flips, "greater": flips}[alternative]
        return p if {"two-sided": first != mean, "less": first < mean, "greater": first > mean}[alternative] else 1.0
    return float(stats.ttest_1samp(differences, mean, alternative=alternative).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of m tests, corrected so that the chance of any false rejection is alpha or less: Holm's step-down.

    Of the i-th smallest, i from 1: the largest over j <= i of (m - j + 1) p_j, and 1 at most (Holm 1979, "A simple
    sequentially rejective multiple test procedure"). A NaN stays, and counts as a test: m is what one set out to test.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in corrected]


def judge(p: float, p_equivalence: float, alpha: float = 0.05) -> Outcome:
    """What the test for a difference and that for equivalence say together, each at level alpha.

    Equivalence within the margin is what was asked, so it goes first: a difference may be sure and too small to matter.
    A p-value that is NaN rejects nothing.

    >>> judge(p=0.001, p_equivalence=0.01), judge(p=0.001, p_equivalence=0.4), judge(p=0.2, p_equivalence=0.4)
    ('equivalent', 'different', 'not enough runs')
    """
    _require(alpha=alpha)
    return "equivalent" if p_equivalence <= alpha else "different" if p <= alpha else "not enough runs"


def more_pairs(differences: Sequence[float], margin: float, alpha: float = 0.05) -> int | None:
    """How many more pairs would settle it, were their mean and standard deviation s to stay as they are; 0: it is.

    To the smallest n with |mean| + t_(1-alpha) s / sqrt(n) < margin ("equivalent"), or with |mean| > t_(1-alpha/2) s /
    sqrt(n) ("different"), t of n - 1 degrees of freedom; with s = 0 to 2^-n <= alpha, or 2^(1-n). They will not stay
    quite so: a rough guide, where `pairs_for_power` says how many settle it with a chance that one chooses. None where
    fewer than two differences, or a NaN among them, tell nothing, and where 10,000 pairs would not settle it.

    >>> more_pairs([0.1, 0.3, 0.2], margin=0.25)
    1
    """
    _require(margin=margin, alpha=alpha)
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        return None
    equal = min(differences) == max(differences)
    mean = abs(differences[0] if equal else float(np.mean(differences)))
    deviation = float(np.std(differences, ddof=1))

    def settled(pairs: int) -> bool:
        if equal:
            return (mean < margin and 2.0**-pairs <= alpha) or (mean > 0 and 2.0 ** (1 - pairs) <= alpha)
        error = deviation / math.sqrt(pairs)
        one_sided, two_sided = (float(stats.t.ppf(1 - level, pairs - 1)) * error for level in (alpha, alpha / 2))
        return mean + one_sided < margin or mean > two_sided

    found = _smallest(settled, n)
    return None if found is None else found - n


def pairs_for_power(
    mean: float, deviation: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """How many pairs find "equivalent", or else "different", with a chance of `power` or more.

    For true `mean` and standard `deviation` of normal differences. A one-sided test at level a, x away from what it
    rejects, has power b(a, x) = P(t > t_(1-a)) with t noncentral by x sqrt(n) / deviation, n - 1 degrees of freedom. So
    b(alpha/2, |mean|) for a difference, its sign right; and for equivalence b(alpha, margin - mean) + b(alpha, margin +
    mean) - 1, a lower bound as it leaves out that both share s (Phillips 1990, "Power of the two one-sided tests
    procedure in bioequivalence", has the exact one). None where 10,000 pairs do not.
    Raises ValueError unless 0 < deviation < inf, 0 < power < 1 and 0 <= margin < inf.

    >>> pairs_for_power(mean=0.0, deviation=0.2, margin=0.25)
    8
    """
    _require(margin=margin, alpha=alpha)
    if not (0 < deviation < math.inf and 0 < power < 1):
        raise ValueError(
            f"0 < deviation < inf and 0 < power < 1 must hold, but got deviation={deviation}, power={power}"
        )

    def powerful(pairs: int) -> bool:
        def rejects(level: float, distance: float) -> float:
            # Of t < -t_(1-a), the same by symmetry. Where scipy's nct is NaN the chance is 1 (shift below -1e6) or 0.
            shift = max(-distance * math.sqrt(pairs) / deviation, -1e6)
            return float(np.nan_to_num(stats.nct.cdf(-stats.t.ppf(1 - level, pairs - 1), pairs - 1, shift)))

        equivalent = rejects(alpha, margin - mean) + rejects(alpha, margin + mean) - 1
        return rejects(alpha / 2, abs(mean)) >= power or equivalent >= power

    return _smallest(powerful, 2)


def _smallest(holds: Callable[[int], bool], least: int) -> int | None:
    """The smallest number from `least` at which `holds`, which then holds of all larger ones."""
    found = bisect_left(range(MOST_PAIRS + 1), True, lo=min(least, MOST_PAIRS + 1), key=holds)
    return found if found <= MOST_PAIRS else None


class Comparison(NamedTuple):
    """One policy less the baseline, over n pairs; `low` to `high` is the interval of confidence 1 - alpha.

    `p` and `p_equivalence` are corrected for the number of policies, the interval is not.
    """

    label: str
    n: int
    mean: float
    low: float
    high: float
    p: float
    p_equivalence: float
    verdict: Outcome
    more_seeds: int | None


def compare(
    values: Mapping[str, Mapping[int, float]], baseline: str, margin: float, alpha: float = 0.05
) -> list[Comparison]:
    """Each other policy against the `baseline`, from one number a seed of every label.

    `margin`, in the unit of the numbers, is the largest mean difference that does not matter; 0 asks for differences
    alone. Both tests over all policies are corrected by Holm's method, each family for itself: the chance that any
    policy of no difference is called different is at most alpha, and so is that of any outside the margin being called
    equivalent. `more_seeds` is `more_pairs` at level alpha / policies, which settles it whatever the others show.
    A NaN leaves its policy without a verdict; a diverged run that is left out instead flatters it.
    Raises ValueError for a baseline that is not among the labels, unless 0 <= margin < inf, and unless 0 < alpha < 0.5.

    >>> runs = {"decay": {1: 81.0, 2: 82.0, 3: 81.5}, "growth": {1: 81.1, 2: 82.0, 3: 81.4}}
    >>> compare(runs, baseline="decay", margin=0.5)[0].verdict
    'equivalent'
    """
    _require(margin=margin, alpha=alpha)
    if baseline not in values:
        raise ValueError(f"baseline must be one of {', '.join(map(repr, values))}, but got {baseline!r}")
    others = [label for label in values if label != baseline]
    differences = [paired_differences(values[label], values[baseline]) for label in others]
    tests = zip(
        holm([difference_p(pairs) for pairs in differences]),
        holm([equivalence_p(pairs, margin) for pairs in differences]),
        strict=True,
    )
    table = []
    for label, pairs, (p, p_equivalence) in zip(others, differences, tests, strict=True):
        mean, low, high, n = mean_interval(pairs, 1 - alpha)
        outcome = judge(p, p_equivalence, alpha)
        more = more_pairs(pairs, margin, alpha / len(others)) if outcome == "not enough runs" else 0
        table.append(Comparison(label, n, mean, low, high, p, p_equivalence, outcome, more))
    return table


def _require(margin: float = 0.0, alpha: float = 0.05) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"0 <= margin < inf must hold, but got margin={margin}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"0 < alpha < 0.5 must hold, but got alpha={alpha}")
