"""What mattered: shares against variances that are known in closed form, and noise that is not called anything else."""

import itertools
import math

import numpy as np
import pytest
from test_search import design, told

from lrbs_core import Choice, Range
from lrbs_core.importances import REST, importances
from lrbs_core.search import suggest

UNIT = {name: Range(0, 1) for name in "xyz"}
MIXED = {"x": Range(2, 4), "y": Range(0.001, 1, log=True), "z": Choice("a", None, 3)}


def drawn(space, random, trials):
    """Points chosen evenly."""
    return [
        {
            name: part.values[random.integers(len(part.values))] if isinstance(part, Choice)
            else part.low * (part.high / part.low) ** random.random() if part.log
            else random.uniform(part.low, part.high)
            for name, part in space.items()
        }
        for _ in range(trials)
    ]  # fmt: skip


def mean_shares(space, value, trials, searches, noise=0.0):
    found = []
    for number in range(searches):
        random = np.random.default_rng(number)
        points = drawn(space, random, trials)
        found.append(importances(space, points, [value(**point) + random.normal(0, noise) for point in points]))
        assert sum(found[-1].values()) == pytest.approx(1, abs=1e-3)
        assert list(found[-1])[-1] == REST
    return {name: np.mean([shares[name] for shares in found]) for name in (*space, REST)}


@pytest.mark.parametrize("space", [UNIT, MIXED])
@pytest.mark.parametrize(("trials", "most"), [(5, 0.1), (30, 0.03)])
def test_pure_noise_is_the_rest(space, trials, most):
    shares = mean_shares(space, lambda **_: 90.0, trials, searches=40, noise=1)
    assert max(shares[name] for name in space) < most
    assert shares[REST] > (0.8 if trials == 5 else 0.93)


def additive(x, y, z):
    """Variances 0.5, 0.2 and 0.1: of evenly drawn x, of evenly drawn log y, and of one level of three against two."""
    return (
        math.sqrt(0.5 * 12) * x / 2 + math.sqrt(0.2 * 12) * math.log10(y) / 3 + math.sqrt(0.1 / (2 / 9)) * (z is None)
    )


@pytest.mark.parametrize(("noise", "shares"), [(0.0, (0.625, 0.25, 0.125)), (0.2, (0.5, 0.2, 0.1))])
def test_names_that_add_up_have_their_shares_of_the_variance(noise, shares):
    many = mean_shares(MIXED, additive, 200, searches=10, noise=math.sqrt(noise))
    assert [many[name] for name in MIXED] == pytest.approx(shares, abs=0.04)
    # Few trials tell too little of a name, and not too much.
    few = mean_shares(MIXED, additive, 30, searches=40, noise=math.sqrt(noise))
    assert [few[name] for name in MIXED] == pytest.approx(shares, abs=0.1 if noise else 0.03)
    assert few[REST] >= many[REST] - 0.01


def test_the_mean_over_seeds_has_less_noise():
    one, nine = (mean_shares(MIXED, additive, 100, searches=10, noise=math.sqrt(0.8 / n))[REST] for n in (1, 9))
    assert one == pytest.approx(0.5, abs=0.08)
    assert nine == pytest.approx(0.1, abs=0.03)


def test_the_function_of_ishigami_has_the_first_order_indices_of_the_literature():
    """Ishigami and Homma 1990: S1 = 0.3139, S2 = 0.4424, S3 = 0; the rest is the interaction of x and z."""
    space = {name: Range(-math.pi, math.pi) for name in "xyz"}
    shares = mean_shares(
        space, lambda x, y, z: math.sin(x) + 7 * math.sin(y) ** 2 + 0.1 * z**4 * math.sin(x), 300, searches=5
    )
    assert [*shares.values()] == pytest.approx([0.3139, 0.4424, 0, 0.2437], abs=0.04)


@pytest.mark.parametrize("trials", [30, 200])
def test_a_pure_interaction_is_the_rest(trials):
    shares = mean_shares(UNIT, lambda x, y, **_: (x - 0.5) * (y - 0.5), trials, searches=20)
    assert max(shares[name] for name in UNIT) < 0.05
    assert shares[REST] > 0.9


def test_a_peak_and_a_grid_are_told_too():
    peak = mean_shares(MIXED, lambda y, **_: -abs(math.log10(y) + 1), 30, searches=10)
    assert peak["y"] > 0.95
    points = [dict(zip("xy", point, strict=True)) for point in itertools.product((0.0, 0.5, 1.0), repeat=2)]
    space = {name: UNIT[name] for name in "xy"}
    # Of three levels a line has the variance 1/6, the square of one in the middle 1/18 in these units.
    grid = importances(space, points, [point["x"] + (2 * point["y"] - 1) ** 2 / 2 for point in points])
    assert (grid["x"], grid["y"], grid[REST]) == pytest.approx((0.75, 0.25, 0), abs=0.1)


def test_of_trials_that_tpe_chose_each_name_has_what_its_own_part_of_the_sum_has():
    found = []
    for number in range(5):
        plan, trials, parts = design(trials=60, sampler_seed=number), [], []
        while point := suggest(plan, trials):
            parts.append((-((math.log10(point["lr"]) + 1) ** 2), -((4 * point["momentum"] - 3) ** 2)))
            trials.append(told(plan, point, value=sum(parts[-1])))
        y = np.sum(parts, axis=1)
        lr, momentum = (np.cov(part, y)[0, 1] / y.var(ddof=1) for part in np.transpose(parts))
        shares = importances(plan.candidates.space, [trial.params for trial in trials], [*y])
        found.append([shares["lr"] - lr, shares["momentum"] - momentum, shares["growth"], shares[REST]])
    assert np.mean(found, axis=0) == pytest.approx([0, 0, 0, 0], abs=0.06)


@pytest.mark.parametrize(
    "values",
    [[], [5.0], [1.0, 2.0], [97.2222222] * 4, [0.0] * 3, [(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3, 0.2]],
)
def test_nothing_is_told_of_too_few_or_equal_values(values):
    points = [{"x": value, "y": value, "z": value} for value in (0.1, 0.2, 0.4, 0.7)]
    assert importances(UNIT, points[: len(values)], values) == {}


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1e300])
def test_a_share_knows_no_unit(unit):
    random = np.random.default_rng(0)
    points = drawn(MIXED, random, 20)
    values = [additive(**point) for point in points]
    assert importances(MIXED, points, [unit * value for value in values]) == pytest.approx(
        importances(MIXED, points, values), abs=1e-3
    )
