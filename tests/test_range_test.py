import dataclasses
import math
from functools import partial

import numpy as np
import pytest
from made import MACHINE, made_row, made_run, made_spec
from scipy.ndimage import median_filter

from lrbs_core import Constant, Policy, RunSpec, documents, range_test
from lrbs_core.journal import Reader, RunFolder
from lrbs_core.range_test import find_bounds, is_lost, smoothed, until_lost
from lrbs_core.sweeping import load, pending, run, run_serially

ROWS = np.arange(1, 51) / 50  # the lr of 50 rows
LEVEL = np.ones(50)  # a loss that tells nothing
RISING = 10 + 60 * np.clip((ROWS - 0.2) / 0.5, 0, 1)  # chance up to lr 0.2, 70 % at 0.7
CORNERED = RISING - 60 * np.clip((ROWS - 0.7) / 0.2, 0, 1)  # and down from there
PLACES = np.arange(50)


def noisy(curve, sigma, seed):
    return curve + sigma * np.random.default_rng(seed).standard_normal(len(curve))


def learning(start, top, first, last):
    """An accuracy that rises in a line between two rows."""
    return start + (top - start) * np.clip((PLACES - first) / (last - first), 0, 1)


@pytest.mark.parametrize("seed", range(10))
def test_bounds_lie_at_the_curves_corners(seed):
    bounds = find_bounds(ROWS, LEVEL, noisy(CORNERED, 1, seed))
    assert bounds.low == pytest.approx(0.20, abs=0.021)
    assert bounds.high == pytest.approx(0.70, abs=0.021)
    assert bounds[2:] == (True, True, "falls")


@pytest.mark.parametrize("seed", range(10))
def test_high_is_where_the_accuracy_turns_ragged_though_its_median_rises(seed):
    curve = noisy(learning(10, 70, 10, 49), 1, seed) + np.where(ROWS > 0.7, noisy(0 * ROWS, 15, seed + 100), 0)
    bounds = find_bounds(ROWS, LEVEL, curve)
    # A window holds rows up to two ahead of its own; ragged rows of chance may look calm for a few.
    assert 0.62 <= bounds.high <= 0.82
    assert bounds.end in ("ragged", "falls")


def test_a_ramp_that_still_learns_has_no_high_and_one_that_learns_at_once_no_low():
    at_once = find_bounds(ROWS, LEVEL, noisy(learning(10, 70, 0, 5), 0.5, 1))
    assert (at_once.low_found, at_once.high, at_once.end) == (False, ROWS[5], "levels off")
    late = find_bounds(ROWS, LEVEL, learning(10, 70, 10, 49))
    assert (late.low_found, late.high, late.high_found, late.end) == (True, 1.0, False, "still learns")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sigma", [0, 1])
def test_chance_has_no_bounds(sigma, seed):
    with pytest.raises(ValueError, match=r"accuracy must rise within the ramp, .* from lr=0.02 to 1: widen it"):
        find_bounds(ROWS, LEVEL, noisy(np.full(50, 10.0), sigma, seed))


@pytest.mark.parametrize("loss", [[math.nan], [2.3, math.inf], [2.3] * 5 + [1e3] * 10, [2.3, 2.3, 2.4, math.inf]])
def test_divergence_before_any_rise_is_said(loss):
    with pytest.raises(ValueError, match=r"before training diverges, but it diverged by lr=.*: lower the ramp"):
        find_bounds(ROWS[: len(loss)], loss, [10.0] * len(loss))


def test_divergence_ends_the_range_whatever_the_accuracy_does():
    loss = np.where(ROWS < 0.61, 2 - ROWS, 50.0)
    rising = learning(10, 70, 10, 49)
    assert find_bounds(ROWS, loss, rising)[1:] == (0.6, True, True, "diverges")
    # A loss that has become small may grow by any factor below where it started.
    assert find_bounds(ROWS, np.where(ROWS < 0.61, 0.01, 1.0) + (ROWS < 0.1), rising).end == "still learns"


def test_a_run_whose_last_row_is_not_finite_ends_before_it():
    rows = [
        made_row(n) | {"lr": n / 10, "train_loss": 2.0, "test_loss": 2.0, "test_accuracy": a}
        for n, a in enumerate([10, 10, 10, 10, 10, 20, 30, 40, 50, 60, 70, 80, 10], start=1)
    ]
    rows[-1] |= {"test_loss": math.nan}
    assert range_test.bounds_of(rows) == (0.5, 1.2, True, True, "diverges")


@pytest.mark.parametrize("unit", [1e-3, 7.0])
def test_bounds_scale_with_the_lr(unit):
    curve = noisy(CORNERED, 2, 1)
    bounds, other = find_bounds(ROWS, LEVEL, curve), find_bounds(unit * ROWS, LEVEL, curve)
    assert other[:2] == pytest.approx((unit * bounds.low, unit * bounds.high))
    assert other[2:] == bounds[2:]


def test_smoothed_is_the_running_median():
    curve = noisy(CORNERED, 5, 3)
    np.testing.assert_array_equal(smoothed(curve)[2:-2], median_filter(curve, 5)[2:-2])
    np.testing.assert_array_equal(smoothed(np.sort(curve))[2:-2], np.sort(curve)[2:-2])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("curvature", [0.5, 20.0])
def test_high_of_quadratics_is_the_largest_stable_lr_of_the_steepest(curvature, momentum, seed):
    """Heavy ball on curvature h is stable up to lr = 2 (1 + m)/h, above which its loss grows by a factor an update.

    What has come below half of its start counts as learned: of curvatures from h/1000 to h more with every row.
    """
    stable, random = 2 * (1 + momentum) / curvature, np.random.default_rng(seed)
    lr = stable * np.geomspace(1e-4, 2.5, 2500)
    h = np.geomspace(1e-3, 1, 300) * curvature * (1 - momentum)
    h[-1] = curvature
    w, velocity, losses, learned = np.ones(300), np.zeros(300), [], []
    for rate in lr:
        velocity = momentum * velocity + h * (w + 0.002 * random.standard_normal(300))
        w = w - rate * velocity
        losses.append(np.mean(h * w**2 / 2))
        learned.append(100 * np.mean(np.abs(w) < 0.5))
    rows, factor = lr[49::50], 25_000 ** (1 / 49)
    bounds = find_bounds(rows, np.reshape(losses, (50, 50)).mean(axis=1), learned[49::50])
    assert bounds.end == "diverges"
    assert stable / factor**2 < bounds.high < stable * factor**2


def row_of(number, accuracy, loss=1.0):
    return made_row(number, accuracy) | {"lr": number / 50, "train_loss": loss, "test_loss": loss}


COLLAPSING = [row_of(n, accuracy) for n, accuracy in enumerate(CORNERED.tolist(), start=1)]
EXPLODING = [row_of(n, min(5.0 * n, 50), loss) for n, loss in enumerate([2.0] * 10 + [1.0] * 10 + [30.0] * 10, start=1)]


def ramp(rows, end="finished"):
    def train(spec, checkpoint, journalled):
        yield from rows
        return end

    return train


@pytest.mark.parametrize(("rows", "last"), [(COLLAPSING, 47), (EXPLODING, 23)])
def test_a_lost_ramp_ends_as_stopped_and_its_bounds_are_those_of_the_whole(rows, last, tmp_path):
    folder = RunFolder.create(tmp_path, "made", made_spec())
    assert len(list(run(folder, until_lost(ramp(rows))))) == last
    reader = Reader(folder.journal_path).poll()
    assert (reader.status, pending([folder])) == ("stopped", [])
    assert list(run(folder, until_lost(ramp(rows)))) == []
    assert range_test.bounds_of(reader.rows) == range_test.bounds_of(rows)
    assert [is_lost(rows[:n]) for n in range(last + 1)] == [False] * last + [True]


@pytest.mark.parametrize("end", ["finished", "diverged"])
def test_a_ramp_that_is_not_lost_ends_as_training_does(end, tmp_path):
    rows = [*COLLAPSING[:30], row_of(31, 10.0, math.nan)]
    folder = RunFolder.create(tmp_path, "made", made_spec())
    assert len(list(run(folder, until_lost(ramp(rows, end))))) == 31
    assert Reader(folder.journal_path).poll().status == end


@pytest.mark.parametrize("killed_at", [1, 2, 20, 46, 47])
def test_a_killed_ramp_goes_on_to_the_same_end(killed_at, tmp_path):
    folder = made_run(tmp_path, made_spec(), COLLAPSING[:killed_at], status="running")
    list(run(folder, until_lost(ramp(COLLAPSING))))
    reader = Reader(folder.journal_path).poll()
    assert (reader.status, reader.rows) == ("stopped", COLLAPSING[:47])


DIGITS = {
    "dataset": "digits", "model": "convnet", "optimizer": "sgd", "weight_decay": 5e-4, "ghost_size": 8,
    "augmentation": "none", "normalization": "channel", "batch_size": 8, "momentum": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("geometric", [False, True])
def test_lr_rises_at_every_update_of_a_ramp_and_the_batch_stays(geometric):
    sweep = range_test.sweep(None, DIGITS, 0.01, 1.0, epochs=2, seeds=3, geometric=geometric)
    assert (sweep.name, [spec.seed for spec in sweep.runs]) == ("convnet-digits-range-test", [0, 1, 2])
    settings = [update.setting for update in sweep.runs[0].walk()]
    lr = np.array([setting.lr for setting in settings])
    assert {(setting.batch_size, setting.momentum) for setting in settings} == {(8, 0.9)}
    changes = lr[1:] / lr[:-1] if geometric else np.diff(lr)
    assert changes == pytest.approx(np.full(len(lr) - 1, changes[0]))
    step = 100 ** (1 / len(lr)) if geometric else 0.99 / len(lr)
    assert (lr[0], changes[0]) == pytest.approx((0.01, step), rel=5e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low": 1.0, "high": 1.0}, "0 <= low < high must hold, but got low=1, high=1"),
        ({"low": -0.1}, "0 <= low < high"),
        ({"low": 0.0, "geometric": True}, "0 < low < high must hold, but got low=0, high=1"),
        ({"high": math.inf}, "got low=0.1, high=inf"),
        ({"epochs": 0.0}, "epochs > 0 must hold, but got epochs=0"),
        ({"epochs": 0.25}, "a ramp must have at least 50 updates, but got 45: take more --epochs or a smaller"),
        ({"batch_size": 7}, "ghost_size <= batch_size"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(change, says):
    arguments = {"low": 0.1, "high": 1.0, "epochs": 4.0, "seeds": 1} | change
    settings = DIGITS | {"batch_size": arguments.pop("batch_size", 8)}
    with pytest.raises(ValueError, match=says):
        range_test.sweep(None, settings, **arguments)


NOTHING = dict.fromkeys(DIGITS)


def test_settings_are_the_policys_at_epoch_0_unless_given(pytestconfig, tmp_path):
    quickstart = load(pytestconfig.rootpath / "sweeps/quickstart.py")
    taken = range_test.settings(quickstart, None, NOTHING, tmp_path)
    assert DIGITS.items() <= taken.items()
    large = range_test.settings(quickstart, "increased lr + batch", NOTHING | {"momentum": 0.5}, tmp_path)
    assert {name for name in taken if taken[name] != large[name]} == {"batch_size", "momentum"}
    assert (large["batch_size"], large["momentum"]) == (32, 0.5)
    with pytest.raises(ValueError, match=r"policy must be one of 'decaying lr', .* but got 'growing'"):
        range_test.settings(quickstart, "growing", NOTHING, tmp_path)


def test_settings_without_a_sweep_must_all_be_given(tmp_path):
    assert range_test.settings(None, None, DIGITS, tmp_path).items() >= DIGITS.items()
    missing = DIGITS | {"weight_decay": None, "model": None, "ghost_size": None}
    with pytest.raises(ValueError, match=r"must be told all of what it trains: --model, --weight-decay missing"):
        range_test.settings(None, None, missing, tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        range_test.settings(None, None, DIGITS | {"dataset": "imagefolder:a"}, tmp_path)


@pytest.mark.slow
def test_on_the_digits_a_cycle_within_the_bounds_learns_and_an_lr_far_above_does_not(tmp_path):
    from lrbs_core.training import train

    by_machine = partial(train, machine=MACHINE)
    sweep = range_test.sweep(None, DIGITS, 1e-4, 3.0, epochs=3, seeds=2, geometric=True)
    folders = [RunFolder.create(tmp_path, sweep.name, spec) for spec in sweep.runs]
    run_serially(folders, until_lost(by_machine))
    found = documents.range_document(sweep, [(f.spec, Reader(f.journal_path).poll()) for f in folders])
    assert found["low_found"]
    assert found["high_found"]

    def accuracy(policy: Policy) -> float:
        long = dataclasses.replace(sweep.runs[0], epochs=8.0, evaluate_every_epochs=8.0)
        spec = RunSpec.from_dict(long.to_dict() | {"policy": policy.to_dict()})
        return list(by_machine(spec, tmp_path / f"{spec.key}.pt", ()))[-1]["test_accuracy"]

    cycle = Policy.from_dict(found["policy"])
    assert accuracy(cycle) > 90
    assert accuracy(dataclasses.replace(cycle, lr=Constant(30 * found["high"]["mean"]))) < 60


def test_a_ramp_without_rows_has_no_bounds():
    with pytest.raises(ValueError, match="a ramp must have rows"):
        find_bounds([], [], [])
