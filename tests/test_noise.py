"""The noise scale, by hand and by what Smith et al. 2018 (arXiv 1711.00489) print."""

import pytest

from lrbs_core.noise import noise_scale


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
