"""Stopping early where the truth is known: by the policy, not by its cycle. Journals are made up, 72 runs a search."""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats
from test_search_rungs import N, cyclic, spec_of

from lrbs_core.search_rungs import Rival, Rungs, rungs_of

EPOCHS, EACH, SEARCHES = 60, 18, 30
EPOCH = np.arange(1.0, EPOCHS + 1)
# By stepsize; 0 is of no cycles.
SPECS = {0: spec_of(epochs=EPOCHS)} | {stepsize: cyclic(stepsize, epochs=EPOCHS) for stepsize in (1, 2, 5)}
STEPSIZES = np.array([*SPECS])


def height(stepsize):
    """Of lr within its cycle, 0 to 1, after each epoch."""
    return np.interp(EPOCH % (2 * stepsize), [0, stepsize, 2 * stepsize], [0, 1, 0]) if stepsize else 0 * EPOCH


def search(random, dip, spread, noise, slowness):
    """The stepsize of each run, how good it is, and the epoch at which it is stopped, 0 for none.

    Accuracy after e epochs: 95 - 85 exp(-e/slowness) + how good the run is - dip of lr's height + noise. Four workers;
    runs are of any pace and begin in any order.
    """
    stepsizes = random.permutation(np.repeat(STEPSIZES, EACH))
    good = random.normal(0, spread, len(stepsizes))
    curves = 95 - 85 * np.exp(-EPOCH / slowness) + good[:, None] - dip * np.array([*map(height, stepsizes)])
    curves += random.normal(0, noise, curves.shape)
    rows = [
        [
            {"examples": epoch * N, "test_accuracy": value, "train_loss": 1.0}
            for epoch, value in zip(EPOCH, curve, strict=True)
        ]
        for curve in curves
    ]
    times = np.arange(len(rows))[:, None] / 4 * EPOCHS / 3 + random.lognormal(0, 0.3, (len(rows), 1)) * EPOCH
    judge = Rungs(None, rungs_of([*SPECS.values()]), "test_accuracy", up=True)
    stopped = np.zeros(len(rows), int)
    at_rungs = [
        (times[number, math.ceil(rung / N - 1e-6) - 1], number, rung)
        for number in range(len(rows))
        for rung in judge.examples
    ]
    for time, number, rung in sorted(at_rungs):
        if not stopped[number]:
            told = [np.searchsorted(when, time, "right") for when in times]
            told = np.where(stopped > 0, np.minimum(told, stopped), told)
            rivals = [Rival(rows[other][: told[other]]) for other in range(len(rows)) if other != number]
            epoch = math.ceil(rung / N - 1e-6)
            if judge.falls_short(SPECS[stepsizes[number]], rows[number][:epoch], rivals, rung):
                stopped[number] = epoch
    return stepsizes, good, stopped


@cache
def searches(seed=0, **world):
    random = np.random.default_rng(seed)
    return tuple(map(np.array, zip(*(search(random, **world) for _ in range(SEARCHES)), strict=True)))


def by_stepsize(stepsizes, whether):
    return np.array([whether[stepsizes == stepsize].mean() for stepsize in STEPSIZES])


def test_equal_curves_are_stopped_alike_whatever_the_cycle():
    stepsizes, _, stopped = searches(dip=0, spread=0, noise=0.1, slowness=20)
    for whether in (stopped == 10, stopped > 0):
        counts = by_stepsize(stepsizes, whether) * SEARCHES * EACH
        assert stats.chi2_contingency([counts, SEARCHES * EACH - counts]).pvalue > 0.05, counts
    # The k-th to come is of any rank among the k, and goes on if that is among the first ceil(k/3).
    going = np.array([math.ceil(k / 3) / k for k in range(1, EACH * len(STEPSIZES) + 1)])
    error = math.sqrt(np.sum(going * (1 - going)) * SEARCHES)
    assert abs(np.sum(stopped != 10) - going.sum() * SEARCHES) < 2 * error


@pytest.mark.parametrize("dip", [5, 20])
def test_curves_that_dip_in_mid_cycle_are_stopped_nearly_alike_and_no_more_than_others(dip):
    stepsizes, _, stopped = searches(dip=dip, spread=0, noise=0.5, slowness=20)
    for whether, most in ((stopped == 10, 0.64), (stopped > 0, 0.87)):
        shares = by_stepsize(stepsizes, whether)
        assert max(shares) - min(shares) < 0.07, shares
        assert max(shares) < most, shares


@pytest.mark.parametrize("dip", [0, 20])
def test_the_best_run_goes_on_and_the_worse_half_is_stopped_whatever_the_cycle(dip):
    stepsizes, good, stopped = searches(dip=dip, spread=3, noise=0.5, slowness=20)
    order = good.argsort(axis=1)
    assert np.mean(np.take_along_axis(stopped, order[:, -1:], axis=1) == 0) > 0.95
    worse = order[:, : order.shape[1] // 2]
    shares = by_stepsize(*(np.take_along_axis(found, worse, axis=1) for found in (stepsizes, stopped > 0)))
    assert min(shares) > 0.93, shares
