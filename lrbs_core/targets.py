"""Time, updates and examples to a target accuracy, over runs that reach it and runs that do not.

Shallue et al. 2018 (arXiv 1811.03600) compare batch sizes by the updates to a goal. A run that does not get there tells
that it takes longer than it ran: it is censored there, and kept, as dropping it would flatter its policy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from lrbs_core.journal import Row

__all__ = ["TargetMedian", "ToTarget", "logrank_p", "median_to_target", "to_target"]


class ToTarget(NamedTuple):
    """What a run took to the target, or, where it is not `reached`, the amount that was not enough."""

    value: float
    reached: bool


class TargetMedian(NamedTuple):
    """What the median run takes, with its interval, and how many of the n runs reached the target."""

    median: float
    low: float
    high: float
    reached: int
    n: int


def to_target(
    rows: Sequence[Row],
    target: float,
    measure: Literal["epoch", "updates", "examples", "train_seconds"],
    diverged: bool = False,
) -> ToTarget:
    """The measure at the first row whose test accuracy, in percent, is at least the target; or else at the last row.

    A row is the finest that can be told: the target was reached between it and the one before. A run that diverged
    before will never get there, and no amount is enough (inf). Of a run without rows, 0 was not enough.
    Raises ValueError unless 0 < target <= 100.

    >>> rows = [{"updates": 10, "test_accuracy": 70.0}, {"updates": 20, "test_accuracy": 81.0}]
    >>> to_target(rows, 80.0, "updates"), to_target(rows, 90.0, "updates")
    (ToTarget(value=20.0, reached=True), ToTarget(value=20.0, reached=False))
    """
    if not 0 < target <= 100:
        raise ValueError(f"0 < target <= 100, in percent, must hold, but got target={target}")
    for row in rows:
        if row["test_accuracy"] >= target:
            return ToTarget(float(row[measure]), True)
    if diverged:
        return ToTarget(math.inf, False)
    return ToTarget(float(rows[-1][measure]) if rows else 0.0, False)


def median_to_target(runs: Sequence[ToTarget], confidence: float = 0.95) -> TargetMedian:
    """The median by Kaplan and Meier 1958 over runs that reach the target and runs that do not.

    S(x), the share of runs that take more than x, is the product of 1 - d_i/n_i over the amounts x_i <= x at which d_i
    runs reach the target, of n_i still on the way. The median is the smallest x with S(x) <= 1/2; NaN where S stays
    above. Its interval holds the x at which that of S(x) (exponential Greenwood) holds 1/2: Brookmeyer and Crowley
    1982, "A confidence interval for the median survival time". A bound that the runs leave open is NaN.

    Runs must end for reasons that have nothing to do with how near they are: after so many epochs, say. One that was
    stopped early because it did badly is not such a run, and makes the median too small.

    >>> median_to_target([ToTarget(100, True), ToTarget(120, True), ToTarget(150, True), ToTarget(200, False)])
    TargetMedian(median=120.0, low=100.0, high=nan, reached=3, n=4)
    """
    reached = sum(run.reached for run in runs)
    if not reached:
        return TargetMedian(math.nan, math.nan, math.nan, 0, len(runs))
    survival = stats.ecdf(_censored(runs, _latest(runs))).sf
    with warnings.catch_warnings():
        # Before the first run gets there and after the last one S is 1 and 0, of which the formula has no interval.
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        interval: Any = survival.confidence_interval(confidence, method="log-log")
    median, low, high = (
        # S is a product of fractions: 1/2 may come out as a little more.
        float(next(iter(survival.quantiles[probabilities <= 0.5 + 1e-12]), math.nan))
        for probabilities in (survival.probabilities, interval.low.probabilities, interval.high.probabilities)
    )
    return TargetMedian(median, low, high, reached, len(runs))


def logrank_p(runs: Sequence[ToTarget], others: Sequence[ToTarget]) -> float:
    """p of the log-rank test that two policies take as much to the target, two-sided; not paired by seed.

    Mantel 1966, "Evaluation of survival data and two new rank order statistics arising in its consideration": the runs
    that reach the target against those expected, were both policies alike. NaN where either has no run, or none reached
    it while both had runs on the way. The normal approximation asks for some five runs a side.

    >>> slow, fast = ([ToTarget(100.0 * k, True) for k in seeds] for seeds in ((6, 7, 8, 9), (1, 2, 3, 4)))
    >>> round(logrank_p(slow, fast), 3)
    0.007
    """
    latest = _latest([*runs, *others])
    if not (runs and others and any(run.reached for run in (*runs, *others))):
        return math.nan
    with np.errstate(invalid="ignore"):
        return float(stats.logrank(_censored(runs, latest), _censored(others, latest)).pvalue)


def _latest(runs: Sequence[ToTarget]) -> float:
    return max((run.value for run in runs if math.isfinite(run.value)), default=0.0)


def _censored(runs: Sequence[ToTarget], latest: float) -> stats.CensoredData:
    """For scipy, which takes no inf: a run that will never get there is on the way as long as any other one."""
    return stats.CensoredData.right_censored(
        [min(run.value, latest) for run in runs], [not run.reached for run in runs]
    )
