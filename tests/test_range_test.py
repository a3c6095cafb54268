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
from lrbs_core.store import Record
from lrbs_core.sweeping import load, pending, run, run_serially

ROWS = np.arange(1, 51) / 50  # the lr of 50 rows
LEVEL = np.ones(50)  # a loss that tells nothing
RISING = 10 + 60 * np.clip((ROWS - 0.2) / 0.5, 0, 1)  # chance up to lr 0.2, 70 % at 0.7
CORNERED = RISING - 60 * np.clip((ROWS - 0.7) / 0.2, 0, 1)  # and down from there
PLACES = np.arange(50)
GROWING = 0.5 + 2.5 * PLACES / 49  # noise in percent that grows with lr


def noisy(curve, sigma, seed):
    return curve + sigma * np.random.default_rng(seed).standard_normal(len(curve))


def learning(start, top, first, last):
    """An accuracy that rises in a line between two rows."""
    return start + (top - start) * np.clip((PLACES - first) / (last - first), 0, 1)


def read(curve, examples, noise, geometric, ramps=200):
    """The row of `high` (from 0, NaN for none) and the end of ramps of that truth, each counted on so many examples."""
    random = np.random.default_rng(7)
    lr = 1e-4 * 1.23**PLACES if geometric else ROWS
    rows, ends = [], []
    for accuracy in np.clip(curve + noise * random.standard_normal((ramps, 50)), 0, 100) / 100:
        try:
            bounds = find_bounds(lr, LEVEL, 100 * random.binomial(examples, accuracy) / examples)
        except ValueError:
            rows.append(math.nan)
            ends.append("none")
        else:
            rows.append(int(np.flatnonzero(lr == bounds.high)[0]))
            ends.append(bounds.end)
    return np.array(rows), np.array(ends)


# Noise of a row on the plateau: 2.8, 3.0 and 2.8 (4.0 for two classes on 300 examples) percent.
MEASURED = [(300, 1.0), (10_000, GROWING)]


def plateaus(start, top, decline):
    """By name the curve, and the row from which it rises no more: for a sigmoid that at 95 % of its rise."""
    sigmoid = start + (top - start) / (1 + np.exp((22 - PLACES) / 2))
    down = decline * np.clip(PLACES - 9, 0, None)
    fall = (top - start) * np.clip((PLACES - 35) / 7, 0, 1)
    return {
        "early": (learning(start, top, 5, 15), 15),
        "middle": (learning(start, top, 5, 20), 20),
        "sigmoid": (sigmoid, 22 + 2 * math.log(19)),
        "slow decline": (learning(start, top, 3, 9) - down, 9),
        "falls later": (learning(start, top, 5, 20) - fall, 20),
    }


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize(("examples", "noise"), MEASURED)
@pytest.mark.parametrize("top", [70, 95])
@pytest.mark.parametrize("name", plateaus(10, 70, 0.5))
def test_a_plateau_ends_the_range_where_it_begins(name, top, examples, noise, geometric):
    curve, truth = plateaus(10, top, 0.5)[name]
    rows, ends = read(curve, examples, noise, geometric)
    assert np.mean(np.abs(rows - truth) <= 3) >= 0.9
    assert np.mean(ends == "still learns") <= 0.05
    assert np.mean(ends == "levels off") >= 0.9


def test_a_plateau_of_the_last_quarter_is_told():
    rows, ends = read(learning(10, 70, 5, 38), 300, 1.0, geometric=False)
    assert np.mean(np.abs(rows - 38) <= 3) >= 0.9
    assert np.mean(ends == "still learns") <= 0.05


def rising(start, top):
    middle = (start + top) / 2
    return {
        "at once": learning(start, top, 0, 49),
        "later": learning(start, top, 10, 49),
        "at the end": learning(start, top, 35, 49),
        "sigmoid": start + (top - start) / (1 + np.exp((45 - PLACES) / 5)),
        "slower, but on": learning(start, middle, 5, 20) + learning(0, top - middle, 20, 49),
    }


@pytest.mark.parametrize(("examples", "noise"), MEASURED)
@pytest.mark.parametrize("top", [70, 95])
@pytest.mark.parametrize("name", rising(10, 70))
def test_a_curve_that_still_learns_has_no_plateau(name, top, examples, noise):
    rows, ends = read(rising(10, top)[name], examples, noise, geometric=True)
    assert np.mean(ends == "levels off") <= 0.1
    assert np.mean((ends == "still learns") & (rows == 49)) >= 0.9


@pytest.mark.parametrize(("examples", "noise"), MEASURED)
@pytest.mark.parametrize("top", [70, 95])
def test_a_fall_ends_the_range_where_it_begins(top, examples, noise):
    falling = learning(10, top, 5, 30) - (top - 10) * np.clip((PLACES - 30) / 5, 0, 1)
    rows, ends = read(falling, examples, noise, geometric=False)
    assert np.mean(np.abs(rows - 30) <= 3) >= 0.9
    assert np.mean(np.isin(ends, ["falls", "ragged"])) >= 0.9


@pytest.mark.parametrize(
    ("last", "examples", "noise", "within", "learns"),
    [
        (12, 300, 1.0, 0.95, 0.01),
        (20, 300, 1.0, 0.9, 0.01),
        # A row's noise is 14 to 20 % of the rise: the later the plateau, the fewer rows tell it.
        (30, 300, 1.0, 0.8, 0.05),
        (30, 300, GROWING, 0.65, 0.1),
        (30, 10_000, GROWING, 0.9, 0.05),
        (38, 300, 1.0, 0.4, 0.5),
    ],
)
def test_a_rise_on_two_classes_is_found_and_so_is_its_plateau(last, examples, noise, within, learns):
    rows, ends = read(learning(50, 70, 5, last), examples, noise, geometric=False)
    assert np.mean(ends == "none") <= 0.01
    assert np.mean(np.abs(rows - last) <= 3) >= within
    assert np.mean(ends == "still learns") <= learns


@pytest.mark.parametrize(("examples", "noise"), [*MEASURED, (300, GROWING)])
@pytest.mark.parametrize("name", ["at once", "later", "at the end"])
def test_a_curve_that_still_learns_two_classes_has_no_plateau(name, examples, noise):
    _, ends = read(rising(50, 70)[name], examples, noise, geometric=False)
    assert np.mean(ends == "levels off") <= 0.1
    assert np.mean(ends == "none") <= 0.05


def test_a_slow_decline_after_a_peak_at_018_ends_the_range_there():
    _, peak = plateaus(50, 70, 0.15)["slow decline"]
    assert ROWS[peak - 1] == 0.18
    for examples, noise in MEASURED:
        rows, _ = read(plateaus(50, 70, 0.15)["slow decline"][0], examples, noise, geometric=False)
        assert np.mean(np.abs(rows - peak) <= 3) >= 0.9


def chance(classes, examples, wanders, random):
    """Accuracy of a net that has learned nothing: guesses anew each row, or names one class for 1 to 15 rows."""
    if not wanders:
        return random.binomial(examples, 1 / classes, 50) / examples
    shares = random.multinomial(examples, np.full(classes, 1 / classes)) / examples
    return np.repeat(random.choice(shares, 50), random.integers(1, 16, 50))[:50]


@pytest.mark.parametrize("wanders", [False, True])
@pytest.mark.parametrize("examples", [60, 300, 10_000])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_of_400_ramps_at_chance_at_most_20_seem_to_rise(classes, examples, wanders):
    random, risen = np.random.default_rng(classes), 0
    for _ in range(400):
        accuracy = 100 * chance(classes, examples, wanders, random)
        try:
            find_bounds(ROWS, LEVEL, accuracy)
            risen += 1
        except ValueError:
            pass
    assert risen <= 20


@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("examples", [300, 10_000])
def test_the_interval_of_3_seeds_holds_the_truth(examples, noise):
    """At lr that lie between rows, a factor of 1.23 apart."""
    random, held, told = np.random.default_rng(3), np.zeros(2), 0
    lr = 1e-4 * (3e4 ** (1 / 50)) ** np.arange(1, 51)
    sweep = range_test.sweep(None, DIGITS, 1e-4, 3.0, epochs=4, seeds=3, geometric=True)
    for _ in range(100):
        corners = random.uniform((5, 18), (8, 30))
        accuracy = np.clip(np.interp(PLACES, corners, (10, 70)) + noise * random.standard_normal((3, 50)), 0, 100)
        curves = 100 * random.binomial(examples, accuracy / 100) / examples
        pairs = [
            (
                spec,
                Record(
                    spec.key,
                    "finished",
                    "",
                    [row_of(n, a) | {"lr": x} for n, (a, x) in enumerate(zip(c, lr, strict=True))],
                ),
            )
            for spec, c in zip(sweep.runs, curves, strict=True)
        ]
        document = documents.range_document(sweep, pairs)
        truth = np.exp(np.interp(corners, PLACES, np.log(lr)))
        told += document["policy"] is not None
        for place, name in enumerate(("low", "high")):
            if document[f"{name}_found"]:
                held[place] += document[name]["low"] <= truth[place] <= document[name]["high"]
    assert told >= 95
    assert held.min() >= 93


# Test accuracy of Caffe's CIFAR-10 net, whose lr rose in a line to 0.02 in 4 epochs at batch 100: 3 seeds.
CAFFE = (
    (
        12.8, 18.28, 25.94, 23.73, 34.11, 36.43, 38.07, 35.82, 39.76, 40.34, 38.72, 44.3, 45.24, 44.09,
        42.48, 43.85, 47.85, 44.82, 44.02, 48.58, 45.94, 45.61, 47.78, 34.97, 43.74, 43.01, 45.08, 48.26,
        45.52, 45.55, 49.21, 47.27, 47.7, 46.01, 45.72, 43.11, 39.75, 41.85, 38.82, 36.65, 40.41, 47.57,
        40.53, 43.13, 42.97, 45.03, 43.27, 38.27, 43.57, 34.36,
    ),
    (
        18.45, 11.37, 24.23, 26.71, 30.93, 31.89, 35.04, 35.41, 38.23, 40.55, 38.49, 41.67, 43.81, 43.62,
        42.92, 43.01, 40.12, 45.33, 45.04, 46.51, 42.01, 42.67, 47.07, 47.16, 41.61, 46.41, 42.79, 48.93,
        45.39, 45.84, 45.25, 44.48, 44.95, 44.91, 46.53, 49.81, 42.24, 46.76, 40.94, 40.37, 41.72, 42.81,
        37.28, 45.3, 42.66, 45.16, 39.29, 41.94, 34.17, 21.2,
    ),
    (
        10.68, 13.82, 22.71, 25.4, 29.53, 32.37, 37.14, 37.93, 38.7, 42.06, 42.06, 40.93, 41.15, 44.63,
        40.7, 42.45, 42.77, 41.34, 46.0, 48.28, 41.37, 43.99, 45.2, 49.24, 44.84, 44.8, 44.47, 47.38, 46.22,
        46.34, 46.54, 40.32, 39.86, 48.28, 50.09, 47.78, 42.68, 43.97, 45.84, 46.33, 47.66, 39.32, 43.6,
        43.16, 49.29, 41.57, 44.31, 45.03, 43.84, 38.0,
    ),
)  # fmt: skip


@pytest.mark.parametrize("accuracy", CAFFE)
def test_high_of_a_real_net_is_near_the_one_that_the_paper_took(accuracy):
    bounds = find_bounds(0.0004 * (1 + PLACES), LEVEL, accuracy)
    # L. N. Smith (section 3.3) takes 0.006 off this net's curve; it learns from the first rows on.
    assert 0.004 <= bounds.high <= 0.007
    assert (bounds.low_found, bounds.end) == (False, "levels off")


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
