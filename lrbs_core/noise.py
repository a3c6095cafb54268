"""The noise scale that a policy implies, and the gradient noise scale that is measured.

The latter is B_simple = tr(Sigma)/|G|^2 (McCandlish et al. 2018, arXiv 1812.06162, equation 2.9): G the gradient over
all examples, Sigma the covariance of the gradients of single ones. About as many examples as make a useful batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["GradientNoise", "gradient_noise", "noise_scale", "unbiased"]

# |G|^2 must be so many of its own standard errors above 0, or the ratio tells nothing.
TOLD = 2.0


def noise_scale(lr: float, batch_size: float, momentum: float, examples: int) -> float:
    """g = lr (N/B - 1) / (1 - m), in units of lr x examples; about lr N / (B (1 - m)) while B << N.

    Smith et al. 2018 (arXiv 1711.00489), section 2, with the momentum of its equation 9. `lr` is for the mean loss. It
    is of SGD's update alone, with Nesterov's momentum or without (`RunSpec.noise_scale` knows a run's optimizer).
    Raises ValueError unless 0 <= momentum < 1 and 1 <= batch_size <= examples.

    >>> round(noise_scale(lr=0.1, batch_size=128, momentum=0.9, examples=50_000), 3)
    389.625
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"0 <= momentum < 1 must hold, but got momentum={momentum}")
    if not 1 <= batch_size <= examples:
        raise ValueError(f"1 <= batch_size <= examples must hold, but got batch_size={batch_size}, examples={examples}")
    return lr * (examples / batch_size - 1) / (1 - momentum)


def unbiased(squares: Any, total: Any, parts: int, batch_size: int, examples: float) -> tuple[Any, Any]:
    """Unbiased tr(Sigma) and |G|^2 from the gradients of one batch, taken in parts.

    Of K >= 2 `parts` of b_k examples each, B together, with mean gradients g_k: `squares` = sum_k b_k/B |g_k|^2, and
    `total` = |sum_k b_k/B g_k|^2. Then E squares = |G|^2 + tr(Sigma) (K/B - 1/N) and E total = |G|^2 + tr(Sigma) (1/B -
    1/N), as the batch is drawn from N `examples` without return (N infinite: with), and so

        tr(Sigma) = (squares - total) B/(K - 1),   |G|^2 = total - tr(Sigma) (1/B - 1/N).

    For equal parts and infinite N that is McCandlish et al. 2018, appendix A.1, equations A.2 and A.3, with b = B/K the
    smaller batch. Either may be negative. Takes and gives floats or tensors.

    >>> unbiased(squares=5.0, total=2.0, parts=4, batch_size=8, examples=math.inf)
    (8.0, 1.0)
    """
    trace = (squares - total) * (batch_size / (parts - 1))
    return trace, total - trace * (1 / batch_size - 1 / examples)


class GradientNoise(NamedTuple):
    """B_simple in examples, and its standard error; NaN where it cannot be told."""

    scale: float
    error: float


def gradient_noise(moments: Sequence[float]) -> GradientNoise:
    """B_simple from n pairs (x, y) of `unbiased`, given as the six sums of 1, x, y, x^2, xy, y^2 over the pairs.

    The mean of x over that of y: both are averaged before the ratio is taken, as the ratio of single pairs is biased
    and has no mean. Its standard error is that of a ratio r of means (the delta method):

        sqrt((var x - 2 r cov(x, y) + r^2 var y) / n) / mean y.

    NaN for n < 2, and where mean y is not at least 2 of its standard errors above 0. A drift of |G|^2 over the pairs
    counts as error too.

    >>> gradient_noise([2, 18.0, 2.0, 164.0, 18.0, 2.0])  # (8, 1) and (10, 1)
    GradientNoise(scale=9.0, error=1.0)
    """
    n, *sums = (float(value) for value in moments)
    if n < 2:
        return GradientNoise(math.nan, math.nan)
    x, y, xx, xy, yy = np.array(sums) / n
    var_x, cov, var_y = np.array([xx - x * x, xy - x * y, yy - y * y]) * n / (n - 1)
    if not y > TOLD * math.sqrt(max(var_y, 0.0) / n):
        return GradientNoise(math.nan, math.nan)
    ratio = float(x / y)
    spread = max(var_x - 2 * ratio * cov + ratio**2 * var_y, 0.0)
    return GradientNoise(ratio, math.sqrt(spread / n) / float(y))
