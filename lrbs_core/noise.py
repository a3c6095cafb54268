"""The noise scale that a policy implies, and the gradient noise scale that is measured.

The latter is B_simple = tr(Sigma)/|G|^2 (McCandlish et al. 2018, arXiv 1812.06162, equation 2.9): G the gradient over
all examples, Sigma the covariance of the gradients of single ones. About as many examples as make a useful batch.
Both are of the mean loss as it is trained: augmentation, dropout and the other examples of a ghost batch are part of
what makes gradients differ, and weight decay, which is none of the loss, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "NOT_TOLD", "GradientNoise", "gradient_noise", "measured_ends", "noise_scale", "noise_text", "unbiased",
]  # fmt: skip


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


def unbiased(squares: Any, product: Any, parts: int, examples: int) -> tuple[Any, Any]:
    """Unbiased tr(Sigma) and |G|^2 from an update's mean gradient g and those of other examples at the same weights.

    The others, M `examples` drawn with return, are taken in K `parts` of b_k with mean gradients h_k: `squares` = sum_k
    b_k/M |h_k|^2, and `product` = g . sum_k b_k/M h_k. As g and h_k are independent, E product = |G|^2, whatever the
    batch, its share of the training set and its augmentation; and E squares = |G|^2 + tr(Sigma) K/M, so that

        tr(Sigma) = (squares - product) M/K,   |G|^2 = product.

    This is McCandlish et al. 2018, appendix A.1, equations A.2 and A.3, for two batches that share no example instead
    of one and a part of it. Within one batch, how much of the noise is augmentation's would have to be known: only what
    comes from the choice of examples is less where they are drawn without return. Either result may be negative.
    Takes and gives floats or tensors.

    >>> unbiased(squares=5.0, product=1.0, parts=2, examples=4)
    (8.0, 1.0)
    """
    return (squares - product) * (examples / parts), product


class GradientNoise(NamedTuple):
    """B_simple in examples, with its 95 % interval from `low` to `high`; NaN where it cannot be told.

    Where the interval has no upper end, `scale` and `high` are NaN: B_simple is `low` at least.
    """

    scale: float
    low: float
    high: float


NOT_TOLD = GradientNoise(math.nan, math.nan, math.nan)


def measured_ends(policy: Mapping[str, Any]) -> list[str]:
    """The gradient noise scale of a report's policy in its first and last phase, as text."""
    told = policy["gradient_noise_scale"]
    return [noise_text(noise) for noise in (told if len(told) == 1 else (told[0], told[-1]))]


def noise_text(noise: Mapping[str, float | None]) -> str:
    """A `GradientNoise` as JSON has it, with null for NaN, as it is shown to people: three digits, and its interval.

    >>> noise_text({"scale": 412.3, "low": 351.0, "high": 498.9}), noise_text({"scale": None, "low": 53, "high": None})
    ('412 (351 to 499)', 'over 53')
    """
    scale, low, high = (
        "" if value is None else f"{float(f'{value:.3g}'):,.15g}"
        for value in (noise[end] for end in GradientNoise._fields)
    )
    return f"{scale} ({low} to {high})" if high else f"over {low}" if low else "-"


def gradient_noise(moments: Sequence[float], confidence: float = 0.95) -> GradientNoise:
    """B_simple from n pairs (x, y) of `unbiased`, given as the six sums of 1, x, y, x^2, xy, y^2 over the pairs.

    The mean of x over that of y: both are averaged before the ratio is taken, as the ratio of single pairs is biased
    and has no mean. For several rows or seeds, therefore, add up their sums: do not average their readings.

    The interval is Fieller's (1954, "Some problems in interval estimation"): all ratios r at which the mean of x - r y
    does not differ from 0 by a t-test of n - 1 degrees of freedom. It has no upper end where |G|^2 may be 0, and starts
    at 0 where tr(Sigma) may be 0. In simulations it covers true ratios of 1 to 100 batches in 94 to 97 %. A drift of
    tr(Sigma) or |G|^2 over the pairs counts as error too. Nothing is told for n < 3, and where tr(Sigma) or |G|^2 comes
    out below 0 by more than chance, or both may be 0.

    >>> [round(value, 2) for value in gradient_noise([4, 36.0, 4.0, 326.0, 36.0, 4.02])]
    [9.0, 7.38, 10.92]
    """
    n, *sums = (float(value) for value in moments)
    if n < 3 or not all(map(math.isfinite, sums)):
        return NOT_TOLD
    from scipy import special  # only where noise is measured or shown

    x, y, xx, xy, yy = (value / n for value in sums)
    level = float(special.stdtrit(n - 1, (1 + confidence) / 2)) ** 2 / (n - 1)
    # (x - r y)^2 <= level (var x - 2 r cov + r^2 var y), which is a r^2 - 2 b r + c <= 0.
    a, b, c = y * y - level * (yy - y * y), x * y - level * (xy - x * y), x * x - level * (xx - x * x)
    root = math.sqrt(max(b * b - a * c, 0.0))
    below_0 = (c > 0 and (x < 0 or b + root <= 0)) or (a > 0 and y < 0)
    if below_0 or (a <= 0 and c <= 0):
        return NOT_TOLD
    # The lower end by the product of the roots, c / a, rather than as a difference of numbers that may be near.
    low = c / (b + root) if c > 0 else 0.0
    return GradientNoise(max(x, 0.0) / y, low, (b + root) / a) if a > 0 else GradientNoise(math.nan, low, math.nan)
