"""The noise scale, by hand and by what Smith et al. 2018 (arXiv 1711.00489) print."""

import math

import numpy as np
import pytest
from scipy import stats

from lrbs_core.noise import gradient_noise, noise_scale


@pytest.mark.parametrize(
    ("lr", "batch_size", "momentum", "examples", "expected"),
    [
        (1, 1, 0, 2, 1),
        (0.1, 20, 0.9, 100, 4),  # 0.1 (5 - 1) / 0.1
        (0.1, 100, 0.9, 100, 0),  # the whole set in a batch: no noise
        (0, 20, 0.9, 100, 0),
        (1, 16000, 0, 50_000, 2.125),  # the exact N/B - 1 where N/B is 3.125
    ],
)
def test_known_values(lr, batch_size, momentum, examples, expected):
    assert noise_scale(lr, batch_size, momentum, examples) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("lr", "batch_size", "momentum"), [(0.1, 128, 0.9), (0.5, 640, 0.9), (0.5, 3200, 0.98)])
def test_all_starts_of_the_cifar_ladder_lie_just_below_390_6(lr, batch_size, momentum):
    lost = batch_size / 50_000  # N/B - 1 is lower than N/B by this part of it
    assert noise_scale(lr, batch_size, momentum, 50_000) == pytest.approx(390.625 * (1 - lost))


@pytest.mark.parametrize(
    ("batch_size", "momentum", "message"),
    [
        (0, 0.9, "1 <= batch_size <= examples must hold, but got batch_size=0, examples=100"),
        (101, 0.9, "batch_size=101, examples=100"),
        (float("nan"), 0.9, "batch_size=nan"),
        (10, 1, "0 <= momentum < 1 must hold, but got momentum=1"),
        (10, -0.1, "momentum=-0.1"),
        (10, float("nan"), "momentum=nan"),
    ],
)
def test_what_has_no_noise_scale_is_refused(batch_size, momentum, message):
    with pytest.raises(ValueError, match=message):
        noise_scale(0.1, batch_size, momentum, 100)


def simulated(ratio, batches, dimensions, random):
    """Sums of pairs where B_simple is `ratio` batches: gradients of normal noise whose variance falls as 1/k."""
    variance = 1 / np.arange(1, dimensions + 1)
    variance /= variance.sum()
    mean = random.normal(size=dimensions) * np.sqrt(variance)
    mean /= np.linalg.norm(mean) * math.sqrt(ratio)
    g, h = mean + random.normal(size=(2, batches, dimensions)) * np.sqrt(variance)
    product = (g * h).sum(1)
    pairs = np.array([(h * h).sum(1) - product, product])  # in batches, so that tr(Sigma) = 1
    return np.array([batches, *pairs.sum(1), (pairs[0] ** 2).sum(), pairs.prod(0).sum(), (pairs[1] ** 2).sum()])


@pytest.mark.parametrize("batches", [12, 98])
@pytest.mark.parametrize("ratio", [1, 10, 40, 100])
def test_the_interval_covers_the_true_ratio_in_95_of_100(ratio, batches):
    random, told = np.random.default_rng(ratio), []
    for _ in range(600):
        told.append(gradient_noise(simulated(ratio, batches, 100, random)))
    covered = np.mean([reading.low <= ratio and not reading.high < ratio for reading in told])
    assert 0.92 < covered < 0.98  # 0.95 -+ 3.4 standard errors of 600
    # An interval without an upper end has no reading, whose mean would be below the truth.
    assert all(math.isnan(reading.scale) == math.isnan(reading.high) for reading in told)


@pytest.mark.parametrize("ratio", [1, 10, 40])
def test_sums_over_seeds_and_rows_tell_what_single_rows_cannot(ratio):
    random = np.random.default_rng(ratio)
    rows = [simulated(ratio, 24, 1000, random) for _ in range(400)]
    pooled = gradient_noise(np.sum(rows, axis=0))
    # Each row has a mean gradient of its own, but all the same ratio.
    assert pooled.low < ratio < pooled.high < 1.5 * pooled.low
    assert pooled.scale == pytest.approx(ratio, rel=0.12)


def test_the_interval_is_fiellers_by_its_definition():
    random = np.random.default_rng(3)
    x, y = random.normal(5, 3, 40), random.normal(1, 1.2, 40)
    reading = gradient_noise([40, x.sum(), y.sum(), (x * x).sum(), (x * y).sum(), (y * y).sum()])
    for end in (reading.low, reading.high):
        assert stats.ttest_1samp(x - end * y, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert reading.scale == pytest.approx(x.mean() / y.mean())
    # With so much noise in y that it may be 0, what x - r y = 0 does not rule out goes on for ever.
    y = random.normal(0.05, 1.2, 40)
    reading = gradient_noise([40, x.sum(), y.sum(), (x * x).sum(), (x * y).sum(), (y * y).sum()])
    assert stats.ttest_1samp(x - reading.low * y, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert stats.ttest_1samp(x - 1e9 * y, 0).pvalue > 0.05
    assert math.isnan(reading.high)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([5.0, 5.1, 4.9], [-1.0, -1.1, -0.9]),  # |G|^2 below 0
        ([-5.0, -5.1, -4.9], [1.0, 1.1, 0.9]),  # tr(Sigma) below 0
        ([1.0, -1.0, 0.1], [1.0, -1.0, 0.1]),  # both may be 0
        ([1.0, 2.0], [1.0, 1.0]),
        ([1.0, math.inf, 2.0], [1.0, 1.0, 1.0]),
        ([], []),
    ],
)
def test_where_nothing_is_told_all_is_missing(x, y):
    sums = [sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((x, x), (x, y), (y, y))]
    assert all(map(math.isnan, gradient_noise([len(x), sum(x), sum(y), *sums])))


def test_gradients_without_noise_have_a_noise_scale_of_0():
    reading = gradient_noise([4, 0.0, 8.0, 0.02, 0.0, 16.0])
    assert reading.scale == reading.low == 0
    assert 0 < reading.high < 0.1
