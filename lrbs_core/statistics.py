"""Statistics over seeds: a mean and how sure one may be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lrbs_core.claims import Measured

__all__ = ["mean_interval"]


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Measured:
    """Mean, Student's t interval of it, and n; values that are NaN make the mean NaN. One value has no interval (NaN).

    mean ± t s / sqrt(n), with t the quantile at (1 + confidence)/2 of n - 1 degrees of freedom.

    >>> [round(value, 3) for value in mean_interval([81.0, 82.0, 83.0])]
    [82.0, 79.516, 84.484, 3]
    """
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Measured(mean, math.nan, math.nan, n)
    if min(values) == max(values):
        return Measured(mean, mean, mean, n)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return Measured(mean, float(low), float(high), n)
