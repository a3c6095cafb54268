"""Statistics over seeds: a mean and how sure one may be of it; policies against a baseline, over runs paired by seed.

A difference is policy - baseline. What too few runs, or a missing number, do not tell is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special, stats

from lrbs_core.claims import Measured
from lrbs_core.power import new_pairs, require

__all__ = [
    "Comparison", "Outcome", "bootstrap_interval", "compare", "difference_p", "equivalence_p", "holm", "judge",
    "mean_interval", "paired_differences",
]  # fmt: skip

Outcome = Literal["equivalent", "different", "no difference found", "not enough runs"]


def mean_interval(values: Sequence[float], confidence: float = 0.95, resolution: float = 0.0) -> Measured:
    """Mean, Student's t interval of it, and n; values that are NaN make the mean NaN. One value has no interval (NaN).

    mean ± t s / sqrt(n), with t the quantile at (1 + confidence)/2 of n - 1 degrees of freedom. Values that are all
    equal have s = 0, but their mean is not known exactly: its interval is ± `resolution`, the smallest difference that
    a value can show. That is one example of the test set for accuracies (`results.accuracy_resolution`), 0 for counts.

    >>> [round(value, 3) for value in mean_interval([81.0, 82.0, 83.0])]
    [82.0, 79.516, 84.484, 3]
    >>> mean_interval([97.5, 97.5, 97.5], resolution=0.25)
    Measured(mean=97.5, low=97.25, high=97.75, n=3)
    """
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2 or not math.isfinite(mean):
        return Measured(mean, math.nan, math.nan, n)
    if min(values) == max(values):
        return Measured(mean, mean - resolution, mean + resolution, n)
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
    require(margin=margin)
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


def judge(p: float, p_equivalence: float | None = None, alpha: float = 0.05) -> Outcome:
    """What the test for a difference and that for equivalence say together, each at level alpha.

    Equivalence within the margin is what was asked, so it goes first: a difference may be sure and too small to matter.
    Where no margin was named, `p_equivalence` is None and nothing can be called equal: what is not different is "no
    difference found". A p-value that is NaN rejects nothing, and as the test could not be made finds nothing.

    >>> judge(p=0.001, p_equivalence=0.01), judge(p=0.001, p_equivalence=0.4), judge(p=0.2, p_equivalence=0.4)
    ('equivalent', 'different', 'not enough runs')
    >>> judge(p=0.2)
    'no difference found'
    """
    require(alpha=alpha)
    if p_equivalence is not None and p_equivalence <= alpha:
        return "equivalent"
    if p <= alpha:
        return "different"
    return "not enough runs" if p_equivalence is not None or math.isnan(p) else "no difference found"


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
    new_seeds: int | None


def compare(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    margin: float,
    alpha: float = 0.05,
    resolution: float = 0.0,
) -> list[Comparison]:
    """Each other policy against the `baseline`, from one number a seed of every label.

    `margin`, in the unit of the numbers, is the largest mean difference that does not matter; 0 asks for differences
    alone. `resolution` is the smallest difference that one number can show (`mean_interval`). Both tests over all
    policies are corrected by Holm's method, each family for itself: the chance that any policy of no difference is
    called different is at most alpha, and so is that of any outside the margin being called equivalent. `new_seeds`,
    where a margin leaves it open, is `new_pairs` at level alpha / policies, which have their power whatever the others
    show; None where it is settled, or no margin was named.
    A NaN leaves its policy without a verdict; a diverged run that is left out instead flatters it.
    Raises ValueError for a baseline that is not among the labels, unless 0 <= margin < inf, and unless 0 < alpha < 0.5.

    >>> runs = {"decay": {1: 81.0, 2: 82.0, 3: 81.5}, "growth": {1: 81.1, 2: 82.0, 3: 81.4}}
    >>> compare(runs, baseline="decay", margin=0.5)[0].verdict
    'equivalent'
    """
    require(margin=margin, alpha=alpha)
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
        mean, low, high, n = mean_interval(pairs, 1 - alpha, resolution)
        outcome = judge(p, p_equivalence if margin else None, alpha)
        new = new_pairs(pairs, margin, alpha / len(others), resolution) if outcome == "not enough runs" else None
        table.append(Comparison(label, n, mean, low, high, p, p_equivalence, outcome, new))
    return table
